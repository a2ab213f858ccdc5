"""The profile `game`, as a person types it: files that other programs read, with all that they promise."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from backend.__main__ import main
from backend.game.game import unwrapped
from backend.meshes.glb import parse
from backend.meshes.write import write_result
from backend.scene.mesh import Mesh
from dreamflow_blender.contract.job import Job
from dreamflow_blender.contract.protocol import encode_job
from tests.meshes.test_write import VALIDATE, VALIDATOR
from tests.tools.made_meshes import grid_ball

NAME = "a-red-ball"
MAPS = {"albedo": (255, 0, 0), "normal": (128, 128, 255), "orm": (255, 204, 0)}  # of a plain ball


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A red ball of 2,000 faces, delivered, and made ready for a game."""
    v, t, _, _ = grid_ball(32, 32, radius=0.5)
    place, of = np.unique(np.round(v, 6), axis=0, return_inverse=True)
    mesh = unwrapped(
        Mesh(torch.from_numpy(place.astype(np.float32)), torch.from_numpy(of.reshape(-1)[t])), 128
    )
    folder = tmp_path_factory.mktemp("jöb 1")
    write_result(folder, mesh, torch.tensor([1.0, 0, 0]).expand(64, 64, 3), {})
    job = Job("1", "generate", "a red ball", str(folder))
    (folder / "job.json").write_text(json.dumps({"job": json.loads(encode_job(job))}))
    sizes = ["--faces", "600", "--texture-size", "128", "--height", "2", "--origin", "base"]
    assert main(["export", str(folder), "--profile", "game", *sizes]) == 0
    return folder / "export"


def test_blender_is_told_the_files_and_the_light_mesh_is_the_first_glb(made, tmp_path, capfd) -> None:
    """The words that ops/game.py sends, and what it reads of the answer."""
    asked = ["export", str(made.parent), "--profile", "game", "--origin", "base", "--json"]
    asked += ["--faces", "200", "--texture-size", "64", "--height", "0.25", "--out", str(tmp_path)]
    assert main(asked) == 0
    said = json.loads(capfd.readouterr().out)
    assert next(file for file in said["files"] if file.endswith(".glb")) == str(tmp_path / f"{NAME}.glb")
    assert all(Path(file).is_file() for file in said["files"]) and 150 < said["faces"][0] <= 200


def document(path: Path) -> dict:
    return parse(path.read_bytes()).document


def test_every_file_is_there_and_each_lod_has_half_the_faces(made, capsys) -> None:
    lods = [f"{NAME}{end}.glb" for end in ("", "_LOD1", "_LOD2", "_LOD3")]
    maps = [f"{NAME}_{kind}.png" for kind in MAPS]
    assert {path.name for path in made.iterdir()} == {*lods, *maps, f"{NAME}_collision.glb"}
    faces = [len(trimesh.load(made / name, force="mesh", process=False).faces) for name in lods]
    assert all(0.85 * most < count <= most for count, most in zip(faces, (600, 300, 150, 75), strict=True)), (
        faces
    )
    for name in lods:
        mesh = trimesh.load(made / name, force="mesh", process=False)
        np.testing.assert_allclose(mesh.bounds[:, 1], (0, 2), atol=0.1)  # 2 m high, on the ground, y up


@pytest.mark.parametrize("kind", MAPS)
def test_the_maps_of_a_plain_ball(made, kind) -> None:
    image = np.asarray(Image.open(made / f"{NAME}_{kind}.png").convert("RGB")).astype(int)
    assert image.shape == (128, 128, 3)
    assert np.abs(np.median(image, axis=(0, 1)) - MAPS[kind]).max() <= 4, np.median(image, axis=(0, 1))


def test_the_material_names_every_map_and_tangents_are_unit(made) -> None:
    glb = document(made / f"{NAME}.glb")
    (material,) = glb["materials"]
    pbr = material["pbrMetallicRoughness"]
    images = {
        use: glb["images"][glb["textures"][texture["index"]]["source"]]["name"]
        for use, texture in (
            ("colour", pbr["baseColorTexture"]),
            ("normal", material["normalTexture"]),
            ("occlusion", material["occlusionTexture"]),
            ("roughness", pbr["metallicRoughnessTexture"]),
        )
    }
    assert images == {"colour": "albedo", "normal": "normal", "occlusion": "orm", "roughness": "orm"}
    assert len(glb["images"]) == 3
    accessor = glb["accessors"][glb["meshes"][0]["primitives"][0]["attributes"]["TANGENT"]]
    assert accessor["type"] == "VEC4"


def test_the_hull_is_convex_and_holds_the_object(made) -> None:
    assert document(made / f"{NAME}_collision.glb")["nodes"][0]["name"] == f"UCX_{NAME}"
    hull = trimesh.load(made / f"{NAME}_collision.glb", force="mesh")
    ball = trimesh.load(made / f"{NAME}.glb", force="mesh")
    assert hull.is_convex and hull.is_watertight and hull.volume > 0 and len(hull.vertices) <= 64
    assert 0.85 < hull.volume / ball.volume < 1.02


@pytest.mark.parametrize("end", ["", "_LOD3", "_collision"])
def test_khronos_finds_nothing_to_say(made, end) -> None:
    node = shutil.which("node")
    if node is None or not VALIDATOR.is_dir():
        pytest.skip("needs node and `npm install --prefix .build/npm gltf-validator`, as .ci/run does")
    command = [node, "-e", VALIDATE, str(VALIDATOR), str(made / f"{NAME}{end}.glb")]
    issues = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    )
    assert issues["messages"] == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--profile", "game", "--faces", "3"], "100 to 200,000"),
        (["--profile", "game", "--texture-size", "9"], "64 to 8,192"),
        (["--profile", "game", "--up", "z"], "always y up"),
        (["--format", "obj", "--faces", "500"], "Add --deliver game"),
        (["--profile", "game", "--format", "obj"], "has its own formats"),
    ],
)
def test_what_makes_no_sense_is_refused(made, given, said, capsys) -> None:
    assert main(["export", str(made.parent), *given, "--out", str(made.parent / "other")]) == 2
    assert said in capsys.readouterr().err
    assert not (made.parent / "other").exists()
