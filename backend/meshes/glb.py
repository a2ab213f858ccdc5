"""GLB: an artist's file read as an object, and given back with new base colour textures and all else as it was.

glTF's axes are y up, facing +Z; ours z up, facing -Y: (x, y, z) of theirs is (x, -z, y) of ours. A mesh that
several nodes show is taken where it is shown first.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError
from backend.meshes.parts import from_parts, read_image
from dreamflow_blender.contract.colour import to_srgb
from dreamflow_blender.contract.meshfile import BadMeshFile, ObjectArrays

COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
WRAPS = {33071: 1, 33648: 2}  # glTF's numbers for ObjectArrays.wrap; anything else repeats
PACKED = {"KHR_draco_mesh_compression", "EXT_meshopt_compression"}  # what we cannot unpack
TRANSFORM = "KHR_texture_transform"
Matrix = NDArray[np.float64]


@dataclass
class Glb:
    document: dict[str, Any]
    binary: bytearray

    def accessor(self, index: int) -> NDArray[Any]:
        """[count, width] in its own type; normalised integers stay integers."""
        a = self.document["accessors"][index]
        kind, width, count = np.dtype(COMPONENTS[a["componentType"]]), WIDTHS[a["type"]], int(a["count"])
        size = kind.itemsize * width
        if "bufferView" in a:
            view = self.document["bufferViews"][a["bufferView"]]
            stride = view.get("byteStride", size)
            start = view.get("byteOffset", 0) + a.get("byteOffset", 0)
            if (
                view.get("buffer", 0) != 0
                or count < 0
                or start + stride * (count - 1) + size > len(self.binary)
            ):
                raise BadMeshFile(f"accessor {index} reaches beyond the file's data.")
            raw = np.frombuffer(self.binary, np.uint8, (stride * (count - 1) + size) if count else 0, start)
            rows = np.lib.stride_tricks.as_strided(raw, (count, size), (stride, 1))
            values = np.ascontiguousarray(rows).view(kind).reshape(count, width)
        else:
            values = np.zeros((count, width), kind)
        if "sparse" in a:
            values = values.copy()
            part = a["sparse"]
            at = self._plain(part["indices"], COMPONENTS[part["indices"]["componentType"]], part["count"], 1)
            values[at[:, 0]] = self._plain(part["values"], kind.str, part["count"], width)
        return values

    def _plain(self, where: dict[str, Any], kind: str, count: int, width: int) -> NDArray[Any]:
        view = self.document["bufferViews"][where["bufferView"]]
        start = view.get("byteOffset", 0) + where.get("byteOffset", 0)
        return np.frombuffer(self.binary, kind, count * width, start).reshape(count, width)

    def floats(self, index: int) -> NDArray[np.float64]:
        """[count, width]; normalised integers as the numbers that they stand for."""
        values = self.accessor(index)
        if values.dtype.kind == "f" or not self.document["accessors"][index].get("normalized"):
            return values.astype(np.float64)
        return np.maximum(values.astype(np.float64) / np.iinfo(values.dtype).max, -1)

    def append(self, content: bytes) -> int:
        """The new buffer view's row."""
        self.binary.extend(b"\0" * (-len(self.binary) % 4))
        views = self.document.setdefault("bufferViews", [])
        views.append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(content)})
        self.binary.extend(content)
        return len(views) - 1

    def image(self, index: int, notes: list[str]) -> NDArray[np.uint8] | None:
        """[H,W,4] uint8; None, with a note, where it is missing or damaged."""
        found = self.document["images"][index]
        name = found.get("name") or found.get("uri", "")[:60] or f"image {index}"
        uri = found.get("uri", "")
        try:
            if "bufferView" in found:
                view = self.document["bufferViews"][found["bufferView"]]
                start = view.get("byteOffset", 0)
                return read_image(io.BytesIO(self.binary[start : start + view["byteLength"]]), name)
            if uri.startswith("data:"):
                return read_image(io.BytesIO(base64.b64decode(uri.partition(",")[2])), name)
            notes.append(f"The image {name} is not in the file. The material's plain colour is used.")
        except (InputError, binascii.Error) as error:
            notes.append(f"{error} The material's plain colour is used.")
        return None

    def content(self) -> bytes:
        self.binary.extend(b"\0" * (-len(self.binary) % 4))
        self.document["buffers"][0]["byteLength"] = len(self.binary)
        text = json.dumps(self.document, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 4)
        head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(self.binary))
        return b"".join(
            (head, struct.pack("<I4s", len(text), b"JSON"), text,
             struct.pack("<I4s", len(self.binary), b"BIN\0"), bytes(self.binary))
        )  # fmt: skip


