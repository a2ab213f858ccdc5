"""A textured mesh as `mesh.npz`, a coarse one as `snapshot.npz`: what the backend writes and Blender reads.
And `object.npz`, the object that a refine job begins with: what Blender writes and the backend reads.

numpy only. mesh.npz:

    v_pos      [V,3] float32  metres, z up, the object faces -Y
    t_pos_idx  [F,3] int32    rows of v_pos, counter-clockwise seen from outside
    v_tex      [T,2] float32  v upwards, (0, 0) is the image's lower left corner
    t_tex_idx  [F,3] int32    rows of v_tex
    normal     [V,3] float32  unit, smooth

snapshot.npz, a picture of a run that goes on:

    v_pos, t_pos_idx          as above
    colour     [V,3] float32  sRGB in [0, 1]

object.npz, F triangles of P polygons under M materials, at any size and place; z up:

    v_pos      [V,3] float32    metres
    t_pos_idx  [F,3] int32      rows of v_pos, counter-clockwise seen from outside; face f below is row f
    uv         [F,3,2] float32  of each corner, v upwards: where the texture may go; no rows where there are none
    source_uv  [F,3,2] float32  where the image is read, if that is another UV map; no rows: `uv` too
    colour     [F,3,4] float32  vertex colours, sRGB and alpha, which multiply (as light does); no rows: none
    weight     [F,3] float32    how much may change, 0 to 1; 0 at all corners: the face stays as it is to the bit
    polygon    [F] int32        which polygon the triangle is part of, 0 to P - 1
    material   [F] int32        rows of the next four
    base       [M,4] float32    sRGB and alpha, which multiply (as light does) whatever else there is
    image      [M] int32        the image of its colour, -1: none
    wrap       [M,2] int32      of the image, across and up: 0 repeats, 1 extends its edge, 2 mirrors
    names      [M] unicode      the materials' names
    image_0... [H,W,4] uint8    sRGB and straight alpha, row 0 = top

What a refine job gives back: mesh.npz with the same triangles in the same order (v_tex and t_tex_idx are the chosen
UVs), and its texture as albedo.png; albedo_2.png and so on where materials have images of their own, and
materials.json, which says which: {"textures": [{"file", "materials": [names], "new_uvs", "faces"}], "new_uvs"}.
While it runs, uvs.npz is as that mesh.npz, and snapshot.png, snapshot_2.png and so on as those textures, but smaller.

The same arrays always give the same bytes: the archive carries no clock.
"""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class ObjectArrays:
    """The arrays of the third table."""

    v_pos: NDArray[np.float32]
    t_pos_idx: NDArray[np.int32]
    uv: NDArray[np.float32]
    source_uv: NDArray[np.float32]
    colour: NDArray[np.float32]
    weight: NDArray[np.float32]
    polygon: NDArray[np.int32]
    material: NDArray[np.int32]
    base: NDArray[np.float32]
    image: NDArray[np.int32]
    wrap: NDArray[np.int32]
    names: NDArray[np.str_]
    images: tuple[NDArray[np.uint8], ...] = ()

    def __post_init__(self) -> None:
        for name, (shape, dtype) in _OBJECT.items():
            array = getattr(self, name)
            if array.ndim != len(shape) + 1 or array.shape[1:] != shape or array.dtype != dtype:
                expected = f"[{', '.join(map(str, ('N', *shape)))}] {np.dtype(dtype)}"
                raise BadMeshFile(f"{name}: expected {expected}, got {list(array.shape)} {array.dtype}.")
            if dtype == np.float32 and not np.isfinite(array).all():
                raise BadMeshFile(f"{name}: expected finite numbers, got a NaN or an infinity.")
        if self.names.ndim != 1 or self.names.dtype.kind != "U" or not len(self.names):
            raise BadMeshFile(
                f"names: expected at least one name, got {self.names.dtype} {self.names.shape}."
            )
        faces, materials = len(self.t_pos_idx), len(self.names)
        for name in ("weight", "polygon", "material", "uv", "source_uv", "colour"):
            rows = len(getattr(self, name))
            if rows != faces and not (rows == 0 and name in ("uv", "source_uv", "colour")):
                raise BadMeshFile(f"{name}: expected {faces} rows, got {rows}.")
        for name in ("base", "image", "wrap"):
            if len(getattr(self, name)) != materials:
                raise BadMeshFile(f"{name}: expected {materials} rows, got {len(getattr(self, name))}.")
        for image in self.images:
            if image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8 or not image.size:
                raise BadMeshFile(f"image: expected [H,W,4] uint8, got {list(image.shape)} {image.dtype}.")
        for name, low, high in (
            ("t_pos_idx", 0, len(self.v_pos)), ("polygon", 0, 2**31), ("material", 0, materials),
            ("image", -1, len(self.images)), ("wrap", 0, 3), ("weight", 0, 2), ("colour", 0, 2), ("base", 0, 2),
        ):  # fmt: skip
            array = getattr(self, name)
            whole = array.dtype == np.int32
            if array.size and (array.min() < low or array.max() > (high - 1)):
                raise BadMeshFile(
                    f"{name}: expected {low} to {high - 1}, got {array.min()} to {array.max()}"
                    f"{'' if whole else ' as its least and most'}."
                )


