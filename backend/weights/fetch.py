"""Brings a model's files from the hub to this machine, whole or not at all.

huggingface_hub carries the bytes (transport.py). Its own downloader throws a partial file away when its process ends
and never compares a hash, so that is here: a file grows under a name that holds its hash and gets its own name when
its size, its hash (sha256, or git's for small files) and its format are right; `fetched.json` comes last. One process
at a time works on a folder. What the hub keeps in its chunk store (Xet) comes over its plain HTTP bridge.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from huggingface_hub import constants
from safetensors import SafetensorError, safe_open

from backend.errors import DiskError, ModelError
from backend.weights.catalogue import Hub, Model
from backend.weights.sources import (
    ACCEPTED,
    LARGEST,
    RECORD,
    Record,
    Refused,
    files_used,
    home_of,
    is_fetched,
    is_safe,
    models_file,
    read_record,
    tokenizer_problem,
)
from backend.weights.transport import Passing, open_transport, pause_after, read_text, transfer
from dreamflow_blender.contract.locks import take
from dreamflow_blender.contract.words import hide

SPARE = 16 << 20  # bytes to leave free on the disk
# the most that a list of files may take; the longest known has 0.3 MB
LIST_BYTES, LIST_SECONDS = 8 << 20, 60.0


@dataclass(frozen=True)
class RemoteFile:
    path: str
    size: int  # bytes
    sha256: str | None  # of files in the hub's large storage
    git: str  # sha1 of git's blob, for all others

    @property
    def digest(self) -> str:
        return self.sha256 or self.git


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
    open_transport()
    for source in model.sources:
        if isinstance(source, Path):
            reasons.append(f"{source}: there is no {model.marker}")
            continue
        try:
            commit, listed = list_files(source)
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
        raise Refused(f"it gives no possible size and hash of {name}", "Use another source.")
    return file


def list_files(source: Hub) -> tuple[str, dict[str, RemoteFile | None]]:
    """The revision's commit and its files by path; None for a file without a possible size and a hash.

    Raises Refused where this source does not give its list, or one with paths that leave their folder.
    """
    url = f"{constants.ENDPOINT}/api/models/{source.id}/revision/{quote(source.revision, safe='')}?blobs=true"
    failures = 0
    while True:
        try:
            answer = read_text(url, LIST_BYTES, LIST_SECONDS)
            break
        except Passing as failure:
            failures += 1
            time.sleep(pause_after(failure, failures, most=2))
    try:
        listed = json.loads(answer)
        commit = _hex(listed["sha"], 40)
        files = {entry["rfilename"]: _remote_file(entry) for entry in listed["siblings"]}
        unsafe = [name for name in files if not is_safe(name)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{hide(constants.ENDPOINT)} answered something else than a model's list of files.",
            "Check HF_ENDPOINT, and whether this network asks to log in first.",
        ) from error
    if unsafe:
        raise Refused(
            f"it lists a file named {unsafe[0]!r}, which may leave its folder", "Use another source."
        )
    return commit, files


def _remote_file(entry: dict[str, Any]) -> RemoteFile | None:
    large = entry.get("lfs")
    size, blob = (large or entry).get("size"), entry.get("blobId")
    if type(size) is not int or not 0 <= size <= LARGEST or not isinstance(blob, str):
        return None
    return RemoteFile(entry["rfilename"], size, _hex(large["sha256"], 64) if large else None, _hex(blob, 40))


def _hex(text: str, length: int) -> str:
    if not re.fullmatch(f"[0-9a-f]{{{length}}}", text):
        raise ValueError(f"got {text!r}, expected {length} hexadecimal digits")
    return text


def fetch(plan: Plan) -> Generator[Progress, None, None]:
    """Fetch what is missing. May be stopped and repeated at any time. Raises ModelError or DiskError."""
    with _disk(plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
        lock = (plan.folder / "fetch.lock").open("ab")
    with lock:
        while not take(lock.fileno()):
            yield Progress("", 0, plan.total, "another process is fetching this model; waiting for it")
            time.sleep(0.5)
        record = read_record(plan.folder)  # now, because another process may have been at it
        if record is None or record.commit != plan.commit or not is_fetched(plan.model, plan.source):
            yield from _fetch_files(plan)
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
    for file in plan.files:  # the small ones come first
        if unread and file.path.endswith(".safetensors"):
            _refuse_wrong_tokenizer(plan)
            unread = False
        path = plan.folder / file.path
        if not path.is_file() or _difference(path, file):
            yield from _fetch_file(plan, file, done)
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


def _fetch_file(plan: Plan, file: RemoteFile, before: int) -> Generator[Progress, None, None]:
    """One file under its own name. Wrong bytes are thrown away and fetched once more, a cut goes on where it was."""
    part = plan.part(file)
    with _disk(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    failures, best, wrong = 0, _length(part), 0
    while True:
        try:
            yield from _fetch_rest(plan, file, before)
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


def _fetch_rest(plan: Plan, file: RemoteFile, before: int) -> Generator[Progress, None, None]:
    """Append to the part what it lacks. Raises Passing where the connection ends early, _Wrong where too much comes."""
    path = plan.part(file)
    start = _length(path)
    if start >= file.size:
        return  # too long a part is found by its difference
    url = f"{constants.ENDPOINT}/{plan.source.id}/resolve/{plan.commit}/{quote(file.path)}"
    with _disk(path):
        part = _Part(path, file.size)
    try:
        for _ in transfer(url, cast(BinaryIO, part), start):
            yield Progress(file.path, before + _length(path), plan.total)
    except Refused as error:
        raise ModelError(
            f"{plan.source}: {file.path} could not be fetched, {error.message}.", error.todo
        ) from error
    finally:
        part.close()
        if not _length(path):  # nothing has come
            with _disk(path):
                path.unlink(missing_ok=True)
    if _length(path) < file.size:
        raise Passing("the connection was cut")  # where no length is stated, nothing tells an end from a cut


class _Part(io.FileIO):
    """What a file grows in: never longer than `most` bytes, and not written to once it is closed, by any thread."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path, "ab")
        self._path, self._most, self._busy = path, most, threading.Lock()

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self._most:
            raise _Wrong(f"has more than the {self._most:,} bytes that the hub lists")
        rest = memoryview(data)
        with self._busy, _disk(self._path):
            while rest:
                rest = rest[super().write(rest) :]
        return len(data)

    def close(self) -> None:
        with self._busy:
            super().close()


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
            json.loads(path.read_text("utf-8"))  # a list, too
        else:
            path.read_text("utf-8")
    except (SafetensorError, ValueError, RecursionError) as error:
        return f"is not {'text' if suffix == '.txt' else suffix[1:]} ({error})"
    return ""


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turns an OSError on `path` into a DiskError."""
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{path} could not be written: {error.strerror or error}.",
            "Free some space, or set HF_HOME to a folder of your own on another disk. What has been fetched is kept.",
        ) from error
