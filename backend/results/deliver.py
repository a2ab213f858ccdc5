"""Delivery: the mesh made clean, unwrapped, baked and written, with the pictures that show it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.config import Delivery
from backend.meshes.write import write_result
from backend.results.look import BACKGROUND, BELOW, cameras_round, render_clay, render_textured
from backend.results.pictures import write_curves, write_preview, write_turntable, write_views
from backend.results.undersides import Colour, with_undersides
from backend.scene.mesh import Mesh
from backend.scene.render_nerf import render_views
from backend.scene.scene import Scene
from backend.scene.simplify import deliver, lighten
from backend.texture.bake import bake, polish
from backend.texture.unwrap import unwrap
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Job


@dataclass(frozen=True)
class Delivered:
    paths: dict[str, str]  # by file name
    figures: dict[str, float]
    mesh: Mesh  # with UVs
    albedo: Tensor  # [S,S,3]


TURNTABLE_VIEWS = 36
WITHIN_SIZE = 160  # pixels a side of a scene's, which the field itself shows
ACROSS = 2.0  # of seam_weight: from black to white, so many times a length more
STEPS = 5  # of `deliver_generated`: mesh, charts, texture, files, pictures


def seam_weight(colours: Tensor) -> Tensor:
    """[F,3] for unwrap: a seam along a side costs more where it leads from one colour to another, colours [F,3,3] of
    the corners: it goes round a spot rather than through it, and lies where both of its sides are alike."""
    return 1 + ACROSS * (colours - colours.roll(-1, 1)).abs().amax(2)


def textured(
    scene: Scene, settings: Delivery, cancelled: Callable[[], bool], lowest: float
) -> Generator[int, None, tuple[Mesh, Tensor, dict[str, float]]]:
    """The mesh with UVs and its albedo [S,S,3], row 0 at the top, and figures about both; three steps.

    lowest  degrees, the elevation of the prior's lowest cameras: an object's underside takes its colours from its sides
    """
    assert scene.mesh is not None, "hand over first"
    # the faces that are seen of a scene are open: nothing of theirs can be closed, nor told from a speck
    fit = lighten if scene.field.inside_out else deliver
    mesh = fit(scene.mesh, settings.max_faces)
    with torch.no_grad():
        weight = seam_weight(scene.field.albedo(mesh.v_pos)[mesh.t_pos_idx]).cpu().numpy()
    yield 1
    v_tex, t_tex_idx, method, _ = unwrap(
        mesh.v_pos.cpu().numpy().astype(np.float32),
        mesh.t_pos_idx.cpu().numpy(),
        settings.texture_size,
        cancelled=cancelled,
        weight=weight,
    )
    yield 2
    device = mesh.v_pos.device
    mesh = Mesh(
        mesh.v_pos, mesh.t_pos_idx, torch.from_numpy(v_tex).to(device), torch.from_numpy(t_tex_idx).to(device)
    )
    with torch.no_grad():
        colour: Colour = scene.field.albedo
        if not scene.field.inside_out:
            colour = with_undersides(mesh, colour, lowest)
        albedo = bake(mesh, colour, settings.texture_size)
        albedo = polish(albedo, mesh, colour, torch.Generator(device).manual_seed(0))
    figures = {
        "faces": float(len(mesh.t_pos_idx)),
        "vertices": float(len(mesh.v_pos)),
        "texture_px": float(settings.texture_size),
        "charts": float(method == "charts"),
    }
    yield 3
    return mesh, albedo, figures


def deliver_generated(
    scene: Scene,
    settings: Delivery,
    folder: Path,
    job: Job,
    curves: dict[str, dict[str, Tensor]],
    sheets: dict[str, Tensor],
    cancelled: Callable[[], bool],
    lowest: float,
) -> Generator[int, None, Delivered]:
    """Write everything that a job delivers, step by step: yields how many of the STEPS are done. Raises DiskError.

    cancelled   looked at while the charts are made, which may take a minute
    lowest      see `textured`
    """
    mesh, albedo, figures = yield from textured(scene, settings, cancelled, lowest)
    info: dict[str, Any] = {"prompt": job.prompt, "seed": job.seed, "preset": job.preset, "prior": job.prior}
    paths = dict(write_result(folder, mesh, albedo, info))
    yield 4

    background = torch.full((3,), BACKGROUND, device=mesh.v_pos.device)
    eight = cameras_round(scene, 8, 192)
    result, _ = render_textured(mesh, albedo, eight, background)
    below, _ = render_textured(mesh, albedo, cameras_round(scene, 8, 192, elevation=BELOW), background)
    clay = render_clay(mesh, eight, background)
    files = JobFolder(folder)
    rows = {"result": result.cpu(), "from below": below.cpu(), "shape": clay.cpu()}
    write_views(files.views, {**sheets, **rows})
    write_curves(files.curves, curves)
    if scene.field.inside_out:
        circle = cameras_round(scene, TURNTABLE_VIEWS, WITHIN_SIZE)
        turning = render_views(scene.field, scene.occupancy, circle, background, scene.sampling).image
    else:
        turning, _ = render_textured(mesh, albedo, cameras_round(scene, TURNTABLE_VIEWS, 320), background)
    write_turntable(files.turntable, turning.cpu())
    write_preview(files.preview, turning[TURNTABLE_VIEWS // 12].cpu())
    for path in (files.views, files.curves, files.turntable, files.preview):
        paths[path.name] = str(path)
    yield STEPS
    return Delivered(paths, figures, mesh, albedo)