_OBJECT: dict[str, tuple[tuple[int, ...], type]] = {  # the shape of a row, and its type
    "v_pos": ((3,), np.float32), "t_pos_idx": ((3,), np.int32), "uv": ((3, 2), np.float32),
    "source_uv": ((3, 2), np.float32), "colour": ((3, 4), np.float32), "weight": ((3,), np.float32),
    "polygon": ((), np.int32), "material": ((), np.int32), "base": ((4,), np.float32),
    "image": ((), np.int32), "wrap": ((2,), np.int32),
}  # fmt: skip


def to_bytes(mesh: MeshArrays | SnapshotArrays | ObjectArrays) -> bytes:
    """The file's content."""
    buffer = io.BytesIO()
    arrays: dict[str, NDArray[Any]] = {
        f.name: getattr(mesh, f.name) for f in fields(mesh) if f.name != "images"
    }
    if isinstance(mesh, ObjectArrays):
        arrays |= {f"image_{i}": image for i, image in enumerate(mesh.images)}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, values in arrays.items():
            array = io.BytesIO()
            np.lib.format.write_array(array, np.ascontiguousarray(values), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.create_system = 3  # or else the bytes would tell Windows from Linux
            archive.writestr(entry, array.getvalue())
    return buffer.getvalue()


def read(path: Path) -> MeshArrays:
    """The mesh in this file; raises BadMeshFile on any other file, and OSError."""
    return MeshArrays(*_read_arrays(path, [f.name for f in fields(MeshArrays)]))


def read_snapshot(path: Path) -> SnapshotArrays:
    """The snapshot in this file; raises BadMeshFile on any other file, and OSError."""
    return SnapshotArrays(*_read_arrays(path, [f.name for f in fields(SnapshotArrays)]))


def read_object(path: Path) -> ObjectArrays:
    """The object in this file; raises BadMeshFile on any other file, and OSError."""
    names = [f.name for f in fields(ObjectArrays) if f.name != "images"]
    arrays = _read_arrays(path, names)
    image = arrays[names.index("image")]
    if image.dtype != np.int32:
        raise BadMeshFile(f"image: expected [N] int32, got {list(image.shape)} {image.dtype}.")
    count = int(image.max(initial=-1)) + 1
    if count > 1000:
        raise BadMeshFile(f"image: expected at most 1,000 images, got {count:,}.")
    images = tuple(_read_arrays(path, [f"image_{i}" for i in range(count)]))
    return ObjectArrays(**dict(zip(names, arrays, strict=True)), images=images)


_DAMAGED = (
    zipfile.BadZipFile, KeyError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError, struct.error,
    SyntaxError, tokenize.TokenError, TypeError, RecursionError, MemoryError,
)  # what zipfile raises on damaged archives, and numpy on damaged headers, which it evaluates as literals  # fmt: skip


def _read_arrays(path: Path, names: list[str]) -> list[NDArray[Any]]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return [_read_array(archive, name) for name in names]
    except BadMeshFile:
        raise
    except _DAMAGED as error:
        raise BadMeshFile(f"{path.name} is damaged or is not a mesh file: {error!r:.200}.") from error


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """As it was stored: as many bytes as the file has, so nothing grows that is small in it."""
    entry = archive.getinfo(f"{name}.npy")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise BadMeshFile(f"{name}: expected an array that is stored as it is, got a compressed one.")
    if entry.file_size > _MAX_BYTES:
        raise BadMeshFile(f"{name}: expected at most {_MAX_BYTES:,} bytes, got {entry.file_size:,}.")
    content = archive.read(entry)
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise BadMeshFile(f"{name}: expected an array of numpy's format 1.0.")
    shape, turned, dtype = np.lib.format.read_array_header_1_0(stream)
    count, left = math.prod(shape), len(content) - stream.tell()
    if dtype.hasobject or turned or min(shape, default=0) < 0 or count * dtype.itemsize != left:
        raise BadMeshFile(f"{name}: expected {list(shape)} {dtype} without objects, got {left:,} bytes.")
    return np.frombuffer(content, dtype, count, stream.tell()).reshape(shape).copy()
