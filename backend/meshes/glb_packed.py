"""Compressed glTF data unpacked by `meshoptimizer` and `DracoPy`, where they are installed; refused by name where not.

What the data claims to be is compared with the document before either library sees it.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.meshes.glb_schema import DRACO
from backend.meshes.parts import refuse_more_faces
from dreamflow_blender.contract.meshfile import BadMeshFile

MOST_UNPACKED = 1 << 30
BYTES_A_BYTE = 256  # of a file of which everything is one value; real ones are below 20
_FILTERS = {"OCTAHEDRAL": ("decode_filter_oct", (4, 8)), "QUATERNION": ("decode_filter_quat", (8,)),
            "EXPONENTIAL": ("decode_filter_exp", range(4, 257, 4))}  # fmt: skip


def library(package: str, extension: str) -> Any:
    """The package that unpacks this extension. Raises BadMeshFile where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise BadMeshFile(
            f"it is compressed with {extension}, and the Python package {package} is not installed: "
            f"install it into the backend's Python, or export without compression."
        ) from error


def unpack_view(packed: dict[str, Any], content: bytes, extension: str) -> bytes:
    """The bytes of a buffer view of EXT_ or KHR_meshopt_compression. Raises BadMeshFile.

    packed  the extension's object, as glb_schema has checked it; content: its part of the buffer
    """
    decode = library("meshoptimizer", extension)
    count, stride, mode, filter_ = (
        packed["count"], packed["byteStride"], packed["mode"], packed.get("filter", "NONE"),
    )  # fmt: skip
    name, strides = _FILTERS.get(filter_, ("", range(257)))
    fits = stride % 4 == 0 if mode == "ATTRIBUTES" else stride in (2, 4) and filter_ == "NONE"
    fits = fits and not (mode == "TRIANGLES" and count % 3)
    if not fits or stride not in strides or filter_ == "COLOR":
        raise BadMeshFile(
            f"its {extension} ({mode}, {filter_}, {stride} bytes) is not read: export without it."
        )
    try:
        if mode == "ATTRIBUTES":
            rows = decode.decode_vertex_buffer(count, stride, content, np.dtype(f"V{stride}"))
            plain = rows.view(np.uint8)
            return (getattr(decode, name)(plain, count, stride) if name else plain).tobytes()
        read = decode.decode_index_buffer if mode == "TRIANGLES" else decode.decode_index_sequence
        return read(count, 4, content).astype(f"<u{stride}").tobytes()  # always 4: it has room for no other
    except (ValueError, RuntimeError) as error:
        raise BadMeshFile(f"its {extension} is damaged ({error}).") from error


def unpack_draco(
    content: bytes, attributes: dict[str, int], faces: int, vertices: int
) -> tuple[NDArray[np.uint32], dict[str, NDArray[Any]]]:
    """Triangles [F,3] and each attribute's values [V,K] of a primitive. Raises BadMeshFile.

    attributes      name -> Draco's own number of it
    faces, vertices  as the document counts them: data that counts otherwise is refused before it is unpacked
    """
    draco = library("DracoPy", DRACO)
    refuse_more_faces(faces)
    if _counted_faces(content) != faces or vertices > 3 * faces:
        raise BadMeshFile(f"its {DRACO} holds another number of faces than the document says.")
    try:
        mesh = draco.decode(content)
        tri = np.asarray(mesh.faces, np.uint32).reshape(-1, 3)
        found = {n: np.asarray(mesh.get_attribute_by_unique_id(i)["data"]) for n, i in attributes.items()}
    except (draco.FileTypeException, ValueError, RuntimeError, TypeError, LookupError, MemoryError) as error:
        raise BadMeshFile(f"its {DRACO} is damaged ({error!r}).") from error
    if len(tri) != faces or any(a.ndim != 2 or len(a) != vertices for a in found.values()):
        raise BadMeshFile(f"its {DRACO} holds other faces or vertices than the document says.")
    return tri, found


def _counted_faces(content: bytes) -> int:
    """Of Draco's own header (its bitstream specification 2.2, sections 3 and 5.1); -1 where there is none."""
    if len(content) < 16 or content[:5] != b"DRACO" or tuple(content[5:7]) < (2, 2) or content[7] != 1:
        return -1
    # metadata, which glTF has no use for, would come first
    if int.from_bytes(content[9:11], "little") & 0x8000:
        return -1
    place = 12 if content[8] == 1 else 11  # edgebreaker: the kind of its traversal, its vertices, its faces
    counts = []
    for _ in range(2):
        value = shift = 0
        while place < len(content) and shift < 35:
            value |= (content[place] & 127) << shift
            shift += 7
            place += 1
            if content[place - 1] < 128:
                break
        counts.append(value)
    return counts[1] if content[8] == 1 else counts[0]