def parse(content: bytes) -> Glb:
    """Raises BadMeshFile."""
    try:
        magic, version, length = struct.unpack_from("<4sII", content)
        size, kind = struct.unpack_from("<I4s", content, 12)
        if magic != b"glTF" or version != 2 or kind != b"JSON" or length > len(content):
            raise BadMeshFile("it is no whole binary glTF 2.0 file.")
        document = json.loads(content[20 : 20 + size])
        binary = b""
        if 20 + size < length:
            more, _ = struct.unpack_from("<I4s", content, 20 + size)
            binary = content[28 + size : 28 + size + more]
    except (struct.error, ValueError, RecursionError) as error:
        raise error if isinstance(error, BadMeshFile) else BadMeshFile(f"it is damaged ({error}).") from error
    if not isinstance(document, dict):
        raise BadMeshFile("its document is no object.")
    packed = PACKED & set(document.get("extensionsRequired", []))
    if packed:
        raise BadMeshFile(
            f"its meshes are packed with {', '.join(sorted(packed))}: export it without compression."
        )
    buffers = document.get("buffers", [])
    if len(buffers) > 1 or (buffers and "uri" in buffers[0]):
        raise BadMeshFile("its geometry lies in other files: export it as one GLB.")
    return Glb(document, bytearray(binary))


def _nodes(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Matrix]]:
    """The scene's nodes, parents first, and where they stand."""
    nodes = document.get("nodes", [])
    scenes = document.get("scenes", [])
    if scenes:
        roots = scenes[document.get("scene", 0)].get("nodes", [])
    else:
        children = {c for node in nodes for c in node.get("children", [])}
        roots = [i for i in range(len(nodes)) if i not in children]
    left = [(i, np.eye(4)) for i in reversed(roots)]
    seen: set[int] = set()
    while left:
        i, above = left.pop()
        if i in seen:
            raise BadMeshFile(f"node {i} stands in the scene twice.")
        seen.add(i)
        node = nodes[i]
        here = above @ _local(node)
        yield node, here
        left += [(c, here) for c in reversed(node.get("children", []))]


def _local(node: dict[str, Any]) -> Matrix:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    made = np.eye(4)
    turn = np.array(
        (
            (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        )
    )
    made[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)))
    made[:3, 3] = node.get("translation", (0, 0, 0))
    return made


def primitives(document: dict[str, Any], notes: list[str]) -> list[tuple[dict[str, Any], Matrix]]:
    """The triangles' primitives that the scene shows, each once, and where they stand."""
    found, shown = [], set()
    for node, matrix in _nodes(document):
        mesh = node.get("mesh")
        if mesh is None:
            continue
        if mesh in shown:
            said = "A mesh that stands in several places shows one texture: it is painted as it is seen in the first."
            notes.extend([said] if said not in notes else [])
            continue
        shown.add(mesh)
        for primitive in document["meshes"][mesh]["primitives"]:
            if primitive.get("mode", 4) == 4 and "POSITION" in primitive["attributes"]:
                found.append((primitive, np.eye(4) if "skin" in node else matrix))
            else:
                notes.append("Points, lines and strips in the file are left as they are.")
    return found


def read_glb(content: bytes, notes: list[str]) -> ObjectArrays:
    """Raises BadMeshFile."""
    glb = parse(content)
    try:
        return _read(glb, notes)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise (
            error if isinstance(error, BadMeshFile) else BadMeshFile(f"it is damaged ({error!r}).")
        ) from error


