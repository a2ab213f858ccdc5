"""glTF 2.0 as a document and its data: read from .glb or .gltf into one piece, checked, and written.

Every number of the document is checked before it is used: its type and range by glb_schema, and here each view
and accessor against the bytes that there are. Numpy gets no offset, stride or count that leads out of them.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from backend.errors import InputError
from backend.images import clean
from backend.meshes.beside import Beside, Images
from backend.meshes.glb_packed import BYTES_A_BYTE, MOST_UNPACKED, unpack_draco, unpack_view
from backend.meshes.glb_schema import COMPONENTS, DRACO, MESHOPT, WIDTHS, check_document
from backend.meshes.parts import MOST_MATERIALS
from dreamflow_blender.contract.meshfile import BadMeshFile

MOST_VALUES = (
    200_000_000  # that are read of a file, one by one or again and again; the largest meshes need half
)


class Glb:
    """A document whose data is in one buffer.

    document  as in the file, but: buffers joined into one, compression undone
    blobs     the buffer's parts, one after the other at multiples of 4 bytes; no view reaches across two
    """

    def __init__(self, document: dict[str, Any], binary: bytes = b"") -> None:
        self.document = document
        self.blobs: list[bytes] = [binary]
        self.alone = (
            False  # whether the file that it came from is this very GLB, with nothing beside it or packed
        )
        self._starts = [0]
        self._values_left = MOST_VALUES

    def append(self, content: bytes) -> int:
        """The new buffer view's row."""
        start = self._starts[-1] + len(_padded(self.blobs[-1], b"\0"))
        views = self.document.setdefault("bufferViews", [])
        views.append({"buffer": 0, "byteOffset": start, "byteLength": len(content)})
        self._starts.append(start)
        self.blobs.append(content)
        return len(views) - 1

    def add_accessor(self, values: NDArray[Any], facts: dict[str, Any]) -> int:
        """The new accessor's row. values [N,K]; facts: whatever else it has to say."""
        raw = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
        stride = raw.shape[1] if facts["type"] == "SCALAR" else -(-raw.shape[1] // 4) * 4
        if stride != raw.shape[1]:  # vertex data stands at multiples of four bytes
            raw = np.pad(raw, ((0, 0), (0, stride - raw.shape[1])))
        view = self.append(raw.tobytes())
        if stride != values.dtype.itemsize * values.shape[1]:
            self.document["bufferViews"][view]["byteStride"] = stride
        accessors = self.document.setdefault("accessors", [])
        accessors.append({**facts, "bufferView": view, "count": len(values)})
        return len(accessors) - 1

    def view(self, index: int) -> bytes:
        """The bytes of a buffer view. Raises BadMeshFile."""
        view = self.document["bufferViews"][index]
        blob, start = self._find(view.get("byteOffset", 0), view["byteLength"], f"buffer view {index}")
        return blob[start : start + view["byteLength"]]

    def accessor(self, index: int) -> NDArray[Any]:
        """[count, width] in its own type, to be read only; normalised integers stay integers. Raises BadMeshFile."""
        a = self.document["accessors"][index]
        kind, width, count = np.dtype(COMPONENTS[a["componentType"]]), WIDTHS[a["type"]], a["count"]
        if "bufferView" in a:
            values = self._array(
                a["bufferView"], a.get("byteOffset", 0), kind, width, count, f"accessor {index}"
            )
        else:
            if count > self._starts[-1] + len(self.blobs[-1]):
                raise BadMeshFile(f"accessor {index} has {count:,} rows, more than the file has bytes.")
            values = np.broadcast_to(np.zeros((1, width), kind), (count, width))
        if "sparse" not in a:
            return values
        part, what = a["sparse"], f"accessor {index}"
        self._spend(count * width)
        if part["count"] > count:
            raise BadMeshFile(f"{what} replaces more values than there are.")
        at, new = part["indices"], part["values"]
        rows_kind = np.dtype(COMPONENTS[at["componentType"]])
        rows = self._array(at["bufferView"], at.get("byteOffset", 0), rows_kind, 1, part["count"], what)[:, 0]
        if rows.max() >= count:
            raise BadMeshFile(f"{what} replaces row {rows.max()}, and there are {count}.")
        values = np.array(values)
        values[rows] = self._array(
            new["bufferView"], new.get("byteOffset", 0), kind, width, part["count"], what
        )
        return values

    def floats(self, index: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """[len(rows), width] of these rows; normalised integers as the numbers that they stand for."""
        values = self.accessor(index)
        self._spend(len(rows) * values.shape[1])
        values = values[rows]
        if values.dtype.kind == "f" or not self.document["accessors"][index].get("normalized"):
            return values.astype(np.float64)
        return np.maximum(values.astype(np.float64) / np.iinfo(values.dtype).max, -1)

    def _spend(self, values: int) -> None:
        self._values_left -= values
        if self._values_left < 0:
            raise BadMeshFile("it has too many morph targets, joints or replaced values to be read.")

    def _array(
        self, view_row: int, offset: int, kind: np.dtype[Any], width: int, count: int, what: str
    ) -> NDArray[Any]:
        view = self.document["bufferViews"][view_row]
        size = kind.itemsize * width
        stride = view.get("byteStride", size)
        if stride < size:
            raise BadMeshFile(f"{what}: rows of {size} bytes are {stride} bytes apart.")
        if not count:
            return np.zeros((0, width), kind)
        blob, start = self._find(view.get("byteOffset", 0) + offset, stride * (count - 1) + size, what)
        return np.ndarray((count, width), kind, blob, start, (stride, kind.itemsize))

    def _find(self, start: int, length: int, what: str) -> tuple[bytes, int]:
        number = bisect_right(self._starts, start) - 1
        inside = start - self._starts[number]
        if inside + length > len(self.blobs[number]):
            raise BadMeshFile(f"{what} reaches beyond the file's data.")
        return self.blobs[number], inside

    def image_name(self, index: int) -> str:
        found = self.document["images"][index]
        return clean(found.get("name") or found.get("uri", "")[:60] or f"image {index}")

    def image(self, index: int, images: Images) -> int:
        """Its row in `images`, or -1 with a note where it is missing or damaged. Raises BadMeshFile."""
        found = self.document["images"][index]
        if "bufferView" in found:
            return images.row(
                ("view", found["bufferView"]), self.image_name(index), self.view(found["bufferView"])
            )
        if found.get("uri", "").startswith("data:"):
            return images.row(index, self.image_name(index), _data(found["uri"]))
        images.miss(f"The image {self.image_name(index)} was not found beside the file.")
        return -1

    def content(self) -> bytes:
        return write_glb(self.document, self.blobs)


def write_glb(document: dict[str, Any], blobs: Sequence[bytes]) -> bytes:
    """A binary glTF 2.0 file. blobs: its buffer's parts, each of which begins at a multiple of 4 bytes."""
    binary = b"".join(_padded(blob, b"\0") for blob in blobs)
    buffers = document.setdefault("buffers", [{}])
    buffers[0]["byteLength"] = len(binary)
    text = _padded(json.dumps(document, separators=(",", ":"), allow_nan=False).encode(), b" ")
    head = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(binary))
    chunks = struct.pack("<I4s", len(text), b"JSON"), text, struct.pack("<I4s", len(binary), b"BIN\0"), binary
    return head + b"".join(chunks)


def parse(content: bytes, folder: Path | None = None) -> Glb:
    """A .glb or .gltf in one piece: what it names beside it is taken in. Raises BadMeshFile.

    folder  where the files that it names are; None: none is read
    """
    text, binary = _chunks(content)
    try:
        document = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadMeshFile(f"its document is damaged ({clean(error)[:100]}).") from error
    check_document(document)
    before = text.count(b'"uri"') + sum(text.count(name.encode()) for name in (DRACO, *MESHOPT))
    beside = None if folder is None else Beside(folder)
    glb = Glb(document, _join_buffers(document, binary, beside))
    if beside is not None:
        _take_images_in(glb, beside)
    _undo_draco(glb)
    glb.alone = content[:4] == b"glTF" and not before
    return glb


def _chunks(content: bytes) -> tuple[bytes, bytes]:
    """The document's text and the binary chunk."""
    if content[:4] != b"glTF":
        if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":
            raise BadMeshFile("it is no glTF file.")
        return content, b""
    if len(content) < 20:
        raise BadMeshFile("it is damaged: it ends in its header.")
    version, length, size = struct.unpack_from("<III", content, 4)
    if version != 2:
        raise BadMeshFile("it is not glTF 2.0: export it with a newer program.")
    if content[16:20] != b"JSON" or length > len(content) or 20 + size > length:
        raise BadMeshFile("it is damaged or cut short.")
    if length - 20 - size < 8:
        return content[20 : 20 + size], b""
    more, kind = struct.unpack_from("<I4s", content, 20 + size)
    if kind != b"BIN\0":
        return content[20 : 20 + size], b""
    return content[20 : 20 + size], content[28 + size : min(28 + size + more, length)]


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _data(uri: str) -> bytes:
    """The bytes of a data URI. Raises BadMeshFile."""
    head, _, body = uri.partition(",")
    try:
        return (
            base64.b64decode(unquote(body)) if head.endswith(";base64") else unquote(body).encode("latin-1")
        )
    except (binascii.Error, ValueError) as error:
        raise BadMeshFile(f"its data URI {clean(head)[:60]} is damaged.") from error


def _join_buffers(document: dict[str, Any], binary: bytes, beside: Beside | None) -> bytes:
    """All buffers as one; compressed views are unpacked behind them."""
    buffers = document.get("buffers", [])
    parts = [_buffer(b, binary if n == 0 else None, beside) for n, b in enumerate(buffers)]
    starts = np.cumsum([0, *(len(_padded(part, b"\0")) for part in parts)]).tolist()
    room = min(MOST_UNPACKED, (1 << 20) + BYTES_A_BYTE * sum(map(len, parts)))
    for number, view in enumerate(document.get("bufferViews", [])):
        name = next((n for n in MESHOPT if n in view.get("extensions", {})), "")
        held = view["extensions"].pop(name) if name else view
        part, start = parts[held["buffer"]], held.get("byteOffset", 0)
        if start + held["byteLength"] > len(part):
            raise BadMeshFile(f"buffer view {number} reaches beyond the file's data.")
        if name:
            room -= held["count"] * held["byteStride"]
            if room < 0:
                raise BadMeshFile(f"its {name} unpacks to too much: export without it.")
            unpacked = unpack_view(held, part[start : start + held["byteLength"]], name)
            view |= {"buffer": 0, "byteOffset": starts[-1], "byteLength": len(unpacked)}
            parts.append(unpacked)
            starts.append(starts[-1] + len(_padded(unpacked, b"\0")))
            if not view["extensions"]:
                del view["extensions"]
        elif len(parts) > 1:
            view |= {"buffer": 0, "byteOffset": starts[held["buffer"]] + start}
    if len(parts) == 1 and "uri" not in buffers[0]:
        return parts[0]
    if buffers:
        del buffers[1:]
        buffers[0].pop("uri", None)
        buffers[0].pop("extensions", None)
    _forget(document, MESHOPT)
    return b"".join(_padded(part, b"\0") for part in parts)


def _buffer(buffer: dict[str, Any], binary: bytes | None, beside: Beside | None) -> bytes:
    uri = buffer.get("uri")
    if uri is None:
        return binary or b""  # none: what compressed views fall back to, which is not read
    if uri.startswith("data:"):
        return _data(uri)
    try:
        if beside is None:
            raise InputError(f"{clean(uri)} is not in it.")
        return beside.read(beside.find(unquote(uri)))
    except InputError as error:
        raise BadMeshFile(f"its data is in another file: {error.message}") from error


def _take_images_in(glb: Glb, beside: Beside) -> None:
    """Images beside the file become part of it, each once; one that is missing stays named (Glb.image says so).

    Raises BadMeshFile where they are too many, or too large.
    """
    outside = [i for i in glb.document.get("images", []) if "uri" in i and "bufferView" not in i]
    outside = [image for image in outside if not image["uri"].startswith("data:")]
    if len(outside) > MOST_MATERIALS:
        raise BadMeshFile(f"it names {len(outside):,} images, more than {MOST_MATERIALS:,}.")
    taken: dict[Path, dict[str, Any]] = {}
    for image in outside:
        try:
            place = beside.find(unquote(image["uri"]))
        except InputError:
            continue
        if place not in taken:
            content = beside.read(place)
            kind = next((k for magic, k in _KINDS if content.startswith(magic)), "image/png")
            taken[place] = {"bufferView": glb.append(content), "mimeType": kind}
        image |= taken[place] | {"name": image.get("name", Path(image["uri"]).name)}
        del image["uri"]


_KINDS = ((b"\xff\xd8", "image/jpeg"), (b"RIFF", "image/webp"), (b"\0\0\0", "image/avif"))


def _undo_draco(glb: Glb) -> None:
    accessors = glb.document.get("accessors", [])
    for mesh in glb.document.get("meshes", []):
        for primitive in mesh["primitives"]:
            packed = primitive.get("extensions", {}).pop(DRACO, None)
            if packed is None:
                continue
            if not primitive["extensions"]:
                del primitive["extensions"]
            names = {n: i for n, i in packed["attributes"].items() if n in primitive["attributes"]}
            rows = {n: primitive["attributes"][n] for n in names}
            if "indices" not in primitive or "POSITION" not in rows or primitive.get("mode", 4) != 4:
                raise BadMeshFile(f"its {DRACO} has no triangles.")
            of_faces = accessors[primitive["indices"]]
            vertices = accessors[rows["POSITION"]]["count"]
            tri, values = unpack_draco(
                glb.view(packed["bufferView"]), names, of_faces["count"] // 3, vertices
            )
            _fill(glb, primitive["indices"], tri.reshape(-1, 1))
            for name, row in rows.items():
                _fill(glb, row, values[name])
    _forget(glb.document, (DRACO,))


def _fill(glb: Glb, row: int, values: NDArray[Any]) -> None:
    """Unpacked values for an accessor that has none of its own."""
    accessor = glb.document["accessors"][row]
    kind, width = np.dtype(COMPONENTS[accessor["componentType"]]), WIDTHS[accessor["type"]]
    if accessor["count"] != len(values) or values.shape[1] < width:
        raise BadMeshFile(f"its {DRACO} holds other values than accessor {row} says.")
    made = glb.add_accessor(values[:, :width].astype(kind), {"type": accessor["type"]})
    added = glb.document["accessors"].pop(made)
    accessor.pop("byteOffset", None)
    accessor.pop("sparse", None)
    accessor["bufferView"] = added["bufferView"]


def _forget(document: dict[str, Any], names: tuple[str, ...]) -> None:
    """The file no longer uses these extensions."""
    for key in ("extensionsUsed", "extensionsRequired"):
        if key in document:
            document[key] = [name for name in document[key] if name not in names]
            if not document[key]:
                del document[key]


def _padded(blob: bytes, filler: bytes) -> bytes:
    """To a multiple of 4 bytes, as glTF wants."""
    return blob + filler * (-len(blob) % 4) if len(blob) % 4 else blob
