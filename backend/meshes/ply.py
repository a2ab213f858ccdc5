"""PLY, in text or binary: vertices with colours, polygons with colours, UVs of vertices or of corners, one texture.

plyfile reads it; before that, what the header promises is compared with the bytes that there are.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyListProperty, PlyParseError

from backend.images import clean
from backend.meshes.beside import Beside, Images, decode_text
from backend.meshes.parts import WHITE, from_parts, refuse_more_faces
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays

_UVS = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))
_INDICES = ("vertex_indices", "vertex_index")
_ELEMENT = re.compile(rb"(?m)^(\s*element\s+\S+\s+)(\S+)[ \t]*(?=\r?$)")


def read_ply(path: Path, notes: list[str]) -> ObjectArrays:
    """Raises BadMeshFile."""
    content = path.read_bytes()
    with (
        np.errstate(all="ignore"),
        warnings.catch_warnings(action="ignore"),
    ):  # numpy's, of lists without a number
        try:
            end = content.find(b"end_header")
            head = re.sub(
                rb"[^\x00-\x7f]", b"?", content[: max(end, 0)]
            )  # of comments: plyfile reads ASCII alone
            _check_counts(head, len(content) - end)
            data = _read(path) if content.startswith(head) else _read_bytes(head + content[end:])
            return _object(data, path.parent, notes, content[:end])
        except (PlyParseError, ValueError, OverflowError, TypeError, LookupError) as error:
            if isinstance(error, BadMeshFile):
                raise
            raise BadMeshFile(f"it is no PLY file that can be read ({clean(error)[:100]}).") from error


def _check_counts(head: bytes, left: int) -> None:
    """The file is long enough for as many rows as its header says: plyfile makes room for them first.

    Of each row at least one value must be there, of its lists together one. Raises BadMeshFile, PlyParseError.
    """
    if not head:
        raise BadMeshFile("it is no PLY file: it has no header.")
    counts = [int(found[2]) for found in _ELEMENT.finditer(head)]
    empty = _read_bytes(_ELEMENT.sub(rb"\g<1>0", head) + b"end_header\n")
    if len(empty.elements) != len(counts):
        raise BadMeshFile("its header is damaged.")
    for element, count in zip(empty.elements, counts, strict=True):
        least = 0
        lists = [p for p in element.properties if isinstance(p, PlyListProperty)]
        for p in element.properties:
            least += 2 if empty.text else np.dtype(p.len_dtype if p in lists else p.val_dtype).itemsize
        least += max((2 if empty.text else np.dtype(p.val_dtype).itemsize for p in lists), default=0)
        left -= max(least, 1) * count
        if count < 0 or left < 0:
            raise BadMeshFile(
                f"it is cut short: its header promises {count:,} rows of {clean(element.name)}."
            )


def _read(path: Path) -> PlyData:
    try:  # at once, where all faces are triangles and have nothing else
        return PlyData.read(str(path), mmap="r", known_list_len={"face": dict.fromkeys(_INDICES, 3)})
    except (PlyParseError, ValueError):
        return PlyData.read(str(path), mmap=False)


def _read_bytes(content: bytes) -> PlyData:
    return PlyData.read(io.BytesIO(content), mmap=False)


def _object(data: PlyData, folder: Path, notes: list[str], head: bytes) -> ObjectArrays:
    vertex = _columns(data, "vertex")
    face = _columns(data, "face")
    if not {"x", "y", "z"} <= set(vertex):
        raise BadMeshFile("it has no vertices.")
    lists: Any = next((face[name] for name in _INDICES if name in face), [])
    tri, polygon, nth = _fans(lists)
    v_pos = np.stack([np.asarray(vertex[name], np.float64) for name in "xyz"], 1)
    if len(tri) and (tri.min() < 0 or tri.max() >= len(v_pos)):
        raise BadMeshFile(f"faces name vertices {tri.min()} to {tri.max()}, and there are {len(v_pos)}.")
    uv = colour = None
    for u, v in _UVS:
        if {u, v} <= set(vertex):
            uv = np.stack((vertex[u], vertex[v]), 1).astype(np.float64)[tri]
    if "texcoord" in face:  # of corners, as MeshLab writes them
        uv = _corner_uvs(face["texcoord"], lists, polygon, nth)
    if set(vertex) >= _COLOUR:
        colour = _colours(vertex)[tri]
    elif set(face) >= _COLOUR:
        colour = np.repeat(_colours(face)[polygon][:, None], 3, 1)
    images = Images(notes, 0)
    named = re.findall(r"(?im)^\s*comment\s+texturefile[ \t]+(\S.*?)\s*$", decode_text(head))
    row = images.row_beside(Beside(folder), named[0]) if named else -1
    if len(named) > 1:
        notes.append("The file names several textures: the first of them is used.")
    return from_parts(
        v_pos, tri, uv=uv, colour=colour, polygon=polygon, image=[row], images=images.arrays,
        base=[WHITE] if colour is not None or row >= 0 else None,
    )  # fmt: skip


_COLOUR = {"red", "green", "blue"}


def _columns(data: PlyData, name: str) -> dict[str, Any]:
    if name not in data:
        return {}
    element = data[name]
    return {p.name: element.data[p.name] for p in element.properties}


def _fans(lists: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Triangles [F,3] of polygons as fans; of each its polygon, and which corner of it comes second."""
    if getattr(lists, "ndim", 1) == 2:
        every = np.arange(len(lists))
        return np.asarray(lists, np.int64), every, np.ones_like(every)
    sizes = np.array([len(corners) for corners in lists], np.int64)
    fans = np.maximum(sizes - 2, 0)
    refuse_more_faces(int(fans.sum()))
    flat = np.concatenate([np.asarray(c, np.float64) for c in lists]) if len(lists) else np.zeros(0)
    start = np.cumsum(sizes) - sizes
    polygon = np.repeat(np.arange(len(sizes)), fans)
    nth = np.arange(len(polygon)) - np.repeat(np.cumsum(fans) - fans, fans) + 1
    first = start[polygon]
    return np.stack((flat[first], flat[first + nth], flat[first + nth + 1]), 1).astype(np.int64), polygon, nth


def _corner_uvs(
    places: Any, lists: Any, polygon: NDArray[np.int64], nth: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[F,3,2]; corners of a polygon with another number of UVs than corners lie outside."""
    uv = np.full((len(polygon), 3, 2), -9.0)
    for row, (number, i) in enumerate(zip(polygon.tolist(), nth.tolist(), strict=True)):
        own = places[number]
        if len(own) == 2 * len(lists[number]):
            uv[row] = np.reshape(own, (-1, 2))[[0, i, i + 1]]
    return uv


def _colours(columns: dict[str, Any]) -> NDArray[np.float64]:
    """[N,4] sRGB and alpha in [0,1]."""
    found = [np.asarray(columns[name]) for name in ("red", "green", "blue")]
    found.append(np.asarray(columns["alpha"]) if "alpha" in columns else np.ones(len(found[0])))
    whole = {"u1": 255, "u2": 65535}
    return np.stack([c / whole.get(c.dtype.str[1:], 1) for c in found], 1)
