"""What are four views at once worth, by themselves? The exact prior told nothing: no words, and no pose.

    python -m benchmarks.exact_rings [--prompt "a yellow duck"] [--seeds 1,2,3]

Stage 1 and the hand-over, preset draft, from the same number of pictures: view by view, and as rings of four that are
denoised jointly (exact_rings_prior.py). Nothing says which way the object faces, so a result may stand turned about
the vertical axis: the figure is the silhouettes' IoU over 24 cameras that are not in the prior's list, at the best
of 72 turns.
"""

from __future__ import annotations

import argparse
import time

import torch

from backend.config import resolve
from backend.device import prepare_device
from backend.evidence.known_objects import held_out_cameras, truth
from backend.scene.camera import rings_of
from backend.scene.scene import Scene
from backend.stages.chain import run_stages
from backend.stages.happenings import StageEnded
from backend.stages.setup import set_up
from benchmarks.exact_rings_prior import ExactRings
from benchmarks.recovery import see
from dreamflow_blender.contract.protocol import Job

FRAMES, PICTURES = 4, 1500
VIEWS, SIZE, TURNS = 24, 64, 72


def best_turn(scene: Scene, prompt: str) -> tuple[float, float]:
    """The mean IoU of the mesh's silhouettes with the true object's at the best turn, and that turn in degrees."""
    camera = held_out_cameras(VIEWS, 0, SIZE, SIZE)
    true = truth(prompt, camera).alpha[..., 0] > 0.5
    turned = rings_of(camera, TURNS)  # camera by camera, each from every side
    found = see(scene, turned, False)[1][..., 0].view(VIEWS, TURNS, SIZE, SIZE) > 0.5
    both, either = ((found & true[:, None]).sum((2, 3)), (found | true[:, None]).sum((2, 3)))
    iou = (both / either).mean(0)
    return float(iou.max()), 360 / TURNS * float(iou.argmax())


def measure(prompt: str, frames: int, seed: int) -> tuple[float, float]:
    """See best_turn."""
    device = torch.device("cpu")
    settings = (
        {"nerf.levels": 300, "nerf.views": PICTURES // 300}
        if frames == 1
        else {"nerf.levels": 375, "nerf.views": 1}
    )
    changes = {**settings, "nerf.guidance_scale": 1.0, "geometry.levels": 1}
    preset = resolve("draft", {"job": changes}).preset
    job = Job("rings", "generate", prompt, "unused", seed=seed, stages=("nerf",))
    scene = None
    for happening in run_stages(set_up(job, preset, ExactRings(device, frames), {}, device)):
        if isinstance(happening, StageEnded):
            scene = happening.at.scene
    assert scene is not None
    return best_turn(scene, prompt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", default="a yellow duck")
    parser.add_argument("--seeds", default="1,2,3")
    args = parser.parse_args()
    prepare_device(torch.device("cpu"), 1)
    for seed in map(int, args.seeds.split(",")):
        for frames in (FRAMES, 1):
            began = time.process_time()
            iou, turn = measure(args.prompt, frames, seed)
            name = "rings of four" if frames > 1 else "view by view"
            spent = time.process_time() - began
            print(
                f"{args.prompt}  seed {seed}  {name}  iou {iou:.3f} (turned {turn:.0f})  {spent:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
