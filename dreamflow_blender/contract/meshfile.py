"""A textured mesh as `mesh.npz`, a coarse one as `snapshot.npz`: what the backend writes and Blender reads.

numpy only. mesh.npz:

    v_pos      [V,3] float32  metres, z up, the object faces -Y
    t_pos_idx  [F,3] int32    rows of v_pos, counter-clockwise seen from outside
    v_tex      [T,2] float32  v upwards, (0, 0) is the image's lower left corner
    t_tex_idx  [F,3] int32    rows of v_tex
    normal     [V,3] float32  unit, smooth

snapshot.npz, a picture of a run that goes on:

    v_pos, t_pos_idx          as above
    colour     [V,3] float32  sRGB in [0, 1]

The same arrays always give the same bytes: the archive carries no clock.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest date that a zip file can hold
_COLUMNS = {"v_tex": 2}  # the others have 3
_MAX_BYTES = 1 << 30  # of one array; ours stay far below


class BadMeshFile(ValueError):
    """A file that is not a mesh as described above."""


@dataclass(frozen=True)
class MeshArrays:
    """The arrays of the table above."""

    v_pos: NDArray[np.float32]
    t_pos_idx: NDArray[np.int32]
    v_tex: NDArray[np.float32]
    t_tex_idx: NDArray[np.int32]
    normal: NDArray[np.float32]

    def __post_init__(self) -> None:
        for f in fields(self):
            array = getattr(self, f.name)
            columns = _COLUMNS.get(f.name, 3)
            dtype = np.int32 if f.name.endswith("idx") else np.float32
            if array.ndim != 2 or array.shape[1] != columns or array.dtype != dtype:
                expected = f"[N,{columns}] {np.dtype(dtype)}"
                raise BadMeshFile(f"{f.name}: expected {expected}, got {list(array.shape)} {array.dtype}.")
            if dtype == np.float32 and not np.isfinite(array).all():
                raise BadMeshFile(f"{f.name}: expected finite numbers, got a NaN or an infinity.")
        if len(self.normal) != len(self.v_pos):
            raise BadMeshFile(f"normal: expected {len(self.v_pos)} rows, got {len(self.normal)}.")
        if len(self.t_tex_idx) != len(self.t_pos_idx):
            raise BadMeshFile(f"t_tex_idx: expected {len(self.t_pos_idx)} rows, got {len(self.t_tex_idx)}.")
        for name, index, rows in (
            ("t_pos_idx", self.t_pos_idx, len(self.v_pos)),
            ("t_tex_idx", self.t_tex_idx, len(self.v_tex)),
        ):
            if len(index) and (index.min() < 0 or index.max() >= rows):
                raise BadMeshFile(f"{name}: expected rows below {rows}, got {index.min()} to {index.max()}.")


@dataclass(frozen=True)
class SnapshotArrays:
    """The arrays of the second table."""

    v_pos: NDArray[np.float32]
    t_pos_idx: NDArray[np.int32]
    colour: NDArray[np.float32]

    def __post_init__(self) -> None:
        # a snapshot is a mesh whose colours stand where the normals do
        MeshArrays(self.v_pos, self.t_pos_idx, self.v_pos[:, :2], self.t_pos_idx, self.colour)


def to_bytes(mesh: MeshArrays | SnapshotArrays) -> bytes:
    """The file's content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for f in fields(mesh):
            array = io.BytesIO()
            np.lib.format.write_array(array, np.ascontiguousarray(getattr(mesh, f.name)), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{f.name}.npy", _EPOCH)
            entry.create_system = 3  # or else the bytes would tell Windows from Linux
            archive.writestr(entry, array.getvalue())
    return buffer.getvalue()


def read(path: Path) -> MeshArrays:
    """The mesh in this file; raises BadMeshFile on any other file, and OSError."""
    return MeshArrays(*_read_arrays(path, [f.name for f in fields(MeshArrays)]))


def read_snapshot(path: Path) -> SnapshotArrays:
    """The snapshot in this file; raises BadMeshFile on any other file, and OSError."""
    return SnapshotArrays(*_read_arrays(path, [f.name for f in fields(SnapshotArrays)]))


def _read_arrays(path: Path, names: list[str]) -> list[np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [_read_array(archive, name) for name in names]
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise BadMeshFile(f"{path.name} is damaged or is not a mesh file: {error}.") from error


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > _MAX_BYTES:
        raise BadMeshFile(f"{name}: expected at most {_MAX_BYTES:,} bytes, got {entry.file_size:,}.")
    try:
        return np.lib.format.read_array(io.BytesIO(archive.read(entry)), allow_pickle=False)
    except ValueError as error:
        raise BadMeshFile(f"{name}: expected an array without objects, got {error}.") from error
