"""A reference picture: tiny random IP-Adapters in the published layout, held against diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from backend.diffusion.savings import Savings
from backend.diffusion.schedule import NoiseLevel, sigma_at
from backend.diffusion.view_words import VIEWS
from backend.errors import InputError, ModelError
from backend.models.latent_prior import Conditioning, LatentPrior
from backend.models.reference import clip_pixels
from backend.scene.camera import Camera, orbit
from tests.tools.real_folders import build
from tests.tools.tiny_reference import SIDE, beside

LEVEL = NoiseLevel(300, sigma_at(300), sigma_at(290))
FRONT = orbit(torch.zeros(1), torch.full((1,), 10.0), 1.2 * torch.ones(1), 50 * torch.ones(1), 64, 64)
Z = LEVEL.sigma * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def draw(_camera: Camera) -> Tensor:
    raise AssertionError("nothing here looks at the shape")


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / request.param, request.param, "full")


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "sd", "sd15", "full")


@pytest.fixture(scope="module")
def adapter(sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return beside(sd, tmp_path_factory.mktemp("adapters") / "models")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "cup.png"
    noise = torch.randint(256, (48, 40, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).save(path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))


def told(prior: LatentPrior) -> Conditioning:
    return prior.shown(prior.prepare("a red mug", "blurry", "colour", 64), draw)


def d_p(prior: LatentPrior) -> Tensor:
    return prior.denoise(Z, LEVEL, FRONT, told(prior), 5.0)


@pytest.mark.filterwarnings("ignore:The configuration file of the unet")  # it is made small
@pytest.mark.parametrize("plus", [False, True], ids=["plain", "plus"])
def test_d_p_is_the_pipelines(model: Path, plus: bool, picture: Path, tmp_path: Path) -> None:
    path = beside(model, tmp_path / "models", plus)
    kind: Any = StableDiffusionXLPipeline if model.name == "sdxl" else StableDiffusionPipeline
    more: dict[str, Any] = {} if model.name == "sdxl" else {"safety_checker": None}
    encoder = CLIPVisionModelWithProjection.from_pretrained(path.parent / "image_encoder")
    eyes = CLIPImageProcessorPil(size=SIDE, crop_size=SIDE)
    pipeline = kind.from_pretrained(
        model,
        local_files_only=True,
        dtype=torch.float32,
        image_encoder=encoder,
        feature_extractor=eyes,
        **more,
    )
    pipeline.load_ip_adapter(str(path.parent), subfolder="", weight_name=path.name)
    pipeline.set_ip_adapter_scale(0.6)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler.set_timesteps(timesteps=[LEVEL.timestep])
    expected = pipeline(
        f"a red mug, {VIEWS[0]} view", negative_prompt="blurry", timesteps=[LEVEL.timestep], guidance_scale=5.0,
        latents=Z / pipeline.scheduler.init_noise_sigma, output_type="latent", height=64, width=64,
        ip_adapter_image=Image.open(picture),
    ).images  # fmt: skip
    ours = d_p(LatentPrior(model, "cpu", image=f"{picture}:0.6", image_adapter=path))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert float((ours - d_p(LatentPrior(model, "cpu"))).abs().max()) > 0.01


def test_before_there_is_a_mesh_and_with_weight_zero_it_is_the_model_alone(
    sd: Path, adapter: Path, picture: Path
) -> None:
    plain, prior = LatentPrior(sd, "cpu"), LatentPrior(sd, "cpu", image=str(picture), image_adapter=adapter)
    conditioning = prior.prepare("a red mug", "blurry", "colour", 64)
    assert torch.equal(prior.denoise(Z, LEVEL, FRONT, conditioning, 5.0), d_p(plain))
    without = LatentPrior(sd, "cpu", image=f"{picture}:0", image_adapter=adapter)
    assert torch.equal(d_p(without), d_p(plain)) and without.describe() == plain.describe()


def test_d_phi_sees_it_as_well_and_learns_beside_it(sd: Path, adapter: Path, picture: Path) -> None:
    prior = LatentPrior(sd, "cpu", image=str(picture), image_adapter=adapter)
    conditioning = told(prior)
    phi = prior.phi(conditioning, 2, 1e-2, 0, 0)
    network = prior._network
    expected = network.convention.denoised(network.predict(Z, LEVEL, conditioning.shared), Z, LEVEL)
    torch.testing.assert_close(phi(Z, LEVEL, FRONT), expected)
    x = torch.zeros(1, 4, 8, 8)
    losses = [float(phi.fit(x, LEVEL, FRONT, torch.Generator().manual_seed(1))) for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]
    saving = LatentPrior(sd, "cpu", image=str(picture), image_adapter=adapter)
    saving.save_memory(Savings(True, True))
    phi = saving.phi(told(saving), 2, 1e-2, 0, 0)
    again = [float(phi.fit(x, LEVEL, FRONT, torch.Generator().manual_seed(1))) for _ in range(2)]
    assert again == pytest.approx(losses[:2], rel=1e-5)  # what is computed again reads the picture as well


def test_it_is_in_the_record_and_in_the_plan(sd: Path, adapter: Path, picture: Path) -> None:
    plain, prior = (
        LatentPrior(sd, "cpu"),
        LatentPrior(sd, "cpu", image=str(picture), image_adapter=adapter.parent),
    )
    said = prior.describe()["image"]
    assert said["weight"] == 1 and set(said["sha256"]) == {picture.name, adapter.name, "model.safetensors"}
    more = prior.footprint(64, prior._savings) - plain.footprint(64, plain._savings)
    assert more == pytest.approx(sum(t.numel() for t in load_file(adapter).values()) * 4e-9)


def test_clip_is_shown_the_middle_square_before_white() -> None:
    """Half of it clear: white, in CLIP's published mean and deviation."""
    wide = torch.zeros(8, 16, 4, dtype=torch.uint8)
    wide[:, 8:, 3] = 255
    pixels = clip_pixels(wide.numpy(), 8)
    mean, deviation = torch.tensor(
        [[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]]
    )
    assert pixels.shape == (1, 3, 8, 8)
    torch.testing.assert_close(pixels[0, :, 4, 0], (1 - mean) / deviation)
    torch.testing.assert_close(pixels[0, :, 4, 7], (0 - mean) / deviation)


