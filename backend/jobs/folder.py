"""A job's folder: its name, its making, and the record of what happened in it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import backend
from backend.errors import DiskError, InputError
from backend.files import disk_errors
from dreamflow_blender.contract.files import open_plain, read_plain
from dreamflow_blender.contract.jobfolder import RESERVED, JobFolder, slug
from dreamflow_blender.contract.locks import hold, remove
from dreamflow_blender.contract.protocol import (
    MAX_PROMPT,
    STAGES,
    BadMessage,
    Event,
    Finished,
    Job,
    Resume,
    clean_text,
    encode,
)

BLOCK = 1 << 16  # bytes that are read at a time
DEEPEST = 200  # folders above each other: pathlib makes and looks at them one in the other, and gives up
_NOT_IN_NAMES = set('<>:"|?*\\/')  # on Windows; control characters besides


def clean_prompt(text: str) -> str:
    """What was typed as one line; raises InputError if it is empty or too long."""
    prompt = clean_text(text)
    if not prompt:
        raise InputError("The prompt is empty.", 'Say what to make, as in "a red mug".')
    if len(prompt) > MAX_PROMPT:
        raise InputError(
            f"The prompt is too long: expected at most {MAX_PROMPT:,} characters, got {len(prompt):,}.",
            "Say it in a few words: a text encoder reads about 75 at once.",
        )
    return prompt


def default_folder(prompt: str, seed: int, root: Path, kind: str = "generate") -> Path:
    """Where this job goes if nothing else was said: root/SLUG-SEED, or root/SLUG-SEED-refined."""
    return root / f"{slug(prompt)}-{seed}{'-refined' if kind == 'refine' else ''}"


def unfit_name(name: str) -> str | None:
    """Why not every system can have a folder of this name; None where it can."""
    if name.split(".")[0].strip().lower() in RESERVED:
        return "Windows keeps this name for a device"
    if any(c in _NOT_IN_NAMES or ord(c) < 32 or ord(c) == 127 for c in name):
        return f"folder names take no line breaks and none of {' '.join(sorted(_NOT_IN_NAMES))}"
    if name != ".." and name[-1:] in (".", " "):
        return "Windows drops the dot or space at its end"
    return None


def check_names(folder: Path) -> None:
    """InputError where another system cannot have the folder, or one above it that is still to be made.

    Jobs travel. What lies above and exists already is the user's own affair, except on Windows.
    """
    if len(folder.parts) > DEEPEST:
        raise InputError(
            f"The job's folder lies {len(folder.parts):,} folders deep, expected at most {DEEPEST}.",
            "Choose another folder with --out.",
        )
    for path in (folder, *folder.parents):
        unfit = unfit_name(path.name) if path.name else None
        if unfit and (path == folder or os.name == "nt" or not path.exists()):
            raise InputError(
                f"{path.name!r} cannot be a job's folder on every system: {unfit}.",
                "Choose another folder with --out.",
            )


def claim_folder(folder: Path, overwrite: bool = False, mesh: str = "") -> list[Path]:
    """Makes the folder, with its parents, and sees that it can be written; removes nothing.

    mesh  the file that the job begins with, which may lie in the folder
    Returns the folders that it made, the innermost first, for `release`. Raises DiskError, and InputError
    if another job (unless `overwrite`) or anything else is in it, or if its name will not do.
    """
    made: list[Path] = []
    try:
        with disk_errors(folder):
            check_names(folder)
            check_free(folder, overwrite, mesh)
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".probe"
            probe.unlink(missing_ok=True)  # of a process that was killed
            try:
                with open_plain(probe, "w") as file:  # another process may be looking just now
                    file.write(b"a byte that a full disk has no place for")
            finally:
                with suppress(OSError):  # never made: that error is on its way already
                    probe.unlink()
    except DiskError:
        release(made)
        raise
    return made


def release(made: list[Path]) -> None:
    """Removes the folders that claim_folder made, as long as they are empty."""
    for path in made:
        with suppress(OSError):  # not empty, or never made
            path.rmdir()


def check_free(folder: Path, overwrite: bool, mesh: str) -> None:
    """InputError where a job may not begin in this folder: as for claim_folder."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder.", "Choose another folder with --out.")
    there = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    names = JobFolder(folder)
    _check_not_in(names, mesh)
    there = [name for name in there if folder / name != Path(mesh)]
    if not set(there) - {
        names.lock.name,
        names.log.name,
        ".probe",
    }:  # of a job that was killed before it began
        return
    if there and not {names.job.name, names.events.name} & set(there):
        raise InputError(
            f"{folder} is not empty and holds no job: {', '.join(there[:3])}.",
            "Choose a new or empty folder with --out.",
        )
    if there and not overwrite:
        raise InputError(
            f"{folder} already holds a job.", "Choose another folder with --out, or add --overwrite."
        )


