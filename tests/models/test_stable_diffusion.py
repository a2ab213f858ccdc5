from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from backend.diffusion.convention import scale_in
from backend.diffusion.denoiser import Text, denoise
from backend.diffusion.prior import Prior
from backend.diffusion.schedule import NoiseLevel, sigma_at
from backend.diffusion.view_words import VIEWS
from backend.errors import InputError, ModelError
from backend.models.latent_prior import LatentPrior, encoder_input_size
from backend.scene.camera import Camera, orbit
from tests.models.test_control import FRONT, Z, pipeline_step
from tests.models.test_control import LEVEL as Z_LEVEL
from tests.tools.real_folders import build

LEVEL = NoiseLevel(500, sigma_at(500), sigma_at(499))
NEGATIVE = "blurry"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def camera(azimuths: list[float], elevations: list[float]) -> Camera:
    same = torch.ones(len(azimuths))
    return orbit(torch.tensor(azimuths), torch.tensor(elevations), 1.2 * same, 50 * same, 32, 32)


FOUR = camera([0.0, 90.0, 180.0, 0.0], [10.0, 10.0, 10.0, 80.0])  # in the order of VIEWS


@pytest.fixture(scope="module")
def prior(base_folder: Path, v_folder: Path) -> LatentPrior:
    return LatentPrior(base_folder, "cpu", v_folder)


