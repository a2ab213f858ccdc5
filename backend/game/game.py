"""A finished mesh made ready for a game: few triangles with the detail in a normal map, LODs, and a collision hull."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import ConvexHull
from torch import Generator, Tensor

from backend import __version__
from backend.errors import InputError
from backend.files import write_files
from backend.game.details import Surface, bake_normals, even_directions, occlusion
from backend.game.lods import lighter
from backend.game.tangents import Frames, tangents
from backend.meshes.glb import write_glb
from backend.meshes.write import Group, glb_of_groups, png_bytes, split_seams, to_arrays, y_up
from backend.results.export import Placing, about, place, read_mesh, read_texture
from backend.scene.mesh import Mesh, face_normals
from backend.scene.simplify import deliver
from backend.texture.bake import Points, by_parts, dilate, polish, sample_texture, texels_of
from backend.texture.unwrap import unwrap
from dreamflow_blender.contract.job import Job
from dreamflow_blender.contract.jobfolder import slug
from dreamflow_blender.contract.meshfile import MeshArrays

HULL_POINTS = 64  # an engine's physics wants few; its name begins with UCX_, as Unreal wants it
LEAST_FACES = 100


def check_texture_size(size: int) -> None:
    """Raises InputError."""
    if not 64 <= size <= 8192:
        raise InputError(
            f"A texture has 64 to 8,192 pixels a side, got {size:,}.", "Give another --texture-size."
        )


@dataclass(frozen=True)
class Game:
    """What the profile `game` makes."""

    faces: int = 1500  # of LOD0, at most
    texture_size: int = 1024  # pixels a side of each map
    lods: int = 3  # more of them, each with half the triangles of the one before
    roughness: float = 0.8  # plain paint: a constant, since nothing in an albedo says more

    def __post_init__(self) -> None:
        if not LEAST_FACES <= self.faces <= 200_000:
            raise InputError(
                f"A game's mesh has {LEAST_FACES} to 200,000 faces, got {self.faces:,}.",
                "Give another --faces.",
            )
        check_texture_size(self.texture_size)


@dataclass(frozen=True)
class Made:
    """What was written; faces: of each LOD."""

    paths: list[Path]
    faces: list[int]


@dataclass(frozen=True)
class Maps:
    """[S,S,3] in [0,1] each: sRGB albedo; tangent-space normals; occlusion, roughness, metal as glTF packs them."""

    albedo: Tensor
    normal: Tensor
    orm: Tensor


def export_game(job: Job, game: Game, placing: Placing, out: Path) -> Made:
    """Writes PROMPT.glb, PROMPT_LOD1.glb and so on, PROMPT_collision.glb, and the maps as PNG into `out`.

    Raises InputError for a job without a mesh, DiskError.
    """
    detailed, texture = read_detailed(job, placing)
    light = unwrapped(deliver(Mesh(detailed.v_pos, detailed.t_pos_idx), game.faces), game.texture_size)
    maps = bake_maps(light, detailed, texture, game.texture_size, game.roughness)
    name = slug(job.prompt)
    pngs = {kind: png_bytes(image) for kind, image in vars(maps).items()}
    levels = [light]
    for _ in range(game.lods):
        levels.append(lighter(levels[-1], max(LEAST_FACES // 2, len(levels[-1].t_pos_idx) // 2)))
    files = {f"{name}_{kind}.png": content for kind, content in pngs.items()}
    for number, level in enumerate(levels):
        part = f"{name}_LOD{number}" if number else name
        files[f"{part}.glb"] = glb_of(to_arrays(level), part, pngs, about(job))
    files[f"{name}_collision.glb"] = hull_glb(detailed, f"UCX_{name}", about(job))
    return Made(write_files(out, files), [len(level.t_pos_idx) for level in levels])


def read_detailed(job: Job, placing: Placing) -> tuple[Mesh, Tensor]:
    """The job's mesh where it is to stand, and its texture [S,S,3] in [0,1]. Raises InputError, DiskError."""
    arrays = place(read_mesh(job, ["obj"]), placing)
    with Image.open(io.BytesIO(read_texture(job)), formats=["PNG"]) as image:
        texture = torch.from_numpy(np.array(image.convert("RGB"))).float() / 255
    return Mesh(
        torch.from_numpy(arrays.v_pos),
        torch.from_numpy(arrays.t_pos_idx).long(),
        torch.from_numpy(arrays.v_tex),
        torch.from_numpy(arrays.t_tex_idx).long(),
    ), texture


