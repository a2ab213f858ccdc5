"""ControlNets beside a prior: tiny random ones in the published layout, held against diffusers' own pipelines."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from backend.diffusion.control import encode_maps
from backend.diffusion.schedule import NoiseLevel, sigma_at
from backend.diffusion.view_words import VIEWS
from backend.errors import InputError, ModelError
from backend.models.latent_prior import Conditioning, LatentPrior
from backend.scene.camera import Camera, orbit
from tests.tools.real_folders import build
from tests.tools.tiny_control import EDGE, beside, randomised

LEVEL = NoiseLevel(300, sigma_at(300), sigma_at(290))
FRONT = orbit(torch.zeros(1), torch.full((1,), 10.0), 1.2 * torch.ones(1), 50 * torch.ones(1), 64, 64)
Z = LEVEL.sigma * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def draw(camera: Camera) -> Tensor:
    """A tilted plane on the left, nothing on the right."""
    shape = torch.zeros(len(camera), camera.height, camera.width, 4)
    shape[..., 0] = torch.linspace(1, 2, camera.height)[:, None]
    shape[..., 2:] = torch.tensor([0.6, 0.8])
    shape[..., camera.width // 2 :, :] = torch.tensor([torch.inf, 0.0, 0.0, 0.0])
    return shape


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "sd", "sd15", "full")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "sdxl", "sdxl", "full")


@pytest.fixture(scope="module")
def depth(sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return beside(sd, ControlNetModel, tmp_path_factory.mktemp("nets") / "control_v11f1p_sd15_depth")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))


def told(prior: LatentPrior) -> Conditioning:
    return prior.shown(prior.prepare("a red mug", "blurry", "colour", 64), draw)


def d_p(prior: LatentPrior, scale: float = 5.0) -> Tensor:
    return prior.denoise(Z, LEVEL, FRONT, told(prior), scale)


def pipeline_step(kind: Any, folder: Path, nets: Any, **images: Any) -> Tensor:
    """D(Z) of a whole call of diffusers' pipeline with one Euler step, which ends at noise 0."""
    more = {} if "XL" in kind.__name__ else {"safety_checker": None}
    more |= {} if nets is None else {"controlnet": nets}
    pipeline = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32, **more)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler.set_timesteps(timesteps=[LEVEL.timestep])
    found: Tensor = pipeline(
        f"a red mug, {VIEWS[0]} view", negative_prompt="blurry", timesteps=[LEVEL.timestep], guidance_scale=5.0,
        latents=Z / pipeline.scheduler.init_noise_sigma, output_type="latent", **images,
    ).images  # fmt: skip
    return found


def test_d_p_is_the_pipelines_with_depth_and_normals(sd: Path, depth: Path, tmp_path: Path) -> None:
    normal = beside(sd, ControlNetModel, tmp_path / "normalbae", seed=2)
    prior = LatentPrior(sd, "cpu", controls=[f"{depth}:0.7", str(normal)])
    maps = encode_maps(draw(FRONT))
    nets = [ControlNetModel.from_pretrained(folder) for folder in (depth, normal)]
    expected = pipeline_step(
        StableDiffusionControlNetPipeline, sd, nets, image=[maps[:, :3], maps[:, 3:]],
        controlnet_conditioning_scale=[0.7, 1.0],
    )  # fmt: skip
    ours = d_p(prior)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert float((ours - d_p(LatentPrior(sd, "cpu"))).abs().max()) > 0.01


def test_a_union_model_is_shown_both_at_once(sdxl: Path, tmp_path: Path) -> None:
    union = tmp_path / "union"
    unet = UNet2DConditionModel.load_config(sdxl / "unet")
    width = unet["block_out_channels"][0]
    config = {name: unet[name] for name in inspect.signature(ControlNetUnionModel).parameters if name in unet}
    with torch.random.fork_rng(devices=[]):
        net = ControlNetUnionModel(
            **config | EDGE, num_trans_channel=width, num_proj_channel=width, num_trans_head=2
        )
    randomised(net, 3).save_pretrained(union)
    maps = encode_maps(draw(FRONT))
    expected = pipeline_step(
        StableDiffusionXLControlNetUnionPipeline, sdxl, ControlNetUnionModel.from_pretrained(union),
        control_image=[maps[:, :3], maps[:, 3:]], control_mode=[1, 4], height=64, width=64,
    )  # fmt: skip
    ours = d_p(LatentPrior(sdxl, "cpu", controls=[str(union)]))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_sdxl_takes_one_of_its_own(sdxl: Path, tmp_path: Path) -> None:
    folder = beside(sdxl, ControlNetModel, tmp_path / "controlnet-depth-sdxl")
    maps = encode_maps(draw(FRONT))
    net = ControlNetModel.from_pretrained(folder)
    expected = pipeline_step(StableDiffusionXLControlNetPipeline, sdxl, net, image=maps[:, :3], height=64)
    ours = d_p(LatentPrior(sdxl, "cpu", controls=[str(folder)]))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_one_that_begins_and_one_of_weight_zero_leave_the_model_as_it_is(
    sd: Path, depth: Path, tmp_path: Path
) -> None:
    plain = d_p(LatentPrior(sd, "cpu"))
    begins = beside(sd, ControlNetModel, tmp_path / "depth", seed=None)
    assert torch.equal(d_p(LatentPrior(sd, "cpu", controls=[str(begins)])), plain)
    assert torch.equal(d_p(LatentPrior(sd, "cpu", controls=[f"{depth}:0"])), plain)