def test_what_does_not_fit_is_refused(sd: Path, adapter: Path, picture: Path, tmp_path: Path) -> None:
    def refused(
        path: Path | str, message: str, image: Path = picture, kind: type[Exception] = ModelError
    ) -> None:
        with pytest.raises(kind, match=message):
            LatentPrior(sd, "cpu", image=str(image), image_adapter=path)

    def changed(name: str, changes: dict[str, Any]) -> Path:
        tensors = load_file(adapter) | changes
        save_file({key: t for key, t in tensors.items() if t is not None}, tmp_path / name)
        (tmp_path / "image_encoder").exists() or (tmp_path / "image_encoder").symlink_to(
            adapter.parent / "image_encoder"
        )
        return tmp_path / name

    refused("", "none was given")
    refused(tmp_path / "none.safetensors", "There is no")
    refused(beside(build(tmp_path / "xl", "sdxl", "full"), tmp_path / "xl_models"), "does not fit the model")
    refused(changed("short.safetensors", {"ip_adapter.1.to_k_ip.weight": None}), "to_k_ip.weight is missing")
    refused(changed("long.safetensors", {"ip_adapter.99.to_k_ip.weight": torch.ones(1)}), "as well")
    refused(changed("face.safetensors", {"ip_adapter.0.to_q_lora.down.weight": torch.ones(1)}), "as well")
    refused(
        changed("wide.safetensors", {"image_proj.proj.weight": torch.ones(64, 12)}), "projection_dim is 12"
    )
    (tmp_path / "words.png").write_text("no picture")
    refused(adapter, "cannot be read as an image", tmp_path / "words.png", InputError)
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "ip-adapter_sd15.bin").write_bytes(b"")
    refused(tmp_path / "pickled", "can run code")