def _check_not_in(files: JobFolder, mesh: str) -> None:
    """InputError where the job would remove or replace the file that it begins with, by whatever path."""
    kept = {path.name for path in files.object_files}  # replaced by its own content
    for path in (Path(mesh).absolute(), Path(mesh).resolve()) if mesh else ():
        roots = {files.path.absolute(), files.path.resolve()} & set(path.parents)
        if roots and (path.parent not in roots or (files.writes(path.name) and path.name not in kept)):
            raise InputError(
                f"{mesh} lies in {files.path}, where this job would replace it.",
                "Choose another folder with --out.",
            )


def clear_folder(folder: Path) -> None:
    """Removes what an older job wrote, but for what the new one has replaced (see write_job); raises DiskError."""
    files = JobFolder(folder)
    with disk_errors(folder):
        for path in files.old_files():
            path.unlink(missing_ok=True)
        if files.checkpoints.is_dir():
            shutil.rmtree(files.checkpoints)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the job's lock for a block. Raises DiskError, and InputError where another process runs this job."""
    path = JobFolder(folder).lock
    with disk_errors(path):
        file = hold(path, seconds=0.5)  # a process that only looks whether it is held has it for a moment
        if file is None:
            holder = read_plain(path).decode(errors="replace")[:20]
            raise InputError(
                f"Another process (number {holder}) is running the job in {folder}.",
                "Wait for it, or stop it first.",
            )
    try:
        with disk_errors(path):
            file.truncate(0)
            file.write(b"%d" % os.getpid())
            file.flush()
        yield
    finally:
        remove(file)


class EventLog:
    """events.jsonl of a folder, a line an event, on the disk at once and whole; raises DiskError."""

    def __init__(self, folder: Path) -> None:
        self._path = JobFolder(folder).events
        with disk_errors(self._path):
            self._file = open_plain(self._path, "a", 0)
            self._file.truncate(_whole_lines(self._path))

    def write(self, event: Event) -> None:
        line = memoryview((encode(event) + "\n").encode("ascii"))
        with disk_errors(self._path):
            whole = os.fstat(self._file.fileno()).st_size  # the position may lie beyond it
            try:
                while line:  # a disk that fills up takes a part
                    line = line[self._file.write(line) :]
            except OSError:
                self._file.truncate(whole)
                raise

    def close(self) -> None:
        with suppress(OSError):  # whatever could not be written has been said by write
            self._file.close()


def _whole_lines(path: Path) -> int:
    """The size of a file without its last line, where a crash has torn that."""
    with open_plain(path, "r") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            if found := file.read(end - start).rfind(b"\n") + 1:
                return start + found
            end = start
    return 0


def job_so_far(job: Job) -> Resume | Finished | None:
    """What --continue goes on with in the job's folder; None where nothing has begun there yet.

    Raises InputError where another job is in it, and DiskError.
    """
    files = JobFolder(job.folder)
    if not os.path.lexists(files.job):
        return None
    there = read_job(files.path)
    asked = job
    # a plain grey object's is made from nothing first
    if job.kind == "refine" and there.stages == STAGES[2:]:
        asked = replace(job, stages=there.stages)
    if not there.is_same(asked):
        raise InputError(
            f"{files.path} holds another job: {there.prompt!r}, or the same with other settings.",
            "Choose another folder with --out, or leave --continue out and add --overwrite.",
        )
    last = files.last_event()
    return replace(last, paths=files.result_files()) if isinstance(last, Finished) else Resume(job.folder)


def read_job(folder: Path) -> Job:
    """The job of this folder, wherever the folder has been moved to. Raises InputError and DiskError."""
    files = JobFolder(folder)
    path = files.job
    with disk_errors(path):
        try:
            return files.read_job()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"{folder} holds no job: there is no {path.name} in it.", "Give a job's folder."
            ) from error
        except BadMessage as error:
            raise InputError(f"{path} describes no job ({error}).", "Generate the object again.") from error


def versions() -> dict[str, str]:
    """Of everything that can change a result."""
    found = {"dreamflow": backend.__version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "diffusers", "transformers", "peft", "warp-lang", "xatlas"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
