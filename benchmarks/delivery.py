"""How much of a detailed mesh survives in a game's 1,500 triangles, as Blender's Cycles draws them?

    DREAMFLOW_BPY_PYTHON=python-with-bpy python -m benchmarks.delivery [--kinds teapot,robot | --jobs FOLDER ...]
        [--faces 1500] [--out DIR] [--beside PYTHON]

The true object of each kind, meshed finely and textured, or what a finished job of --jobs delivered, is made ready by
the profile `game`, and rendered under a sun from four sides: the detailed mesh, the light one with its normal map,
and the light one without. A line each: PSNR in dB of both against the detailed one, over the pixels that both cover
and inside of their outlines; of all three against the true object, which is meshed and textured finer still; and the
faces of the LODs. --beside names the Python of a second Blender, which renders the light mesh too: the line tells
both Blenders' PSNR, and the largest share of a picture's pixels that only one of them covers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_erosion

from backend.evidence.known_objects import true_mesh
from backend.game.game import Game, export_game, unwrapped
from backend.meshes.write import write_result
from backend.objects.grammar import parse_object
from backend.objects.shapes import build
from backend.results.export import Placing
from backend.scene.mesh import Mesh
from backend.scene.simplify import deliver
from backend.texture.bake import bake
from dreamflow_blender.contract.job import Job
from dreamflow_blender.contract.jobfolder import JobFolder, slug

EDGE = 3  # pixels along the outline, which no normal map can mend
CELLS, FACES, SIZE = 64, 40_000, 1024  # of the detailed mesh: its grid, its triangles at most, its texture
TRUE = 112, 400_000, 2048  # of the true object
RENDER = """
import bpy, sys
from mathutils import Vector
paths = sys.argv[sys.argv.index("--") + 1:]
for path, out, normals in zip(paths[::3], paths[1::3], paths[2::3]):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=path)
    scene = bpy.context.scene
    (made,) = (one for one in scene.objects if one.type == "MESH")
    if normals == "no":
        tree = made.active_material.node_tree
        for link in [one for one in tree.links if one.to_socket.name == "Normal"]:
            tree.links.remove(link)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.data.energy, sun.rotation_euler = 3, (0.9, 0.3, 0.5)
    for one in (camera, sun):
        scene.collection.objects.link(one)
    scene.camera, scene.world = camera, bpy.data.worlds.new("world")
    scene.world.use_nodes = True
    scene.world.node_tree.nodes["Background"].inputs[0].default_value = (0.4, 0.4, 0.4, 1)
    scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 256, False
    scene.render.resolution_x = scene.render.resolution_y = 256
    scene.render.film_transparent, scene.view_settings.view_transform = True, "Standard"
    for number, side in enumerate([(1, -3, 1), (3, 1, 1), (-1, 3, 1), (-3, -1, -0.5)]):
        camera.location = 0.5 * Vector(side)
        camera.rotation_euler = (-camera.location).to_track_quat("-Z", "Y").to_euler()
        scene.render.filepath = out.format(number)
        bpy.ops.render.render(write_still=True)
"""


def true_job(prompt: str, folder: Path, cells: int, faces: int, size: int) -> Job:
    """The true object as a delivered job."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = build(parse_object(prompt))
    mesh = deliver(true_mesh(shape, cells), faces)
    mesh = unwrapped(Mesh(mesh.v_pos, mesh.t_pos_idx), size)
    write_result(folder, mesh, bake(mesh, lambda x: shape.colours[shape.part(x)], size), {})
    return Job("1", "generate", prompt, str(folder))


def psnr(pictures: list[Path], truth: list[Path], edge: int) -> float:
    """dB over the pixels that both cover, `edge` of them left out along the outline."""
    wrong = []
    for ours, theirs in zip(pictures, truth, strict=True):
        a, b = (np.asarray(Image.open(path).convert("RGBA")).astype(float) / 255 for path in (ours, theirs))
        inside = (a[..., 3] > 0.99) & (b[..., 3] > 0.99)
        inside = binary_erosion(inside, iterations=edge) if edge else inside
        wrong.append(((a[..., :3] - b[..., :3]) ** 2)[inside])
    return float(-10 * np.log10(np.concatenate(wrong).mean()))


def render(python: str, folder: Path, asked: dict[str, Path], mark: str = "") -> dict[str, list[Path]]:
    """Four pictures of each asked file, named after it and `mark`; `plain` is shown without its normal map."""
    words = []
    for name, path in asked.items():
        words += [str(path), str(folder / f"{name}{mark}-{{}}.png"), "no" if name == "plain" else "yes"]
    script = folder / "render.py"
    script.write_text(RENDER)
    subprocess.run([python, str(script), "--", *words], check=True, capture_output=True)
    return {name: [folder / f"{name}{mark}-{n}.png" for n in range(4)] for name in asked}


def only_one_covers(pictures: list[Path], others: list[Path]) -> float:
    """The largest share of a picture's covered pixels that the other does not cover, or the other way round."""
    shares = []
    for one, other in zip(pictures, others, strict=True):
        a, b = (np.asarray(Image.open(path).convert("RGBA"))[..., 3] > 127 for path in (one, other))
        shares.append((a ^ b).sum() / (a | b).sum())
    return float(max(shares))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default="teapot,robot")
    parser.add_argument("--jobs", type=Path, nargs="+", metavar="FOLDER", help="finished jobs instead")
    parser.add_argument("--faces", type=int, default=1500)
    parser.add_argument("--out", type=Path, help="keep the files and pictures here")
    parser.add_argument("--beside", metavar="PYTHON", help="of another Blender, which has to render alike")
    args = parser.parse_args()
    torch.set_num_threads(1)
    python = os.environ.get("DREAMFLOW_BPY_PYTHON", sys.executable)
    with tempfile.TemporaryDirectory() as temporary:
        root = args.out or Path(temporary)
        jobs = [JobFolder(folder).read_job() for folder in args.jobs or []] or [
            true_job(f"a red {kind}", root / kind, CELLS, FACES, SIZE) for kind in args.kinds.split(",")
        ]
        for job in jobs:
            folder, detailed = root / slug(job.prompt), Path(job.folder) / "mesh.glb"
            true_job(job.prompt, folder / "true", *TRUE)
            made = export_game(job, Game(faces=args.faces), Placing(), folder / "game")
            light = next(path for path in made.paths if path.suffix == ".glb")
            asked = {
                "true": folder / "true/mesh.glb",
                "detailed": detailed,
                "light": light,
                "plain": light,
            }
            drawn = render(python, folder, asked)
            line: dict[str, object] = {"prompt": job.prompt, "faces": made.faces}
            for where, edge in (("everywhere", 0), ("inside", EDGE)):
                line[where] = [
                    round(psnr(drawn[name], drawn["detailed"], edge), 2) for name in ("light", "plain")
                ]
            beside = ("detailed", "light", "plain")
            line["beside the true object"] = [
                round(psnr(drawn[name], drawn["true"], EDGE), 2) for name in beside
            ]
            if args.beside:
                other = render(args.beside, folder, {"light": light}, "-beside")["light"]
                line["the other Blender"] = [
                    round(psnr(other, drawn["light"], 0), 2),
                    round(only_one_covers(other, drawn["light"]), 4),
                ]
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
