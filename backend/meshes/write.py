"""What is delivered: albedo.png, mesh.npz and mesh.glb. The same mesh gives the same bytes.

glTF 2.0's axes are y up, facing +Z; ours are z up, facing -Y. (x, y, z) is written as (x, z, -y), which
Blender's importer turns back. glTF counts v downwards, so v is written as 1 - v.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from backend import __version__
from backend.errors import DiskError, NumericsError
from backend.files import disk_errors, write_bytes
from backend.scene.mesh import Mesh, vertex_normals
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.meshfile import BadMeshFile, MeshArrays

ROUGHNESS = 0.8  # plain paint; nothing in an albedo says more

_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125  # glTF's component types
_VERTICES, _INDICES = 34962, 34963  # glTF's buffer view targets


def write_result(folder: Path, mesh: Mesh, albedo: Tensor, info: dict[str, Any]) -> dict[str, str]:
    """Writes the three files into an existing folder and returns name -> path.

    mesh    with UVs, on any device
    albedo  [S,S,3] float, sRGB values in [0,1], row 0 = top
    info    small JSON that goes into the GLB's extras; "prompt" names the object

    Raises NumericsError on a NaN, DiskError on a file that cannot be written.
    """
    arrays = to_arrays(mesh)
    png = png_bytes(albedo)
    files = JobFolder(folder)
    contents = {
        files.albedo: png,
        files.mesh_npz: meshfile.to_bytes(arrays),
        files.mesh_glb: glb_bytes(arrays, png, info),
    }
    for path, content in contents.items():
        write_bytes(path, content)
    return {path.name: str(path) for path in contents}


def to_arrays(mesh: Mesh) -> MeshArrays:
    """The mesh as numpy arrays, with smooth normals; raises NumericsError on a NaN."""
    if mesh.v_tex is None or mesh.t_tex_idx is None:
        raise ValueError("expected a mesh with UVs, got one without")

    def floats(name: str, tensor: Tensor) -> NDArray[np.float32]:
        if not tensor.isfinite().all():
            raise NumericsError(f"The mesh has a NaN or an infinity in {name}.", "Try another seed.")
        return tensor.detach().cpu().numpy().astype(np.float32)

    def indices(tensor: Tensor) -> NDArray[np.int32]:
        return tensor.cpu().numpy().astype(np.int32)

    normal = floats("its normals", vertex_normals(mesh))
    normal[~normal.any(1)] = (0, 0, 1)  # a vertex without an area of its own still needs a unit normal
    return MeshArrays(
        floats("its vertices", mesh.v_pos),
        indices(mesh.t_pos_idx),
        floats("its UVs", mesh.v_tex),
        indices(mesh.t_tex_idx),
        normal,
    )


def read_npz(path: Path) -> Mesh:
    """The mesh that write_result wrote; raises DiskError."""
    try:
        with disk_errors(path):
            arrays = meshfile.read(path)
    except BadMeshFile as error:
        raise DiskError(f"{path} cannot be used: {error}", "Generate the object again.") from error
    return Mesh(
        torch.from_numpy(arrays.v_pos),
        torch.from_numpy(arrays.t_pos_idx.astype(np.int64)),
        torch.from_numpy(arrays.v_tex),
        torch.from_numpy(arrays.t_tex_idx.astype(np.int64)),
    )


def png_bytes(image: Tensor) -> bytes:
    """An 8-bit PNG that says it is sRGB. image [H,W,3] float in [0,1]; raises NumericsError on a NaN."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected an image [H,W,3], got {list(image.shape)}")
    if not image.isfinite().all():
        raise NumericsError("The texture has a NaN or an infinity.", "Try another seed.")
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    chunks = PngInfo()
    chunks.add(b"sRGB", b"\x00")  # perceptual intent
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def glb_bytes(mesh: MeshArrays, png: bytes, info: dict[str, Any]) -> bytes:
    """A binary glTF 2.0 file: one node, one mesh, one material with this base colour texture."""
    corner, position, texcoord, normal = _split_seams(mesh)
    indices = corner.astype(np.uint16 if len(position) < 65535 else np.uint32)  # the last value is reserved
    blobs = [position.tobytes(), normal.tobytes(), texcoord.tobytes(), indices.tobytes(), png]
    views, offset = [], 0
    for blob, target in zip(blobs, (_VERTICES, _VERTICES, _VERTICES, _INDICES, None), strict=True):
        view = {"buffer": 0, "byteOffset": offset, "byteLength": len(blob)}
        views.append(view if target is None else {**view, "target": target})
        offset += len(_padded(blob, b"\0"))

    def accessor(view: int, component: int, kind: str, count: int) -> dict[str, Any]:
        return {"bufferView": view, "componentType": component, "count": count, "type": kind}

    name = str(info.get("prompt", "")) or "DreamFlow"
    pbr = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": ROUGHNESS}
    attributes = {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2}
    bounds = {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
    document = {
        "asset": {"version": "2.0", "generator": f"DreamFlow {__version__}", "extras": info},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [{"attributes": attributes, "indices": 3, "material": 0}]}],
        "materials": [{"name": name, "pbrMetallicRoughness": pbr}],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [
            {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}
        ],  # mipmaps, clamped
        "images": [{"name": "albedo", "mimeType": "image/png", "bufferView": 4}],
        "accessors": [
            accessor(0, _FLOAT, "VEC3", len(position)) | bounds,
            accessor(1, _FLOAT, "VEC3", len(normal)),
            accessor(2, _FLOAT, "VEC2", len(texcoord)),
            accessor(3, _UINT16 if indices.dtype == np.uint16 else _UINT32, "SCALAR", len(indices)),
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    text = _padded(json.dumps(document, separators=(",", ":"), allow_nan=False).encode(), b" ")
    binary = b"".join(_padded(blob, b"\0") for blob in blobs)
    header = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(binary))
    chunks = (
        struct.pack("<I4s", len(text), b"JSON"),
        text,
        struct.pack("<I4s", len(binary), b"BIN\0"),
        binary,
    )
    return header + b"".join(chunks)


def _split_seams(mesh: MeshArrays) -> tuple[NDArray[Any], ...]:
    """Corners [3F], and position [N,3], texcoord [N,2], normal [N,3] float32, one row a pair (vertex, UV)."""
    pair = mesh.t_pos_idx.astype(np.int64) * len(mesh.v_tex) + mesh.t_tex_idx
    pair, corner = np.unique(pair.reshape(-1), return_inverse=True)
    at_vertex, at_uv = pair // len(mesh.v_tex), pair % len(mesh.v_tex)

    def y_up(v: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack((v[:, 0], v[:, 2], -v[:, 1]), 1)

    u, v = mesh.v_tex[at_uv].T
    return corner, y_up(mesh.v_pos[at_vertex]), np.stack((u, 1 - v), 1), y_up(mesh.normal[at_vertex])


def _padded(blob: bytes, filler: bytes) -> bytes:
    """To a multiple of 4 bytes, as glTF wants."""
    return blob + filler * (-len(blob) % 4)
