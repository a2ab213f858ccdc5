"""What is delivered: albedo.png, mesh.npz and mesh.glb. The same mesh gives the same bytes.

glTF 2.0's axes are y up, facing +Z; ours are z up, facing -Y. (x, y, z) is written as (x, z, -y), which
Blender's importer turns back. glTF counts v downwards, so v is written as 1 - v.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
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
from backend.meshes.glb import write_glb
from backend.scene.mesh import Mesh, vertex_normals
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.meshfile import BadMeshFile, MeshArrays

ROUGHNESS = 0.8  # plain paint; nothing in an albedo says more

Tangents = Callable[
    [NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]
]

_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125  # glTF's component types
_WRAPS = {0: 10497, 1: 33071, 2: 33648}  # of ObjectArrays.wrap
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
    """[H,W,3 or 4] sRGB, uint8 or in [0,1]; alpha is left out where nothing is transparent.

    Raises NumericsError for a NaN or an infinity, ValueError for another shape.
    """
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise ValueError(f"expected an image [H,W,3] or [H,W,4], got {list(image.shape)}")
    if image.dtype != torch.uint8:
        if not bool(torch.isfinite(image).all()):
            raise NumericsError("The texture has a NaN or an infinity.", "Try another seed.")
        image = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = image.cpu().numpy()
    if pixels.shape[2] == 4 and (pixels[..., 3] == 255).all():
        pixels = np.ascontiguousarray(pixels[..., :3])
    chunks = PngInfo()
    chunks.add(b"sRGB", b"\x00")  # perceptual intent
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


@dataclass(frozen=True)
class Group:
    """Faces that wear one material.

    png     its base colour texture, or None
    factor  linear RGB and alpha, which multiply
    wrap    of the texture, across and up, as in ObjectArrays
    blend   whether what is behind it shines through
    normal_png   its tangent-space normals, or None
    orm_png      occlusion, roughness and metal in red, green and blue, or None
    """

    faces: NDArray[np.int64]
    name: str
    png: bytes | None
    factor: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    wrap: tuple[int, int] = (1, 1)
    blend: bool = False
    normal_png: bytes | None = None
    orm_png: bytes | None = None


def glb_bytes(mesh: MeshArrays, png: bytes, info: dict[str, Any]) -> bytes:
    """A binary glTF 2.0 file: one node, one mesh, one material with this base colour texture."""
    name = str(info.get("prompt", "")) or "DreamFlow"
    return glb_of_groups(mesh, [Group(np.arange(len(mesh.t_pos_idx)), name, png)], info)


def glb_of_groups(
    mesh: MeshArrays, groups: list[Group], info: dict[str, Any], normal: NDArray[np.float32] | None = None,
    tangents: Tangents | None = None,
) -> bytes:  # fmt: skip
    """A binary glTF 2.0 file with a primitive for each group.

    info      "name", or else "prompt", names the object
    normal    [F,3,3] of each corner, where the object has its own; else the mesh's smooth ones are written
    tangents  from position, texcoord, normal and corners [F,3] to [N,4]; None: none are written
    """
    name = str(info.get("name") or info.get("prompt", "")) or "DreamFlow"
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": f"DreamFlow {__version__}", "extras": info},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": []}],
        "materials": [], "textures": [], "samplers": [], "images": [], "accessors": [], "bufferViews": [],
    }  # fmt: skip
    blobs: list[bytes] = []
    for group in groups:
        _add_group(document, blobs, mesh, group, normal, tangents)
    return write_glb({key: value for key, value in document.items() if value != []}, blobs)


def _add_group(
    document: dict[str, Any],
    blobs: list[bytes],
    mesh: MeshArrays,
    group: Group,
    normal: NDArray[np.float32] | None,
    tangents: Tangents | None,
) -> None:
    def view(content: bytes, target: int | None) -> int:
        made = {
            "buffer": 0,
            "byteOffset": sum(-(-len(b) // 4) * 4 for b in blobs),
            "byteLength": len(content),
        }
        document["bufferViews"].append(made if target is None else {**made, "target": target})
        blobs.append(content)
        return len(blobs) - 1

    def accessor(values: NDArray[Any], component: int, kind: str, target: int) -> int:
        made = {
            "bufferView": view(values.tobytes(), target),
            "componentType": component,
            "count": len(values),
        }
        document["accessors"].append({**made, "type": kind})
        return len(document["accessors"]) - 1

    def texture(content: bytes, kind: str, wrap: tuple[int, int]) -> dict[str, int]:
        across, up = (_WRAPS[one] for one in wrap)
        sampler = {"magFilter": 9729, "minFilter": 9987, "wrapS": across, "wrapT": up}  # mipmaps
        if sampler not in document["samplers"]:
            document["samplers"].append(sampler)
        count = sum(image["name"].split()[0] == kind for image in document["images"])
        name = f"{kind} {count + 1}" if count else kind
        document["images"].append({"name": name, "mimeType": "image/png", "bufferView": view(content, None)})
        made = {"source": len(document["images"]) - 1, "sampler": document["samplers"].index(sampler)}
        document["textures"].append(made)
        return {"index": len(document["textures"]) - 1}

    corner, position, texcoord, normals = split_seams(mesh, group.faces, normal)
    tangent = None if tangents is None else tangents(position, texcoord, normals, corner.reshape(-1, 3))
    position, normals = y_up(position), y_up(normals)
    texcoord = np.stack((texcoord[:, 0], 1 - texcoord[:, 1]), 1)
    small = len(position) < 65535  # the last value is reserved
    bounds = {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
    primitive: dict[str, Any] = {
        "attributes": {
            "POSITION": accessor(position, _FLOAT, "VEC3", _VERTICES),
            "NORMAL": accessor(normals, _FLOAT, "VEC3", _VERTICES),
            "TEXCOORD_0": accessor(texcoord, _FLOAT, "VEC2", _VERTICES),
        },
        "indices": accessor(
            corner.astype(np.uint16 if small else np.uint32),
            _UINT16 if small else _UINT32,
            "SCALAR",
            _INDICES,
        ),
        "material": len(document["materials"]),
    }
    if tangent is not None:
        upright = np.concatenate((y_up(tangent[:, :3]), tangent[:, 3:]), 1)
        primitive["attributes"]["TANGENT"] = accessor(upright, _FLOAT, "VEC4", _VERTICES)
    document["accessors"][primitive["attributes"]["POSITION"]] |= bounds
    document["meshes"][0]["primitives"].append(primitive)
    pbr: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": ROUGHNESS}
    if group.png is not None:
        pbr = {"baseColorTexture": texture(group.png, "albedo", group.wrap), **pbr}
    if group.factor != (1.0, 1.0, 1.0, 1.0):
        pbr["baseColorFactor"] = list(group.factor)
    material: dict[str, Any] = {"name": group.name, "pbrMetallicRoughness": pbr}
    if group.normal_png is not None:
        material["normalTexture"] = texture(group.normal_png, "normal", group.wrap)
    if group.orm_png is not None:
        material["occlusionTexture"] = pbr["metallicRoughnessTexture"] = texture(
            group.orm_png, "orm", group.wrap
        )
        pbr |= {"metallicFactor": 1.0, "roughnessFactor": 1.0}  # the texture says both
    document["materials"].append({**material, "alphaMode": "BLEND"} if group.blend else material)


def y_up(v: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N,3], from z up, facing -Y, to y up, facing +Z."""
    return np.stack((v[:, 0], v[:, 2], -v[:, 1]), 1)


