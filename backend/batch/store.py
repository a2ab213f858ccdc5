"""Jobs' folders in a place that fsspec knows (`--store`), for machines without a common disk: s3://, gs://, file:// ...

A folder is sent as one transaction, so that a node that dies in the middle of it leaves what was there before. Names
in the store are those of the folders; there is no lock in it, so one driver decides who does which job.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from backend.errors import InputError
from backend.files import disk_errors
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Finished

LEFT_OUT = ("lock",)  # and what a killed process was writing (.NAME.part)


class Store:
    """InputError where the address names no place that can be used here."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._disk: Any
            self._disk, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"--store {url} cannot be used: {error}.",
                "Install fsspec's package for it into the backend's environment (pip install s3fs, gcsfs, adlfs).",
            ) from error
        self._sent: dict[str, tuple[int, int]] = {}  # size and time of what has been sent, by address

    def push(self, folder: Path) -> None:
        """Send what has changed; what is gone here goes there too. Raises DiskError."""
        there = f"{self._root}/{folder.name}"
        with disk_errors(folder):
            found = {f"{there}/{path.relative_to(folder).as_posix()}": path for path in _files(folder)}
            sent: dict[str, tuple[int, int]] = {}
            with self._disk.transaction:
                for address, path in found.items():
                    status = path.stat()
                    mark = (status.st_size, status.st_mtime_ns)
                    if self._sent.get(address) != mark:
                        self._disk.makedirs(address.rpartition("/")[0], exist_ok=True)
                        with self._disk.open(address, "wb") as out, path.open("rb") as source:
                            shutil.copyfileobj(source, out, 1 << 20)
                        sent[address] = mark
            self._sent |= sent  # none before all have arrived
            for address in self._listed(there):
                if address not in found:
                    self._disk.rm_file(address)

    def pull(self, folder: Path) -> None:
        """Make the folder what it is there, unless it is finished here, or is not there. Raises DiskError."""
        there = f"{self._root}/{folder.name}"
        if isinstance(JobFolder(folder).last_event(), Finished):
            return
        with disk_errors(folder):
            listed = self._listed(there)
            if not listed:
                return
            fresh = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(fresh, ignore_errors=True)
            for address in listed:
                path = fresh / address.removeprefix(there).lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._disk.open(address, "rb") as source, path.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
            if folder.exists():
                shutil.rmtree(folder)
            fresh.rename(folder)

    def _listed(self, there: str) -> list[str]:
        self._disk.invalidate_cache()
        if not self._disk.exists(there):
            return []
        return sorted(str(address) for address in self._disk.find(there))


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name not in LEFT_OUT and ".part" not in path.name
    )
