"""Does a room come back as its objects? `generate --scene` with the exact prior of rooms, so these are real errors.

    python -m benchmarks.room [--levels N] [--seed N] [--threads N] [--out DIR]

Stage 1, preset draft, then 24 cameras inside that are not in the prior's list. psnr: of the field's views, dB, the mean
over them. An object is found where, in the pixels in which the room differs from the same room without it, the squared
error is under FOUND of what the room without it would have. Exits 1 where the mean is under PSNR or one is not found.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from backend.jobs.record import resolve_job
from backend.meshes.write import png_bytes
from backend.objects.room import WITHIN, Room, RoomPrior, build_room
from backend.objects.sphere_trace import render
from backend.scene.camera import Camera
from backend.scene.render_nerf import render_views
from backend.scene.scene import Scene
from backend.stages.chain import run_stages
from backend.stages.happenings import StageEnded, Stepped
from backend.stages.setup import set_up
from dreamflow_blender.contract.protocol import Job

PROMPT = "a room with a red mug, a yellow duck, a green cactus, a blue chair and an orange donut"
VIEWS, SIZE = 24, 64  # held-out cameras; pixels a side
PSNR, FOUND = 20.0, 0.25
DIFFERS = 0.05  # of a colour, from which a pixel shows the object


@dataclass(frozen=True)
class Judged:
    """psnr: mean over the views, dB; shares: by object, its squared error beside that of the room without it."""

    psnr: float
    shares: dict[str, float]

    @property
    def missing(self) -> list[str]:
        return [name for name, share in self.shares.items() if not share < FOUND]


def inside_cameras() -> Camera:
    """Random ones over the ranges of the prior's own: they are not in its list."""
    return WITHIN.sample(torch.Generator().manual_seed(0), VIEWS, SIZE, SIZE)


def judge(image: Tensor, room: Room, camera: Camera) -> Judged:
    """image [B,H,W,3] in [0,1]: what the camera's views show of a room that should be this one."""
    true = render(room, camera).colour
    error = (image.clamp(0, 1) - true).square()
    shares = {}
    for one in room.objects:
        others = tuple(other for other in room.objects if other is not one)
        without = render(replace(room, objects=others), camera).colour
        shown = (without - true).abs().amax(-1) > DIFFERS
        shares[one.shape.kind] = float(error[shown].mean() / (without - true)[shown].square().mean())
    return Judged(float((-10 * error.mean((1, 2, 3)).log10()).mean()), shares)


def seen(scene: Scene, camera: Camera) -> Tensor:
    """[B,H,W,3]: the field's views, before black."""
    return render_views(scene.field, scene.occupancy, camera, torch.zeros(3), scene.sampling).image


def recover(job: Job, prior: RoomPrior, every: int = 0) -> Scene:
    """The scene that stage 1 ends with; says how far it is after each `every` updates."""
    preset, began = resolve_job(job, prior, {}).preset, time.monotonic()
    scene: Scene | None = None
    for happening in run_stages(set_up(job, preset, prior, {}, torch.device("cpu"), job.threads)):
        match happening:
            case Stepped(at, step) if every and at.done % every == 0:
                print(
                    f"{at.done:6d}  loss {float(step.loss):.1f}  {time.monotonic() - began:.0f} s", flush=True
                )
            case StageEnded(at):
                scene = at.scene
    assert scene is not None
    return scene


def main() -> int:
    """The exit code."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--levels", type=int, default=300)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument(
        "--out", type=Path, help="where room.png goes: true views above, the field's below"
    )
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    job = Job(
        "room", "generate", PROMPT, "room", seed=given.seed, prior="exact", stages=("nerf",), scene=True,
        threads=given.threads, overrides={"nerf.levels": given.levels},
    )  # fmt: skip
    scene, camera, room = recover(job, RoomPrior(), 100), inside_cameras(), build_room(PROMPT)
    image = seen(scene, camera)
    judged = judge(image, room, camera)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        rows = [views[:8].permute(1, 0, 2, 3).flatten(1, 2) for views in (render(room, camera).colour, image)]
        (given.out / "room.png").write_bytes(png_bytes(torch.cat(rows)))
    print(
        f"psnr {judged.psnr:.1f} dB; "
        + ", ".join(f"{name} {share:.2f}" for name, share in judged.shares.items())
    )
    return int(judged.psnr < PSNR or bool(judged.missing))


if __name__ == "__main__":
    sys.exit(main())