def split_seams(
    mesh: MeshArrays, faces: NDArray[np.int64], normal: NDArray[np.float32] | None = None
) -> tuple[NDArray[Any], ...]:
    """Corners [3F], and position [N,3], texcoord [N,2], normal [N,3] float32, one row for each different corner."""
    at_vertex, at_uv = mesh.t_pos_idx[faces].reshape(-1), mesh.t_tex_idx[faces].reshape(-1)
    pair = at_vertex.astype(np.int64) * len(mesh.v_tex) + at_uv
    normals = mesh.normal
    if normal is None:
        pair, corner = np.unique(pair, return_inverse=True)
        at_vertex, at_uv = pair // len(mesh.v_tex), pair % len(mesh.v_tex)
        at_normal = at_vertex
    else:
        normals, at_normal = np.unique(normal[faces].reshape(-1, 3), axis=0, return_inverse=True)
        at_normal = at_normal.reshape(-1)
        key = np.unique(pair, return_inverse=True)[1].astype(np.int64) * len(normals) + at_normal
        _, first, corner = np.unique(key, return_index=True, return_inverse=True)
        at_vertex, at_uv, at_normal = at_vertex[first], at_uv[first], at_normal[first]
    return corner, mesh.v_pos[at_vertex], mesh.v_tex[at_uv], normals[at_normal]
