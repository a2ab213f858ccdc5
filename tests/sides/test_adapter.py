"""MV-Adapter's file beside Stable Diffusion and SDXL: tiny random ones in the published names."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.config import resolve
from backend.diffusion.savings import Savings
from backend.diffusion.schedule import NoiseLevel, sigma_at
from backend.errors import InputError, ModelError
from backend.models.latent_prior import Conditioning, LatentPrior
from backend.models.single_file import empty_module
from backend.scene.render_mesh import render_shape
from backend.sides.adapter import attentions_of, reader_of
from backend.sides.views import SixSides, encode_sides
from backend.stages.memory import PIXEL, needed_gb
from backend.weights.checkpoint_kind import families
from tests.sides.test_attention import written_out
from tests.sides.test_views import cube
from tests.tools.real_folders import build
from tests.tools.tiny_sides import beside

LEVEL = NoiseLevel(300, sigma_at(300), sigma_at(290))
SIX = SixSides().sample(torch.Generator(), 1, 64, 64)
Z = LEVEL.sigma * torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
SHAPE = partial(render_shape, cube(0.3))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / request.param, request.param, "full")


@pytest.fixture(scope="module")
def file(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return beside(model, tmp_path_factory.mktemp("mv") / "mvadapter_tg2mv_tiny.safetensors")


def told(prior: LatentPrior) -> Conditioning:
    return prior.shown(prior.prepare("a red mug", "blurry", "colour", 64), SHAPE)


def by_hand(model: Path, file: Path, prior: LatentPrior, weight: float, scale: float) -> Tensor:
    """D of diffusers' own UNet: the reader's features on the way down, and what `written_out` says added to what each
    self-attention answers, at the timestep whose shifted noise is this one."""
    from backend.sides.attention import RowColumnAttention, Shown

    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    tensors = load_file(file)
    reader = reader_of(unet, 8)
    reader.load_state_dict({n: tensors[n] for n in reader.state_dict()}, assign=True)
    for name, module in unet.named_modules():
        if not name.endswith("attn1"):
            continue
        part = RowColumnAttention(None, module.to_q.in_features, Shown(1.0))
        start = f"{name}.processor."
        part.load_state_dict({n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)})

        def more(attn, args, kwargs, found, part=part):  # type: ignore[no-untyped-def]
            x = args[0] if args else kwargs["hidden_states"]
            return found + weight * torch.cat([written_out(part, six, attn.heads) for six in x.split(6)])

        module.register_forward_hook(more, with_kwargs=True)
    low, high = 0.0, 999.0
    for _ in range(60):  # of sigma(t) 8^(t / 1998)
        middle = (low + high) / 2
        low, high = (middle, high) if sigma_at(middle) * 8 ** (middle / 1998) < LEVEL.sigma else (low, middle)
    conditioning, maps = told(prior), encode_sides(SIX, SHAPE(SIX))
    outputs = []
    for text in (conditioning.shared.repeated(6), conditioning.negative.repeated(6)):
        added = {} if text.pooled is None else {"text_embeds": text.pooled, "time_ids": text.time_ids}
        features = [weight * one for one in reader(maps)]
        with torch.no_grad():
            outputs.append(
                unet(
                    Z * (1 + LEVEL.sigma**2) ** -0.5, low, encoder_hidden_states=text.hidden,
                    added_cond_kwargs=added or None, down_intrablock_additional_residuals=features,
                ).sample
            )  # fmt: skip
    with_text, without = (Z - LEVEL.sigma * output for output in outputs)
    return without + scale * (with_text - without)


def test_d_p_of_six_sides_is_the_one_written_by_hand(model: Path, file: Path) -> None:
    prior = LatentPrior(model, "cpu", controls=[f"{file}:0.6"])
    assert prior.spec.still is not None and isinstance(prior.spec.still.poses, SixSides)
    ours = prior.denoise(Z, LEVEL, SIX, told(prior), 5.0)
    expected = by_hand(model, file, prior, 0.6, 5.0)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))
    rescaled = prior.denoise(Z, LEVEL, SIX, told(prior), 5.0, 1.0)
    assert float(rescaled.std()) == pytest.approx(
        float(prior.denoise(Z, LEVEL, SIX, told(prior), 1.0).std()), rel=1e-4
    )


def test_with_no_shape_and_with_one_that_begins_it_is_the_model(
    model: Path, file: Path, tmp_path: Path
) -> None:
    """Bytes: the plain prior's where no shape is shown; the plain network's, at that timestep, with layers of zeros."""
    plain, prior = LatentPrior(model, "cpu"), LatentPrior(model, "cpu", controls=[str(file)])
    conditioning = plain.prepare("a red mug", "blurry", "colour", 64)
    assert torch.equal(
        prior.denoise(Z, LEVEL, SIX, conditioning, 5.0), plain.denoise(Z, LEVEL, SIX, conditioning, 5.0)
    )
    zeros = {name: torch.zeros_like(t) if "to_out_mv" in name or name.startswith("adapter.") else t
             for name, t in load_file(file).items()}  # fmt: skip
    begins = tmp_path / "mvadapter_tg2mv_begins.safetensors"
    save_file(zeros, begins)
    prior = LatentPrior(model, "cpu", controls=[str(begins)])
    shown = told(prior)
    assert shown.shape is not None
    text = conditioning.shared.repeated(6)
    ours = prior._network.predict(Z, LEVEL, text.seen_from(None, shown.shape(SIX, Z)))
    from backend.diffusion.schedule import shifted_timestep

    level = replace(LEVEL, timestep=shifted_timestep(LEVEL.sigma, 8.0))
    assert torch.equal(ours, plain._network.predict(Z, level, text))
    weightless = LatentPrior(model, "cpu", controls=[f"{file}:0"])
    assert weightless.spec.still is None and weightless._network.sides is None


def test_d_phi_is_shown_the_same_and_learns(model: Path, file: Path) -> None:
    prior = LatentPrior(model, "cpu", controls=[str(file)])
    conditioning = told(prior)
    phi = prior.phi(conditioning, 2, 1e-2, 0, 0)
    torch.testing.assert_close(phi(Z, LEVEL, SIX), prior.denoise(Z, LEVEL, SIX, conditioning, 1.0))
    x = torch.zeros(6, 4, 8, 8)
    losses = [float(phi.fit(x, LEVEL, SIX, torch.Generator().manual_seed(1))) for _ in range(6)]
    assert losses[-1] < 0.99 * losses[0]
    assert not any("_mv" in name for name in phi.parameters)


def test_it_is_in_the_record_and_in_the_plan(model: Path, file: Path) -> None:
    plain, prior = LatentPrior(model, "cpu"), LatentPrior(model, "cpu", controls=[f"{file}:0.5"])
    said = prior.describe()["sides"]
    assert said["name"] == file.name and said["weight"] == 0.5 and len(said["sha256"][file.name]) == 64
    alone, own = plain.footprint(64, prior._savings), prior.footprint(64, prior._savings)
    assert prior.footprint(64, prior._savings, still=True) > 3 * alone
    assert own == pytest.approx(
        alone + prior._sides.footprint(torch.float32)
    )  # else its weights are there, no views
    preset = resolve("draft").preset
    renders = needed_gb("texture", preset, prior, 0) - needed_gb("texture", preset, plain, 0)
    networks = (one.footprint(preset.texture.size, Savings(), still=True) for one in (prior, plain))
    six, one = networks
    assert renders - (six - one) == pytest.approx(5 * PIXEL * preset.texture.size**2 / 1e9)  # kept as well


def test_what_does_not_fit_is_refused_before_a_weight_is_read(
    model: Path, file: Path, tmp_path: Path
) -> None:
    tensors = load_file(file)
    name = next(name for name in tensors if "to_q_mv" in name)
    wrong = {
        "reads a picture": tensors | {name.replace("_mv", "_ref"): tensors[name].clone()},
        "is missing, expected": {n: t for n, t in tensors.items() if n != name},
        r"is \[1, 1\], expected": tensors | {name: torch.zeros(1, 1)},
        "holds strange as well": tensors | {"strange": torch.zeros(1)},
    }
    for message, content in wrong.items():
        other = tmp_path / "mvadapter_tg2mv_wrong.safetensors"
        save_file(content, other)
        with pytest.raises(ModelError, match=message):
            LatentPrior(model, "cpu", controls=[str(other)])
    rays = tmp_path / "mvadapter_t2mv_sdxl.safetensors"
    save_file(tensors, rays)
    with pytest.raises(ModelError, match="told where cameras stand"):
        LatentPrior(model, "cpu", controls=[str(rays)])
    pickle = tmp_path / "mvadapter.bin"
    pickle.write_bytes(b"")
    with pytest.raises(ModelError, match="pickles can run code"):
        LatentPrior(model, "cpu", controls=[str(pickle)])
    with pytest.raises(InputError, match="Only one MV-Adapter"):
        LatentPrior(model, "cpu", controls=[str(file), str(file)])


@pytest.mark.parametrize(("family", "size"), [("SDXL", 1.96e9), ("Stable Diffusion 2", 0.510e9)])
def test_the_published_files_have_as_many_numbers(family: str, size: float) -> None:
    """The hub states their sizes; they are in float32."""
    config = next(one.configs["unet"] for one in families() if one.name == family)
    unet = empty_module("unet", config)
    assert isinstance(unet, UNet2DConditionModel)
    numbers = sum(t.numel() for t in reader_of(unet, 8).state_dict().values())
    numbers += sum(4 * width**2 + width for width in attentions_of(unet).values())
    assert 4 * numbers == pytest.approx(size, rel=0.005)
