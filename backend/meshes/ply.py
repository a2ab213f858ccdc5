"""PLY, in text or binary: vertices with colours, polygons, UVs of vertices or of corners."""

from __future__ import annotations

import numpy as np

from backend.meshes.parts import from_parts
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_UVS = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"))
Property = tuple[str, str, str]  # name, type, type of its count or ""


def read_ply(content: bytes) -> ObjectArrays:
    """Raises BadMeshFile."""
    try:
        elements, order, body = _header(content)
        values = _text(body, elements) if order == "" else _binary(body, elements, order)
    except (ValueError, KeyError, IndexError, StopIteration) as error:
        raise BadMeshFile(f"it is no PLY file that can be read ({error}).") from error
    vertex, face = values.get("vertex", {}), values.get("face", {})
    if not {"x", "y", "z"} <= set(vertex):
        raise BadMeshFile("it has no vertices.")
    lists: list = next((face[name] for name in ("vertex_indices", "vertex_index") if name in face), [])
    tri, polygon, nth = [], [], []
    for number, corners in enumerate(lists):
        for i in range(1, len(corners) - 1):
            tri.append((corners[0], corners[i], corners[i + 1]))
            polygon.append(number)
            nth.append(i)
    faces = np.array(tri, np.int64).reshape(-1, 3)
    uv = colour = None
    for u, v in _UVS:
        if {u, v} <= set(vertex) and len(faces):
            uv = np.stack((vertex[u], vertex[v]), 1)[faces]
    if "texcoord" in face and len(faces):  # of corners, as MeshLab writes them
        uv = np.full((len(faces), 3, 2), -9.0)
        for row, (number, i) in enumerate(zip(polygon, nth, strict=True)):
            places = np.asarray(face["texcoord"][number]).reshape(-1, 2)
            if len(places) == len(lists[number]):
                uv[row] = places[[0, i, i + 1]]
    if {"red", "green", "blue"} <= set(vertex) and len(faces) and faces.max() < len(vertex["red"]):
        rgb = np.stack([np.asarray(vertex[name]) for name in ("red", "green", "blue")], 1)
        whole = {"u1": 255, "u2": 65535}.get(rgb.dtype.str[1:], 1)
        colour = (rgb / whole)[faces]
    white = [(1.0, 1.0, 1.0, 1.0)] if colour is not None else None
    v_pos = np.stack([np.asarray(vertex[name], np.float32) for name in "xyz"], 1)
    return from_parts(v_pos, faces, uv=uv, colour=colour, polygon=np.array(polygon), base=white)


def _header(content: bytes) -> tuple[list[tuple[str, int, list[Property]]], str, bytes]:
    end = content.find(b"end_header")
    if not content.startswith(b"ply") or end < 0:
        raise ValueError("no header")
    order = ""
    elements: list[tuple[str, int, list[Property]]] = []
    for line in content[:end].decode("ascii", "replace").splitlines()[1:]:
        words = line.split()
        if not words:
            continue
        if words[0] == "format":
            order = _FORMATS[words[1]]
        elif words[0] == "element":
            elements.append((words[1], int(words[2]), []))
        elif words[0] == "property" and words[1] == "list":
            elements[-1][2].append((words[4], _TYPES[words[3]], _TYPES[words[2]]))
        elif words[0] == "property":
            elements[-1][2].append((words[2], _TYPES[words[1]], ""))
    return elements, order, content[content.index(b"\n", end) + 1 :]


def _text(body: bytes, elements: list[tuple[str, int, list[Property]]]) -> dict[str, dict]:
    words = iter(body.split())
    found: dict[str, dict] = {}
    for name, count, properties in elements:
        columns: dict[str, list] = {p[0]: [] for p in properties}
        for _ in range(count):
            for key, kind, counted in properties:
                convert = float if kind[0] == "f" else int
                if counted:
                    columns[key].append([convert(next(words)) for _ in range(int(next(words)))])
                else:
                    columns[key].append(convert(next(words)))
        found[name] = {
            key: columns[key] if counted else np.array(columns[key], kind)
            for key, kind, counted in properties
        }
    return found


def _binary(body: bytes, elements: list[tuple[str, int, list[Property]]], order: str) -> dict[str, dict]:
    found: dict[str, dict] = {}
    place = 0
    for name, count, properties in elements:
        if not any(counted for _, _, counted in properties):
            row = np.dtype([(key, order + kind) for key, kind, _ in properties])
            table = np.frombuffer(body, row, count, place)
            place += row.itemsize * count
            found[name] = {key: table[key].astype(kind) for key, kind, _ in properties}
            continue
        columns: dict[str, list] = {p[0]: [] for p in properties}
        for _ in range(count):
            for key, kind, counted in properties:
                length = 1
                if counted:
                    length = int(np.frombuffer(body, order + counted, 1, place)[0])
                    place += np.dtype(counted).itemsize
                columns[key].append(np.frombuffer(body, order + kind, length, place).tolist())
                place += np.dtype(kind).itemsize * length
        found[name] = {
            key: columns[key] if counted else np.array(columns[key], kind)[:, 0]
            for key, kind, counted in properties
        }
    return found
