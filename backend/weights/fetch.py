"""Brings a model's files from the hub to this machine, whole or not at all.

Why not huggingface_hub's own downloader (2.4.0, as pinned): it throws a partial file away when its process ends,
so a cut at 4 GB starts from zero; it compares sizes but never hashes; its bars and warnings go where they like.
So it lends us its settings (hub.py), and the rest is here. What the hub keeps in its chunk store (Xet) comes
over its plain HTTP bridge.

A file grows under a name that holds its hash and gets its own name when its size, its hash (sha256, or git's for
small files) and its format are right; `fetched.json` comes last. One process at a time works on a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from filelock import FileLock, Timeout
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open

from backend.errors import DiskError, ModelError
from backend.weights.hub import (
    Passing,
    RemoteFile,
    chunks,
    file_url,
    list_files,
    open_session,
    pause_after,
    send,
)
from backend.weights.sources import (
    ACCEPTED,
    RECORD,
    Hub,
    Model,
    Record,
    Refused,
    files_used,
    home_of,
    is_fetched,
    models_file,
    read_record,
    tokenizer_problem,
)

SPARE = 16 << 20  # bytes to leave free on the disk


@dataclass(frozen=True)
class Plan:
    """What one fetch will do: these files of this commit, into this folder."""

    model: Model
    source: Hub
    commit: str
    files: tuple[RemoteFile, ...]
    folder: Path

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def here(self, file: RemoteFile) -> int:
        """Bytes of a file that need not be fetched any more."""
        for path in (self.folder / file.path, self.part(file)):
            if path.is_file() and path.stat().st_size <= file.size:
                return path.stat().st_size
        return 0

    def part(self, file: RemoteFile) -> Path:
        """The name that a file grows under."""
        return self.folder / f"{file.path}.{file.digest[:16]}.part"


@dataclass(frozen=True)
class Progress:
    """`done` of `total` bytes of the whole model are here; `file` is at work; `note` says why nothing moves."""

    file: str
    done: int
    total: int
    note: str = ""


class _Wrong(Exception):
    """What came is not what the hub lists."""


def make_plan(model: Model) -> Plan:
    """Ask the sources in order what they offer. Raises ModelError when none of them gives the model."""
    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"{model.title} is not whole on this machine, and offline mode is on.",
            "Unset HF_HUB_OFFLINE to fetch it, or give a folder in diffusers' layout.",
        )
    reasons = []
    with open_session() as session:
        for source in model.sources:
            if isinstance(source, Path):
                reasons.append(f"{source}: there is no model_index.json")
                continue
            try:
                commit, listed = list_files(session, source)
                files = tuple(_given(listed, name) for name in files_used(model, listed))
                return Plan(model, source, commit, files, home_of(source))
            except Refused as error:
                reasons.append(f"{source}: {error.message}")
    raise ModelError(
        f"No source gives {model.title} ({'; '.join(reasons)}).",
        f"Check HF_TOKEN, name another source in {models_file()}, or give a folder in diffusers' layout.",
    )


def _given(listed: dict[str, RemoteFile | None], name: str) -> RemoteFile:
    file = listed[name]
    if file is None or not name.endswith(ACCEPTED):
        raise Refused(f"it gives no size and hash of {name}", "Use another source.")
    return file


def fetch(plan: Plan) -> Generator[Progress, None, None]:
    """Fetch what is missing. May be stopped and repeated at any time. Raises ModelError or DiskError."""
    with _disk(plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(plan.folder / "fetch.lock", thread_local=False)
    yield from _wait_for(lock, plan)
    try:
        record = read_record(plan.folder)  # now, because another process may have been at it
        if record is None or record.commit != plan.commit or not is_fetched(plan.model, plan.source):
            yield from _fetch_files(plan)
    finally:
        lock.release()
    yield Progress("", plan.total, plan.total)


def verify(folder: Path) -> Iterator[tuple[str, str]]:
    """Every recorded file and what is wrong with it, "" if nothing. Weights without a record: their headers."""
    record = read_record(folder)
    if record is None:
        for path in sorted(folder.rglob("*.safetensors")):
            yield path.relative_to(folder).as_posix(), _format_problem(path)
        return
    for name, size in record.sizes.items():
        path = folder / name
        if not path.is_file():
            yield name, "is missing"
        elif path.stat().st_size != size:
            yield name, f"has {path.stat().st_size:,} bytes, expected {size:,}"
        elif _sha256(path) != record.sha256[name]:
            yield name, "has another sha256 than when it was fetched"
        else:
            yield name, _format_problem(path)


def _wait_for(lock: FileLock, plan: Plan) -> Generator[Progress, None, None]:
    while True:
        try:
            with _disk(plan.folder):
                lock.acquire(timeout=0.5)
            return
        except Timeout:
            yield Progress("", 0, plan.total, "another process is fetching this model; waiting for it")


def _fetch_files(plan: Plan) -> Generator[Progress, None, None]:
    with _disk(plan.folder):
        needed = plan.total - sum(plan.here(file) for file in plan.files)
        free = shutil.disk_usage(plan.folder).free
    if needed and free < needed + SPARE:
        raise DiskError(
            f"{plan.model.title} needs {needed / 1e9:.2f} GB more, {plan.folder} has {free / 1e9:.2f} GB free.",
            "Free some space, or set HF_HOME to a folder on another disk.",
        )
    with _disk(plan.folder):
        (plan.folder / RECORD).unlink(missing_ok=True)  # incomplete until the new one comes
    done = 0
    sums = {}
    unread = True
    with open_session() as session:
        for file in plan.files:  # the small ones come first
            if unread and file.path.endswith(".safetensors"):
                _refuse_wrong_tokenizer(plan)
                unread = False
            path = plan.folder / file.path
            if not path.is_file() or _difference(path, file):
                yield from _fetch_file(session, plan, file, done)
            done += file.size
            yield Progress(file.path, done, plan.total)
            sums[file.path] = file.sha256 or _sha256(path)
    with _disk(plan.folder):
        for left in plan.folder.rglob("*.part"):  # of files that have changed at the source since
            left.unlink()
    sizes = {file.path: file.size for file in plan.files}
    Record(plan.source.id, plan.source.revision, plan.commit, sizes, sums).write(plan.folder)


def _refuse_wrong_tokenizer(plan: Plan) -> None:
    """Before gigabytes are fetched that could not be used."""
    if problem := tokenizer_problem(plan.model, plan.folder):
        raise ModelError(
            f"{plan.source} cannot be used: {problem}.", f"Name another source in {models_file()}."
        )


def _fetch_file(
    session: requests.Session, plan: Plan, file: RemoteFile, before: int
) -> Generator[Progress, None, None]:
    """One file under its own name. Wrong bytes are thrown away and fetched once more, a cut goes on where it was."""
    part = plan.part(file)
    with _disk(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    failures, best, wrong = 0, _length(part), 0
    while True:
        try:
            yield from _fetch_rest(session, plan, file, before)
            if problem := _difference(part, file):
                raise _Wrong(problem)
            break
        except Passing as failure:
            failures = failures + 1 if _length(part) <= best else 1
            best = max(best, _length(part))
            pause = pause_after(failure, failures)
            note = f"{failure}; trying again in {pause:.0f} s"
            yield Progress(file.path, before + _length(part), plan.total, note)
            time.sleep(pause)
        except _Wrong as error:
            with _disk(part):
                part.unlink(missing_ok=True)
            wrong += 1
            if wrong > 1:
                raise ModelError(
                    f"{plan.source}: {file.path} {error}, twice. Nothing of it was kept.",
                    f"Try again later, or name another source in {models_file()}.",
                ) from error
            yield Progress(file.path, before, plan.total, f"{file.path} {error}; fetching it once more")
    if problem := _format_problem(part, file.path):
        with _disk(part):
            part.unlink()
        raise ModelError(
            f"{plan.source}: {file.path} {problem}. Nothing of it was kept.", "Use another source."
        )
    with _disk(part):
        with part.open("rb+") as whole:
            os.fsync(whole.fileno())
        part.replace(plan.folder / file.path)


def _fetch_rest(
    session: requests.Session, plan: Plan, file: RemoteFile, before: int
) -> Generator[Progress, None, None]:
    """Append to the part what it lacks. Raises Passing where the connection ends early, _Wrong on odd answers."""
    part = plan.part(file)
    start = _length(part)
    if start >= file.size:
        return  # too long a part is found by its difference
    url = file_url(plan.source, plan.commit, file.path)
    try:
        response = send(session, url, {"Range": f"bytes={start}-"} if start else {})
    except Refused as error:
        raise ModelError(
            f"{plan.source}: {file.path} could not be fetched, {error.message}.", error.todo
        ) from error
    with response:
        if response.status_code == 200:
            start = 0  # no part on offer, so the whole once more
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise _Wrong(f"came from another place ({response.headers.get('Content-Range')}) than asked")
        length = response.headers.get("Content-Length", "")
        if (
            length.isdecimal()
            and "Content-Encoding" not in response.headers
            and start + int(length) != file.size
        ):
            raise _Wrong(f"has {start + int(length):,} bytes, the hub lists {file.size:,}")
        with _disk(part):
            out = part.open("ab" if start else "wb")
        try:
            for chunk in chunks(response):
                start += len(chunk)
                if start > file.size:
                    raise _Wrong(f"has more than the {file.size:,} bytes that the hub lists")
                with _disk(part):
                    out.write(chunk)
                yield Progress(file.path, before + start, plan.total)
        finally:
            with _disk(part):
                out.close()
    if start < file.size:
        raise Passing("the connection was cut")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _difference(path: Path, file: RemoteFile) -> str:
    """What differs from the hub's listing, "" if nothing. Reads what lies on the disk, not what went there."""
    size = _length(path)
    if size != file.size:
        return f"has {size:,} bytes, the hub lists {file.size:,}"
    if file.sha256 is not None:
        return "" if _sha256(path) == file.sha256 else "has another sha256 than the hub lists"
    blob = hashlib.sha1(b"blob %d\0" % size + path.read_bytes(), usedforsecurity=False)
    return "" if blob.hexdigest() == file.git else "has another hash than the hub lists"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _format_problem(path: Path, name: str = "") -> str:
    """What keeps a file from being what its name says, "" if nothing. A pickle under another name ends here."""
    suffix = Path(name or path.name).suffix
    try:
        if suffix == ".safetensors":
            with safe_open(path, "np"):
                pass
        elif suffix == ".json":
            json.loads(path.read_text("utf-8"))
        else:
            path.read_text("utf-8")
    except (SafetensorError, ValueError) as error:
        return f"is not {'text' if suffix == '.txt' else suffix[1:]} ({error})"
    return ""


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turns an OSError on `path` into a DiskError."""
    try:
        yield
    except Timeout:  # the lock's, which is an OSError too
        raise
    except OSError as error:
        raise DiskError(
            f"{path} could not be written: {error.strerror or error}.",
            "Free some space, or set HF_HOME to a folder of your own on another disk. What has been fetched is kept.",
        ) from error