def corners_of(glb: Glb, primitive: dict[str, Any]) -> NDArray[np.int64]:
    """[N,3] rows of the primitive's own vertices."""
    count = glb.document["accessors"][primitive["attributes"]["POSITION"]]["count"]
    if "indices" in primitive:
        rows = glb.accessor(primitive["indices"])[:, 0].astype(np.int64)
    else:
        rows = np.arange(count)
    if len(rows) and rows.max() >= count:
        raise BadMeshFile(f"faces name vertex {rows.max()}, and there are {count}.")
    return rows[: len(rows) // 3 * 3].reshape(-1, 3)


def _read(glb: Glb, notes: list[str]) -> ObjectArrays:
    document = glb.document
    materials = [*document.get("materials", []), {}]  # the last: of primitives without one
    images: list[NDArray[np.uint8]] = []
    rows: dict[int, int] = {}
    base, image, wrap, names = [], [], [], []
    for material in materials:
        pbr = material.get("pbrMetallicRoughness", {})
        factor = np.array(pbr.get("baseColorFactor", (1, 1, 1, 1)), np.float64)
        base.append((*to_srgb(factor[:3]).tolist(), float(factor[3])))
        names.append(str(material.get("name", "")))
        found, kind = -1, 0
        if "baseColorTexture" in pbr:
            texture = document["textures"][pbr["baseColorTexture"]["index"]]
            sampler = document.get("samplers", [{}])[texture["sampler"]] if "sampler" in texture else {}
            kind = WRAPS.get(sampler.get("wrapS", 10497), 0)
            source = texture.get("extensions", {}).get("EXT_texture_webp", texture).get("source")
            if source is not None and source not in rows:
                read = glb.image(source, notes)
                rows[source] = -1 if read is None else len(images)
                images += [] if read is None else [read]
            found = rows.get(source, -1)
        image.append(found)
        wrap.append(kind)
    parts: list[tuple[Any, ...]] = []
    offset, any_uv, any_colour = 0, False, False
    for primitive, matrix in primitives(document, notes):
        attributes = primitive["attributes"]
        position = glb.floats(attributes["POSITION"])
        tri = corners_of(glb, primitive)
        row = primitive.get("material", len(materials) - 1)
        world = position @ matrix[:3, :3].T + matrix[:3, 3]
        used = materials[row].get("pbrMetallicRoughness", {}).get("baseColorTexture", {})
        name = f"TEXCOORD_{_transform(used).get('texCoord', used.get('texCoord', 0))}"
        uv = np.full((len(tri), 3, 2), -9.0)
        if name in attributes:
            uv, any_uv = _moved(glb.floats(attributes[name]), used)[tri], True
        colour = np.ones((len(tri), 3, 3))
        if "COLOR_0" in attributes:
            colour = to_srgb(glb.floats(attributes["COLOR_0"])[:, :3])[tri]
            any_colour |= bool((colour != 1).any())
        parts.append((world[:, [0, 2, 1]] * (1, -1, 1), tri + offset, uv, colour, np.full(len(tri), row)))
        offset += len(position)
    if not parts:
        raise BadMeshFile("there is no mesh in its scene.")
    v_pos, tri, uv, colour, material_rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return from_parts(
        v_pos, tri, uv=uv if any_uv else None, colour=colour if any_colour else None, material=material_rows,
        base=base, image=image, wrap=wrap, names=names, images=tuple(images),
    )  # fmt: skip


def _transform(used: dict[str, Any]) -> dict[str, Any]:
    return used.get("extensions", {}).get(TRANSFORM, {})


def _moved(uv: NDArray[np.float64], used: dict[str, Any]) -> NDArray[np.float64]:
    """glTF's UVs, v downwards, as the image is read by them: transformed, and v upwards."""
    t = _transform(used)
    x, y = (uv * np.array(t.get("scale", (1, 1)))).T
    c, s = np.cos(t.get("rotation", 0.0)), np.sin(t.get("rotation", 0.0))
    dx, dy = t.get("offset", (0, 0))
    return np.stack((c * x + s * y + dx, 1 - (c * y - s * x + dy)), 1)