def unwrapped(mesh: Mesh, texture_size: int, weight: NDArray[np.float32] | None = None) -> Mesh:
    """With new UVs; weight as unwrap's."""
    made = unwrap(mesh.v_pos.numpy(), mesh.t_pos_idx.numpy(), texture_size, weight=weight)
    return Mesh(mesh.v_pos, mesh.t_pos_idx, torch.from_numpy(made.v_tex), torch.from_numpy(made.t_tex_idx))


def bake_maps(light: Mesh, detailed: Mesh, texture: Tensor, size: int, roughness: float) -> Maps:
    """The light mesh's maps: what the detailed one, under its texture [S,S,3], is like at the nearest place."""
    surface, texels = Surface(detailed), texels_of(light, size)
    frames = frames_of(to_arrays(light))
    at, flat = light.v_pos[light.t_pos_idx], face_normals(light)  # [F,3,3], [F,3]

    def nearest(part: Points) -> tuple[Tensor, Points]:
        where = part.position(light)
        return where, surface.nearest(where, flat[part.face])

    def colour_there(points: Points) -> Tensor:
        return sample_texture(texture, points.uv(detailed))

    albedo = dilate(by_parts(texels.points, lambda part: colour_there(nearest(part)[1])), texels)
    albedo = polish(
        albedo, light, lambda where: colour_there(surface.nearest(where)), Generator().manual_seed(0),
        count=size**2 // 4,
    )  # fmt: skip
    normal = dilate(bake_normals(texels.points, frames, surface, at), texels)

    def shade(part: Points) -> Tensor:
        _, points = nearest(part)
        return occlusion(detailed, points.position(detailed), surface.normal(points))[:, None]

    dark = dilate(shade(texels.points), texels)
    orm = torch.cat((dark, torch.full_like(dark, roughness), torch.zeros_like(dark)), 2)
    return Maps(albedo, normal, orm)


def frames_of(arrays: MeshArrays) -> Frames:
    """Of every corner, as the GLB will have them."""
    corner, position, texcoord, normal = split_seams(arrays, np.arange(len(arrays.t_pos_idx)))
    corners = corner.reshape(-1, 3)
    tangent = torch.from_numpy(tangents(position, texcoord, normal, corners))[torch.from_numpy(corners)]
    return Frames(tangent[..., :3], torch.from_numpy(normal)[torch.from_numpy(corners)], tangent[..., 3])


def glb_of(arrays: MeshArrays, name: str, pngs: dict[str, bytes], info: dict[str, Any]) -> bytes:
    """A mesh with all its maps, and the tangents that they were baked for."""
    faces = np.arange(len(arrays.t_pos_idx))
    group = Group(faces, name, pngs["albedo"], normal_png=pngs["normal"], orm_png=pngs["orm"])
    return glb_of_groups(arrays, [group], {**info, "name": name}, tangents=tangents)


def hull_glb(mesh: Mesh, name: str, info: dict[str, Any]) -> bytes:
    """The convex hull of the mesh's outermost points in HULL_POINTS directions, and nothing but its shape."""
    v = mesh.v_pos.double().numpy()
    outermost = np.unique((v @ even_directions(HULL_POINTS).double().numpy().T).argmax(0))
    points = v[outermost]
    hull = ConvexHull(points)
    faces: NDArray[np.int64] = hull.simplices.astype(np.int64)
    a, b, c = (points[faces[:, i]] for i in range(3))
    inward = (np.cross(b - a, c - a) * hull.equations[:, :3]).sum(1) < 0
    faces[inward] = faces[inward][:, ::-1]
    position = y_up(points.astype(np.float32))
    blobs = [position.tobytes(), faces.astype(np.uint16).tobytes()]
    starts = (0, len(blobs[0]))
    bounds = {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
    document = {
        "asset": {"version": "2.0", "generator": f"DreamFlow {__version__}", "extras": info},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": len(points), "type": "VEC3", **bounds},
            {"bufferView": 1, "componentType": 5123, "count": faces.size, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": start, "byteLength": len(blob), "target": target}
            for start, blob, target in zip(starts, blobs, (34962, 34963), strict=True)
        ],
    }
    return write_glb(document, blobs)
