"""What a refine job delivers: the textures in full size, the mesh under them, and pictures of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from backend.files import write_bytes, write_text
from backend.meshes.glb_edit import repainted
from backend.meshes.obj_edit import corner_normals, repainted_obj
from backend.meshes.write import Group, glb_of_groups, png_bytes
from backend.results.deliver import STEPS, TURNTABLE_VIEWS, Delivered
from backend.results.look import BACKGROUND, BELOW, render_scene, turntable_cameras
from backend.results.pictures import write_curves, write_preview, write_turntable, write_views
from backend.scene.mesh import Mesh, Sheet, vertex_normals
from backend.scene.scene import Scene
from backend.texture.repaint import Canvas, paint
from backend.texture.sheets import welded
from backend.texture.source_colours import SourceColours
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.colour import to_linear
from dreamflow_blender.contract.files import read_plain
from dreamflow_blender.contract.jobfolder import JobFolder, indexed_filename
from dreamflow_blender.contract.meshfile import MeshArrays, ObjectArrays
from dreamflow_blender.contract.protocol import Job


@dataclass(frozen=True)
class Refined:
    """What a refine job hands over to be delivered.

    arrays   the object as it was read
    sheets   its textures
    mesh     the object placed, its colours before anything changed
    canvas   a sheet at its full size
    figures  of the run; the delivery's own come to them
    """

    job: Job
    arrays: ObjectArrays
    sheets: list[Sheet]
    mesh: Mesh
    colours: SourceColours
    canvas: Callable[[Sheet], Canvas]
    figures: dict[str, float]


def deliver_refined(
    refined: Refined, scene: Scene, curves: dict[str, dict[str, Tensor]], views: dict[str, Tensor]
) -> Generator[int, None, Delivered]:
    """Step by step: yields how many of the STEPS are done. Raises DiskError.

    curves  [iterations] by stage and name; views [8,H,W,3] after each stage
    """
    from backend.texture.colour_field import learned_colour

    arrays, sheets, mesh, colours = refined.arrays, refined.sheets, refined.mesh, refined.colours
    folder, job = JobFolder(refined.job.folder), refined.job
    yield 1
    images: list[Tensor] = []
    changed = 0.0
    for sheet in sheets:
        canvas = refined.canvas(sheet)
        images.append(paint(canvas, mesh, colours, learned_colour(scene)))
        changed += float((canvas.weight > 0).float().mean()) / len(sheets)
    yield 2
    result = result_arrays(arrays, sheets)
    yield 3
    pngs = [png_bytes(image) for image in images]
    files = {indexed_filename(folder.albedo, number): png for number, png in enumerate(pngs, 1)}
    files[folder.mesh_npz] = meshfile.to_bytes(result)
    info: dict[str, Any] = {"prompt": job.prompt, "seed": job.seed, "preset": job.preset, "prior": job.prior}
    if folder.object_glb.is_file():
        files[folder.mesh_glb] = repainted(
            read_plain(folder.object_glb, meshfile.MOST_BYTES), arrays, sheets, pngs
        )
    else:
        obj = read_plain(folder.object_obj, meshfile.MOST_BYTES) if folder.object_obj.is_file() else b""
        normal = corner_normals(obj) if obj else None
        files[folder.mesh_glb] = glb_of_groups(result, groups(arrays, sheets, pngs), info, normal)
        if obj:
            named = [indexed_filename(folder.albedo, n).name for n in range(1, len(images) + 1)]
            again = repainted_obj(obj, read_plain(folder.object_mtl), arrays, sheets, named)
            files |= {folder.path / name: content for name, content in again.items()}
    for path, content in files.items():
        write_bytes(path, content)
    write_text(folder.materials, materials_json(arrays, sheets))
    yield 4
    background = torch.full((3,), BACKGROUND, device=mesh.v_pos.device)
    rings = (
        turntable_cameras(8, 192, mesh.v_pos.device),
        turntable_cameras(8, 192, mesh.v_pos.device, elevation=BELOW),
    )
    seen, below = (render_scene(scene, ring, background).cpu() for ring in rings)
    write_views(folder.views, {**views, "result": seen, "from below": below})
    write_curves(folder.curves, curves)
    turning = render_scene(
        scene, turntable_cameras(TURNTABLE_VIEWS, 320, mesh.v_pos.device), background
    ).cpu()
    write_turntable(folder.turntable, turning)
    write_preview(folder.preview, turning[TURNTABLE_VIEWS // 12])
    pictures = (folder.views, folder.curves, folder.turntable, folder.preview)
    paths = {path.name: str(path) for path in (*files, folder.materials, *pictures)}
    figures = refined.figures | {
        "faces": float(len(arrays.t_pos_idx)),
        "texture_px": float(max(max(s.height, s.width) for s in sheets)),
        "textures": float(len(sheets)),
        "new_uvs": float(sum(s.new_uvs for s in sheets)),
        "share_changed": changed,  # of the texels on the surface
    }
    yield STEPS
    return Delivered(paths, figures, mesh, images[0][..., :3].float() / 255)


def groups(arrays: ObjectArrays, sheets: list[Sheet], pngs: list[bytes]) -> list[Group]:
    """The parts of a GLB: one for each texture, and one for each material that none of them is for."""
    found = []
    left = np.ones(len(arrays.t_pos_idx), bool)
    for sheet, png in zip(sheets, pngs, strict=True):
        left[sheet.faces] = False
        names = ", ".join(str(arrays.names[row]) for row in sheet.materials)
        blend = bool((arrays.base[list(sheet.materials), 3] < 1).any())
        wrap = (1, 1) if sheet.new_uvs else tuple(arrays.wrap[sheet.materials[0]].tolist())
        found.append(Group(sheet.faces, names, png, wrap=wrap, blend=blend))
    for row in np.unique(arrays.material[left]):
        image = int(arrays.image[row])
        base = arrays.base[row].astype(np.float64)
        factor = (*to_linear(base[:3]).tolist(), float(base[3]))
        own = png_bytes(torch.from_numpy(arrays.images[image])) if image >= 0 else None
        wrap = tuple(arrays.wrap[row].tolist())
        faces = np.nonzero(left & (arrays.material == row))[0]
        found.append(Group(faces, str(arrays.names[row]), own, factor, wrap, bool(base[3] < 1)))
    return found


def result_arrays(arrays: ObjectArrays, sheets: list[Sheet]) -> MeshArrays:
    """The same triangles with the UVs that the textures are for; faces without a texture keep their own."""
    faces = len(arrays.t_pos_idx)
    index = np.full((faces, 3), -1, np.int64)
    parts: list[NDArray[np.float32]] = []
    offset = 0
    for sheet in sheets:
        parts.append(sheet.v_tex)
        index[sheet.faces] = sheet.t_tex_idx + offset
        offset += len(sheet.v_tex)
    rest = index[:, 0] < 0
    if rest.any():
        own = arrays.uv[rest] if len(arrays.uv) else np.zeros((int(rest.sum()), 3, 2), np.float32)
        v_tex, t_tex_idx = welded(own)
        parts.append(v_tex)
        index[rest] = t_tex_idx + offset
    size = np.ptp(arrays.v_pos.astype(np.float64), axis=0).max()  # at their own, tiny objects have no normals
    scaled = ((arrays.v_pos - arrays.v_pos.astype(np.float64).mean(0)) / size).astype(np.float32)
    triangles = torch.from_numpy(arrays.t_pos_idx.astype(np.int64))
    normal = vertex_normals(Mesh(torch.from_numpy(scaled), triangles)).numpy()
    normal[~normal.any(1)] = (0, 0, 1)
    return MeshArrays(
        arrays.v_pos,
        arrays.t_pos_idx,
        np.concatenate(parts).astype(np.float32),
        index.astype(np.int32),
        normal,
    )


def materials_json(arrays: ObjectArrays, sheets: list[Sheet]) -> str:
    """materials.json's content."""
    textures = [
        {
            "file": indexed_filename(JobFolder("").albedo, number).name,
            "materials": [str(arrays.names[row]) for row in sheet.materials],
            "new_uvs": sheet.new_uvs,
            "faces": len(sheet.faces),
        }
        for number, sheet in enumerate(sheets, 1)
    ]
    new_uvs = any(sheet.new_uvs for sheet in sheets)
    return json.dumps({"textures": textures, "new_uvs": new_uvs}, indent=1) + "\n"