@pytest.fixture(scope="module")
def pipeline(base_folder: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(base_folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_a_prior(prior: LatentPrior) -> None:
    promised: Prior = prior
    assert (promised.name, promised.factor, promised.channels) == ("sd21-base", 8, 4)
    assert promised.spec.normal_background == (0.5, 0.5, 1.0)
    assert promised.spec.backgrounds.solids is None and promised.spec.guidance is None


def test_prompts_are_encoded_as_diffusers_does(
    prior: LatentPrior, pipeline: StableDiffusionPipeline, v_folder: Path
) -> None:
    conditioning = prior.prepare("a red mug", NEGATIVE, "colour", 32)
    sentences = [f"a red mug, {view} view" for view in ("front", "side", "back", "overhead")]
    with torch.no_grad():
        expected, _ = pipeline.encode_prompt(sentences, "cpu", 1, False)
        negative, _ = pipeline.encode_prompt(NEGATIVE, "cpu", 1, False)
        own = StableDiffusionPipeline.from_pretrained(v_folder, local_files_only=True)
        plain, _ = own.encode_prompt("a red mug", "cpu", 1, False)
    torch.testing.assert_close(conditioning.views.hidden, expected)
    torch.testing.assert_close(conditioning.negative.hidden, negative)
    torch.testing.assert_close(conditioning.phi.hidden, plain)  # by D_phi's own encoder, without view words


def test_normal_maps_have_their_prompt(prior: LatentPrior) -> None:
    normal = prior.prepare("a red mug", "", "normal", 32)
    colour = prior.prepare("a normal map of a red mug", "", "colour", 32)
    assert torch.equal(normal.views.hidden, colour.views.hidden)
    assert torch.equal(normal.phi.hidden, colour.phi.hidden)


def test_the_prior_denoises_as_the_pipeline_does(
    prior: LatentPrior, pipeline: StableDiffusionPipeline
) -> None:
    """Guided, four views at once, against the pipeline's own UNet and scheduler arithmetic."""
    conditioning, z = prior.prepare("a red mug", NEGATIVE, "colour", 32), noise(4, 4, 8, 8)
    ours = prior.denoise(z, LEVEL, FOUR, conditioning, 7.5)
    bar = pipeline.scheduler.alphas_cumprod[500]
    with torch.no_grad():
        negative, _ = pipeline.encode_prompt(NEGATIVE, "cpu", 1, False)
        for i, view in enumerate(VIEWS):
            text, _ = pipeline.encode_prompt(f"a red mug, {view} view", "cpu", 1, False)
            seen = z[i : i + 1] * bar.sqrt()
            eps_text = pipeline.unet(seen, 500, encoder_hidden_states=text).sample
            eps_none = pipeline.unet(seen, 500, encoder_hidden_states=negative).sample
            eps = eps_none + 7.5 * (eps_text - eps_none)
            x0 = (seen - (1 - bar).sqrt() * eps) / bar.sqrt()
            torch.testing.assert_close(ours[i : i + 1], x0, rtol=1e-3, atol=1e-3)
    assert scale_in(LEVEL) == pytest.approx(float(bar.sqrt()), rel=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # SD 1.5's sample_size, of narrow networks
@pytest.mark.parametrize("kind", ["sd15", "sd21-base", "sd21"])
def test_d_p_is_a_whole_call_of_the_pipeline(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders as they are published, epsilon and v: D to 1e-5."""
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))
    folder = build(tmp_path / kind, kind, "full")  # type: ignore[arg-type]
    own = LatentPrior(folder, "cpu")
    ours = own.denoise(Z, Z_LEVEL, FRONT, own.prepare("a red mug", "blurry", "colour", 64), 5.0)
    expected = pipeline_step(StableDiffusionPipeline, folder, None)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_views_choose_their_words_and_batch_without_changing_each_other(prior: LatentPrior) -> None:
    conditioning, z = prior.prepare("a red mug", "", "colour", 32), noise(1, 4, 8, 8).repeat(4, 1, 1, 1)
    batched = prior.denoise(z, LEVEL, FOUR, conditioning, 7.5)
    for i in range(4):
        alone = prior.denoise(z[i : i + 1], LEVEL, FOUR[i : i + 1], conditioning, 7.5)
        torch.testing.assert_close(batched[i : i + 1], alone, rtol=1e-4, atol=1e-4)
        assert all((batched[i] - batched[j]).abs().max() > 1e-3 for j in range(i))


def test_no_gradient_reaches_the_prior_and_z_keeps_its_own(prior: LatentPrior) -> None:
    conditioning = prior.prepare("a red mug", "", "colour", 32)
    z = noise(1, 4, 8, 8).requires_grad_()
    assert not prior.denoise(z, LEVEL, FOUR[:1], conditioning, 7.5).requires_grad


def test_encode_is_the_scaled_mode(prior: LatentPrior, pipeline: StableDiffusionPipeline) -> None:
    image = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mode = pipeline.vae.encode(image.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
    x = prior.encode(image)
    torch.testing.assert_close(x, mode * 0.18215)
    assert torch.equal(x, prior.encode(image))
    decoded = prior.decode(x)
    assert decoded.shape == image.shape and 0 <= float(decoded.min()) <= float(decoded.max()) <= 1


def test_small_renders_are_enlarged_and_their_gradient_is_right(prior: LatentPrior) -> None:
    image = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = prior.encode(image)
    assert x.shape == (1, 4, 8, 8)
    weights = noise(1, 4, 8, 8)
    (x * weights).sum().backward()
    assert image.grad is not None
    direction, step = noise(1, 32, 32, 3, seed=1), 1e-3
    with torch.no_grad():
        ends = [(prior.encode(image + s * step * direction) * weights).sum() for s in (1, -1)]
    slope = float(ends[0] - ends[1]) / (2 * step)
    assert float((image.grad * direction).sum()) == pytest.approx(slope, rel=2e-2)


@pytest.mark.parametrize(
    ("size", "native", "fed"),
    [((256, 256), 512, (512, 512)), ((512, 512), 512, (512, 512)), ((1024, 512), 512, (1024, 512)),
     ((128, 96), 512, None), ((96, 72), 192, (256, 192)), ((520, 520), 512, (520, 520)), ((516, 516), 512, None)],
)  # fmt: skip
def test_images_are_fed_at_their_own_size_or_enlarged(
    size: tuple[int, int], native: int, fed: tuple[int, int] | None
) -> None:
    if fed is None:
        with pytest.raises(InputError, match=f"{size[0]} x {size[1]} pixels.*multiples of 8"):
            encoder_input_size(*size, native, 8)
    else:
        assert encoder_input_size(*size, native, 8) == fed


def test_bad_requests_are_refused(prior: LatentPrior) -> None:
    with pytest.raises(InputError, match="multiples of 8"):
        prior.encode(torch.rand(1, 68, 68, 3))
    with pytest.raises(InputError, match=r"\[B,H,W,3\], got \[1, 64, 64, 4\]"):
        prior.encode(torch.rand(1, 64, 64, 4))
    with pytest.raises(InputError, match="empty"):
        prior.prepare("  ", "", "colour", 64)
    with pytest.raises(InputError, match=r"takes 300: .*, front view"):
        prior.prepare("a mug " * 151, "", "colour", 64)
    with pytest.raises(InputError, match="takes 300"):
        prior.prepare("a mug", "ugly " * 301, "colour", 64)


def test_a_view_prompt_of_its_own(base_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_folder, tmp_path / "mini")
    (folder / "dreamflow.json").write_text(json.dumps({"view_prompt": "{view}: {prompt}"}), "utf-8")
    ours = LatentPrior(folder, "cpu").prepare("a mug", "", "colour", 64)
    expected = LatentPrior(base_folder, "cpu").prepare("front: a mug", "", "colour", 64)
    assert torch.equal(ours.views.hidden[:1], expected.phi.hidden)


def test_phi_is_the_v_network_or_the_priors_own(
    prior: LatentPrior, base_folder: Path, v_folder: Path
) -> None:
    z, view = noise(1, 4, 8, 8), FOUR[:1]
    conditioning = prior.prepare("a red mug", "", "colour", 32)
    separate = prior.phi(conditioning, rank=4, learning_rate=1e-3, warmup=1, seed=0)
    assert separate.network.prediction == "v_prediction"
    v_prior = LatentPrior(v_folder, "cpu")
    same = v_prior.prepare("a red mug", "", "colour", 32)
    assert torch.equal(separate(z, LEVEL, view), v_prior.phi(same, 4, 1e-3, 1, 0)(z, LEVEL, view))

    shared_prior = LatentPrior(base_folder, "cpu")
    shared = shared_prior.phi(shared_prior.prepare("a red mug", "", "colour", 32), 4, 1e-2, 1, 0)
    before = shared_prior.denoise(z, LEVEL, view, conditioning, 7.5)
    for i in range(2):
        shared.fit(noise(1, 4, 8, 8, seed=i), LEVEL, view, torch.Generator().manual_seed(i))
    assert torch.equal(shared_prior.denoise(z, LEVEL, view, conditioning, 7.5), before)
    unfitted = denoise(shared.network, z, LEVEL, Text(shared.text.hidden))
    assert not torch.allclose(shared(z, LEVEL, view), unfitted)


def test_a_phi_of_other_latents_is_refused(
    base_folder: Path, v_folder: Path, refiner_folder: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(v_folder, tmp_path / "other")
    config = json.loads((other / "vae" / "config.json").read_text("utf-8"))
    (other / "vae" / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.13025}), "utf-8")
    with pytest.raises(ModelError, match=r"scaling_factor is 0\.13025, expected 0\.18215"):
        LatentPrior(base_folder, "cpu", other)
    old = {
        name: value for name, value in config.items() if name != "scaling_factor"
    }  # as 2.1-base's on the hub
    (other / "vae" / "config.json").write_text(json.dumps(old), "utf-8")
    LatentPrior(base_folder, "cpu", other)
    with pytest.raises(ModelError, match=r"XLImg2Img.*expected a StableDiffusionPipeline"):
        LatentPrior(base_folder, "cpu", refiner_folder)


def test_description_names_both_models(prior: LatentPrior, base_folder: Path) -> None:
    described = prior.describe()
    assert described["prior"]["prediction"] == "epsilon" and described["phi"]["prediction"] == "v_prediction"
    assert LatentPrior(base_folder, "cpu").describe()["phi"] == "shared"
