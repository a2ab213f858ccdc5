"""MVDream's folders in both published layouts, against a UNet that was written out from its description."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from backend.diffusion.camera_label import CAMERA_CONFIG, camera_label
from backend.diffusion.convention import scale_in
from backend.diffusion.joint_attention import join_frames
from backend.diffusion.savings import Savings
from backend.diffusion.schedule import NoiseLevel, sigma_at
from backend.errors import ModelError
from backend.models.latent_prior import LatentPrior
from backend.models.model_folder import open_folder
from backend.scene.camera import Camera, orbit, rings_of
from tests.tools.mvdream_reference import build, joined_frames, reference, write

LEVEL = NoiseLevel(500, sigma_at(500), sigma_at(499))
FRAMES = 4
LAYOUTS = ("ldm", "diffusers")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> dict[str, Path]:
    return {
        layout: build(tmp_path_factory.mktemp("mvdream") / f"mvdream {layout} é", base_folder, layout)
        for layout in LAYOUTS
    }


@pytest.fixture
def copied(tmp_path: Path, base_folder: Path) -> Callable[[str], Path]:
    return lambda layout: build(tmp_path / layout, base_folder, layout)


def cameras(count: int = 2) -> Camera:
    ones = torch.ones(count)
    return rings_of(orbit(torch.arange(count) * 25.0 - 40, 20 * ones, 1.3 * ones, 45 * ones, 64, 64), FRAMES)


def latents(views: int) -> Tensor:
    return torch.randn(views, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_denoises_as_the_model_written_out(folders: dict[str, Path], layout: str) -> None:
    prior = LatentPrior(folders[layout], "cpu")
    camera, z = cameras(), latents(2 * FRAMES)
    said = prior.prepare("a red mug", "blurry", "colour", 64)
    got = prior.denoise(z, LEVEL, camera, said, 3.0)
    written, found = reference(), []
    for text in (said.views, said.negative):
        hidden = text.hidden.expand(len(z), -1, -1)
        epsilon = written(z * scale_in(LEVEL), 500, hidden, camera_label(camera.c2w), FRAMES)
        found.append(z - LEVEL.sigma * epsilon)
    expected = found[1] + 3.0 * (found[0] - found[1])
    assert (
        float((got - expected).abs().max() / expected.abs().max()) < 1e-3
    )  # at sigma 1.6, guided, in float32
    assert (prior.spec.frames, prior.spec.native_size) == (FRAMES, 64)
    moved = z.clone()
    moved[5] += 1
    change = (prior.denoise(moved, LEVEL, camera, said, 3.0) - got).abs().amax((1, 2, 3)) > 1e-6
    assert change.tolist() == [False] * FRAMES + [True] * FRAMES


@pytest.mark.parametrize("layout", LAYOUTS)
def test_its_network_is_the_model_written_out(folders: dict[str, Path], layout: str) -> None:
    """In double precision, so that nothing but rounding is let through."""
    unet = LatentPrior(folders[layout], "cpu")._network.unet
    assert isinstance(unet, UNet2DConditionModel)
    generator = torch.Generator().manual_seed(2)
    z, text, label = (
        torch.randn(2 * FRAMES, *shape, generator=generator, dtype=torch.float64)
        for shape in ((4, 8, 8), (77, 16), (16,))
    )
    with torch.no_grad():
        got = unet.double()(z, torch.tensor(737.0), encoder_hidden_states=text, class_labels=label).sample
    expected = reference().double()(z, 737, text, label, FRAMES)
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5


def test_both_layouts_are_the_same_network(folders: dict[str, Path]) -> None:
    first, second = (LatentPrior(folders[layout], "cpu")._network.unet.state_dict() for layout in LAYOUTS)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    # and every number of the published files is in it
    stored = load_file(folders["ldm"] / WEIGHTS)
    assert sum(t.numel() for t in first.values()) == sum(t.numel() for t in stored.values())
    assert len(first) == len(stored)


@pytest.mark.parametrize("start", [("ldm", 0.0), ("diffusers", 90.0)])
def test_the_label_is_the_matrix_that_each_layouts_own_code_makes(start: tuple[str, float]) -> None:
    """One looks along +Y first, from -Y; the other from +X. Both tell a matrix of the same world, as ours is."""
    layout, azimuth = start
    elevation = np.radians(15)
    if layout == "ldm":  # OpenGL's world, y up and the camera on +Z, turned into Blender's
        place = np.array([0, np.sin(elevation), np.cos(elevation)])
        place = np.array([place[0], -place[2], place[1]])
    else:
        place = np.array([np.cos(elevation), 0, np.sin(elevation)])
    right = np.cross(-place, [0, 0, 1])
    right = right / np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, np.cross(right, -place), place, place], 1)
    ours = orbit(*(torch.tensor([v]) for v in (azimuth, 15.0, 1.3, 45.0)), 8, 8)
    assert np.allclose(camera_label(ours.c2w)[0].numpy(), matrix.flatten(), atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_python_file_of_a_folder_runs(
    copied: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    folder, ran = copied(layout), tmp_path / "ran"
    poison = f"import pathlib\npathlib.Path({str(ran)!r}).write_text('ran')\nraise SystemExit('poisoned')\n"
    names = ("mv_unet", "pipeline_mvdream", "pipeline", "camera_proj", "mvdream/camera_proj", "sitecustomize")
    for place in (folder, folder / "unet", folder / "vae", folder / "text_encoder", folder / "tokenizer"):
        for name in names:
            (place / name).parent.mkdir(exist_ok=True)
            (place / f"{name}.py").write_text(poison, "utf-8")
    for config in ("unet/config.json", "text_encoder/config.json"):  # what trust_remote_code would follow
        path = folder / config
        asked = {"AutoModel": "mv_unet.MultiViewUNetModel", "AutoConfig": "mv_unet.Config"}
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "auto_map": asked}), "utf-8")
    monkeypatch.chdir(folder)
    prior = LatentPrior(folder, "cpu")
    prior.load()
    prior.prepare("a red mug", "", "colour", 64)
    assert not ran.exists()


def test_savings_and_a_learnt_phi_keep_the_ring_joined(folders: dict[str, Path]) -> None:
    prior = LatentPrior(folders["ldm"], "cpu")
    said = prior.prepare("a red mug", "", "colour", 64)
    camera, z = cameras(1), latents(FRAMES)
    before = prior.denoise(z, LEVEL, camera, said, 2.0)
    phi = prior.phi(said, 2, 1e-3, 1, 0)
    assert torch.allclose(phi(z, LEVEL, camera), prior.denoise(z, LEVEL, camera, said, 1.0), atol=2e-3)
    phi.fit(0.1 * z, LEVEL, camera, torch.Generator().manual_seed(0))
    moved = z.clone()
    moved[2] += 1
    change = (phi(moved, LEVEL, camera) - phi(z, LEVEL, camera)).abs().amax((1, 2, 3))
    assert bool((change > 1e-6).all())
    prior.save_memory(Savings(True, True, True))
    assert joined_frames(prior._network.unet) == FRAMES
    assert torch.allclose(prior.denoise(z, LEVEL, camera, said, 2.0), before, atol=2e-3)


def spoil(folder: Path, **changes: Any) -> None:
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ip_dim": 16}, "half an ImageDream"),
        ({"ip_dim": True}, "ip_dim is True"),
        ({"camera_dim": None}, "camera_dim is None, expected 16"),
        ({"resblock_updown": True}, "resblock_updown is True, expected False"),
        ({"transformer_depth": 2}, "transformer_depth is 2"),
        ({"num_res_blocks": [2, 2, 1, 2]}, "num_res_blocks"),
        ({"channel_mult": None}, "cannot be used"),
        ({"_class_name": "UNet2DConditionModel"}, "with a component camera_proj"),
        ({"context_dim": 24}, "UNet cross_attention_dim 24, expected 16"),
    ],
)
def test_other_networks_are_refused_before_a_weight_is_read(
    copied: Callable[[str], Path], changes: dict[str, Any], said: str
) -> None:
    folder = copied("ldm")
    spoil(folder, **changes)
    with pytest.raises(ModelError, match=said):
        open_folder(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_missing_left_over_or_misshapen_is_named(copied: Callable[[str], Path], layout: str) -> None:
    folder = copied(layout)
    tensors = load_file(folder / WEIGHTS)
    name = min(name for name in tensors if "attn1.to_q" in name)
    for spoilt, said in (
        ({k: t for k, t in tensors.items() if k != name}, "lacks 1 tensors"),
        (
            {**tensors, "input_blocks.1.1.odd.weight": torch.zeros(2)},
            "has unknown 1 tensors, .*odd.weight",
        ),
        ({**tensors, name: torch.zeros(3, 3)}, "cannot be loaded"),
    ):
        save_file(spoilt, folder / WEIGHTS)
        with pytest.raises(ModelError, match=said):
            LatentPrior(folder, "cpu").load()


def test_a_lost_camera_embedding_is_named(copied: Callable[[str], Path]) -> None:
    folder = copied("diffusers")
    file = folder / "camera_proj" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    file.unlink()
    with pytest.raises(ModelError, match=r"camera_proj.*missing"):
        open_folder(folder)
    for path in (folder / "camera_proj").iterdir():
        path.unlink()
    (folder / "camera_proj").rmdir()
    write(folder / "camera_proj", {}, {"linear_1.weight": tensors["linear_1.weight"]})
    with pytest.raises(ModelError, match="lacks 3 tensors, class_embedding"):
        LatentPrior(folder, "cpu").load()


def test_a_ring_costs_what_one_large_view_costs() -> None:
    """Four views of 256 px against one of Stable Diffusion 2.1 at 512 px: as many tokens in every layer, and as long
    a sequence in self-attention. Counted on tensors without numbers, at full size."""
    shape: dict[str, Any] = {
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    }
    counted = []
    with torch.device("meta"):
        for views, size, told in ((1, 64, False), (FRAMES, 32, True)):
            unet = UNet2DConditionModel(sample_size=size, **shape, **(CAMERA_CONFIG if told else {}))
            join_frames(unet, views)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                unet(
                    torch.zeros(views, 4, size, size),
                    torch.full((views,), 500.0),
                    encoder_hidden_states=torch.zeros(views, 77, 1024),
                    class_labels=torch.zeros(views, 16) if told else None,
                )
            counted.append(counter.get_total_flops())
    view, ring = counted
    assert view > 3e11
    assert ring == pytest.approx(view, rel=0.05)