def test_d_phi_is_shown_the_same_and_begins_as_d_p(sd: Path, depth: Path) -> None:
    """Unguided and without view words they are one network; it learns with the maps as without."""
    prior = LatentPrior(sd, "cpu", controls=[str(depth)])
    conditioning = told(prior)
    phi = prior.phi(conditioning, 2, 1e-2, 0, 0)
    assert conditioning.shape is not None
    text = conditioning.shared.seen_from(None, conditioning.shape(FRONT, Z))
    network = prior._network
    expected = network.convention.denoised(network.predict(Z, LEVEL, text), Z, LEVEL)
    torch.testing.assert_close(phi(Z, LEVEL, FRONT), expected)
    x = torch.zeros(1, 4, 8, 8)
    losses = [float(phi.fit(x, LEVEL, FRONT, torch.Generator().manual_seed(1))) for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.grad is None for p in network.controls[0].net.parameters())  # type: ignore[attr-defined]


def test_it_is_in_the_record_and_in_the_plan(sd: Path, depth: Path) -> None:
    plain, prior = LatentPrior(sd, "cpu"), LatentPrior(sd, "cpu", controls=[f"{depth}:0.5"])
    (said,) = prior.describe()["controls"]
    assert said["name"] == depth.name and said["shows"] == ("depth",) and said["weight"] == 0.5
    assert len(said["sha256"]["diffusion_pytorch_model.safetensors"]) == 64
    savings = prior._savings
    weights = sum(p.numel() for p in ControlNetModel.from_pretrained(depth).parameters()) * 4 / 1e9
    more = prior.footprint(64, savings) - plain.footprint(64, savings)
    assert weights < more < 1.5 * weights


WRONG = {
    "SDXL's": ({"addition_embed_type": "text_time"}, "its addition_embed_type is text_time, the UNet's None"),
    "of other widths": ({"cross_attention_dim": 24}, "its cross_attention_dim is 24"),
    "Flux's": ({"_class_name": "FluxControlNetModel"}, "holds a FluxControlNetModel"),
    "of a strange kind": ({"num_control_type": "six"}, "num_control_type is above 4 is False"),
    "of six channels": ({"conditioning_channels": 6}, "conditioning_channels is 6, expected 3"),
    "of half the size": ({"conditioning_embedding_out_channels": [8, 8, 8]}, "per latent pixel is 4"),
    "gigantic": ({"layers_per_block": 10**6}, "layers_per_block is 1000000"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_refused_before_a_weight_is_read(
    kind: str, sd: Path, depth: Path, tmp_path: Path
) -> None:
    changes, message = WRONG[kind]
    config = json.loads((depth / "config.json").read_text("utf-8")) | changes
    folder = tmp_path / "depth"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ModelError, match=message):
        LatentPrior(sd, "cpu", controls=[str(folder)])


def test_a_folder_says_what_it_shows(sd: Path, depth: Path, tmp_path: Path) -> None:
    """By its name, or by dreamflow.json where that tells nothing."""
    other = tmp_path / "my-net"
    other.mkdir()
    for file in depth.iterdir():
        (other / file.name).symlink_to(file)
    with pytest.raises(ModelError, match="its name does not tell"):
        LatentPrior(sd, "cpu", controls=[str(other)])
    stated = other / "dreamflow.json"
    stated.write_text('{"shows": ["normal"]}')
    assert LatentPrior(sd, "cpu", controls=[str(other)])._controls[0].shows == ("normal",)
    stated.write_text('{"shows": ["pose"]}')
    with pytest.raises(ModelError, match="expected depth, normal or both"):
        LatentPrior(sd, "cpu", controls=[str(other)])
    with pytest.raises(InputError, match="expected a ControlNet's folder"):
        LatentPrior(sd, "cpu", controls=[str(tmp_path / "none")])
