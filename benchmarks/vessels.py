"""How hollow is a vessel, and what do normal maps in stage 1 cost others? Stages 1 and 2a, preset draft.

    python -m benchmarks.vessels [--kinds mug,bowl,chair] [--shares 0,0.3] [--seeds 1,2,3] [--prior mini]
                                 [--set nerf.levels=150]

A row a run: the share of stage 1's updates that show normal maps, and after each stage the silhouettes' IoU over
24 cameras that are not in the prior's list, and of mug and bowl the depth: from above, the median over the cavity of
how deep the mesh is below the rim, over how deep the true object is. 1 is hollow, 0 is filled to the rim.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from backend.config import Preset
from backend.device import prepare_device
from backend.diffusion.prior import Prior
from backend.evidence.known_objects import held_out_cameras, truth
from backend.evidence.recovery import SIZE, VIEWS, compare
from backend.jobs.priors import open_prior
from backend.jobs.record import resolve_job
from backend.objects.shapes import Shape, build
from backend.scene.mesh import Mesh
from backend.stages.chain import run_stages
from backend.stages.happenings import StageBegan, StageEnded
from backend.stages.setup import set_up
from benchmarks.recovery import see
from dreamflow_blender.contract.language.reading import Description
from dreamflow_blender.contract.protocol import Job
from dreamflow_blender.contract.settings import read_setting

NEAR = 5e-4  # metres from a surface that is met
ACROSS = 40  # rays from above along a side of the object's box
INSIDE = "inside"  # the part's name, of kinds that are hollow


def true_heights(shape: Shape, xy: Tensor) -> tuple[Tensor, Tensor]:
    """[N] the height in metres at which a ray down at each of xy [N,2] meets the object, and which of its parts it
    meets [N] int64; -1 where it meets none."""
    points = torch.cat((xy, torch.full((len(xy), 1), 0.6)), 1)
    for _ in range(200):
        away = shape.sdf(points)
        points[:, 2] -= torch.where(away < NEAR, 0.0, away)  # who is there stays, or would sink in
    met = (shape.sdf(points).abs() < 2e-3) & (points[:, 2] > -0.6)
    return points[:, 2], torch.where(met, shape.part(points), -1)


def mesh_heights(mesh: Mesh, xy: Tensor) -> Tensor:
    """[N] the highest point in metres of the mesh at each of xy [N,2]; -inf where there is none."""
    corners = mesh.v_pos[mesh.t_pos_idx].double()
    heights = []
    for at in xy.double():
        a, b, c = (corners[:, i, :2] - at for i in range(3))
        areas = torch.stack([p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0] for p, q in ((b, c), (c, a), (a, b))], 1)
        total = areas.sum(1)
        over = ((areas >= 0).all(1) | (areas <= 0).all(1)) & (total.abs() > 1e-14)
        z = (areas * corners[:, :, 2]).sum(1)[over] / total[over]
        heights.append(float(z.max()) if len(z) else -float("inf"))
    return torch.tensor(heights)


def depth(mesh: Mesh, shape: Shape) -> float:
    """The median over the cavity of the depth below the rim, over the true one; nan for what has no inside."""
    if INSIDE not in shape.names:
        return float("nan")
    axis = torch.linspace(-0.5, 0.5, ACROSS)
    xy = torch.cartesian_prod(axis, axis)
    z, part = true_heights(shape, xy)
    rim = z[part >= 0].max()
    cavity = (part == shape.names.index(INSIDE)) & (z < rim - 0.05)
    found = mesh_heights(mesh, xy[cavity]).clamp(min=-0.5)
    return float(((rim - found) / (rim - z[cavity])).median())


def measure(prompt: str, seed: int, prior: Prior, preset: Preset) -> str:
    """A run's figures, as the rest of its row."""
    device = torch.device("cpu")
    job = Job("vessels", "generate", prompt, "unused", seed=seed, stages=("nerf", "geometry"))
    shape = build(Description(prompt.split()[-1], prompt.split()[1]))
    camera = held_out_cameras(VIEWS, 0, SIZE, SIZE)
    true = truth(prompt, camera)
    began, line = time.process_time(), ""
    for happening in run_stages(set_up(job, preset, prior, {}, device)):
        if isinstance(happening, StageBegan | StageEnded) and happening.at.stage.name == "geometry":
            scene = happening.at.scene
            assert scene.mesh is not None
            figures = compare(*see(scene, camera, False), true.colour, true.alpha)
            hollow = depth(scene.mesh, shape)
            line += f" {figures.iou:.3f} / {figures.psnr:.1f} | {hollow:.2f} |"
    line += f" {time.process_time() - began:.0f} |"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", default="mug,bowl,chair")
    parser.add_argument("--shares", default="0,0.3")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument(
        "--prior", default="exact", help="exact (default), exact-compass, mini, or a model's folder"
    )
    parser.add_argument("--set", action="append", default=[], help="a setting, as the command line takes it")
    args = parser.parse_args()
    prepare_device(torch.device("cpu"), 1)
    names = "prompt", "seed", "share", "hand-over", "depth", "geometry", "depth", "seconds"
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|", flush=True)
    colours = {"mug": "red", "bowl": "blue", "chair": "brown"}
    overrides = dict(read_setting(text) for text in args.set)
    prior = open_prior(args.prior, "cpu")
    for kind in args.kinds.split(","):
        for seed in map(int, args.seeds.split(",")):
            for share in map(float, args.shares.split(",")):
                prompt = f"a {colours.get(kind, 'green')} {kind}"
                settings = overrides | {"nerf.normal_share": share}
                job = Job("vessels", "generate", prompt, "unused", overrides=settings)
                line = measure(prompt, seed, prior, resolve_job(job, prior, {}).preset)
                print(f"| {prompt} | {seed} | {share:.1f} |{line}", flush=True)


if __name__ == "__main__":
    main()
