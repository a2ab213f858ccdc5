"""LoRAs are the explicit low-rank product, in every layout; everything else in such a file is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backend.diffusion.schedule import NoiseLevel, sigma_at
from backend.errors import InputError, ModelError
from backend.models.artist_lora import weighted_path
from backend.models.latent_prior import LatentPrior
from backend.scene.camera import orbit
from tests.tools.one_file import unet_name
from tests.tools.real_folders import build

LEVEL = NoiseLevel(300, sigma_at(300), sigma_at(290))
FRONT = orbit(torch.zeros(1), torch.full((1,), 10.0), 1.2 * torch.ones(1), 50 * torch.ones(1), 64, 64)
Z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
RANK, ALPHA = 2, 3.0
MODULES = [  # of the tiny UNets; a projection, attentions, a feed-forward layer and a convolution
    "down_blocks.1.attentions.0.proj_in",
    "down_blocks.1.attentions.1.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.2",
    "up_blocks.0.resnets.1.conv1",
]
TEXT = "encoder.layers.1.self_attn.q_proj"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("lora") / "sdxl", "sdxl", "full")


@pytest.fixture(scope="module")
def plain(folder: Path) -> LatentPrior:
    return LatentPrior(folder, "cpu")


Factors = dict[str, tuple[Tensor, Tensor]]


def factors(unet: Any) -> Factors:
    """A [r,in] and B [out,r] of MODULES, as convolutions where the layer is one."""
    draw = torch.Generator().manual_seed(5)
    found = {}
    for name in MODULES:
        weight = unet.get_submodule(name).weight
        a = torch.randn(RANK, *weight.shape[1:], generator=draw) * 0.3
        b = torch.randn(weight.shape[0], RANK, *(1 for _ in weight.shape[2:]), generator=draw) * 0.3
        found[name] = (a, b)
    return found


def kohya(made: Factors, ldm: bool, config: Any) -> dict[str, Tensor]:
    tensors = {}
    for name, (a, b) in made.items():
        module = (unet_name(name, config) if ldm else name).replace(".", "_")
        tensors |= {
            f"lora_unet_{module}.lora_down.weight": a,
            f"lora_unet_{module}.lora_up.weight": b,
            f"lora_unet_{module}.alpha": torch.tensor(ALPHA),
        }
    return tensors


def peft(made: Factors) -> dict[str, Tensor]:
    return {
        f"unet.{n}.lora_{c}.weight": t for n, pair in made.items() for c, t in zip("AB", pair, strict=True)
    }


def d_p(prior: LatentPrior) -> Tensor:
    return prior.denoise(Z, LEVEL, FRONT, prior.prepare("a red mug", "", "colour", 64), 3.0)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def by_hooks(plain: LatentPrior, made: Factors, scale: float) -> Tensor:
    """D_p where every layer's output has s (alpha / r) B (A x) added to it."""
    unet: Any = plain._network.unet
    hooks = []
    for name, (a, b) in made.items():
        layer = unet.get_submodule(name)

        def add(layer: Any, inputs: Any, output: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor:
            if isinstance(layer, nn.Conv2d):
                low = nn.functional.conv2d(inputs[0], a, None, layer.stride, layer.padding)
                return output + scale * nn.functional.conv2d(low, b)
            return output + scale * (inputs[0] @ a.T @ b.T)

        hooks.append(layer.register_forward_hook(add))
    try:
        return d_p(plain)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("layout", ["kohya", "kohya with LDM's names", "peft"])
def test_d_p_has_s_times_the_low_rank_product(
    layout: str, plain: LatentPrior, folder: Path, tmp_path: Path
) -> None:
    unet: Any = plain._network.unet
    made = factors(unet)
    file = tmp_path / "clay.safetensors"
    if layout == "peft":
        stated = json.dumps({"unet.lora_alpha": ALPHA, "unet.r": RANK, "unet.use_dora": False})
        save_file(peft(made), file, metadata={"lora_adapter_metadata": stated})
    else:
        save_file(kohya(made, "LDM" in layout, unet.config), file)
    changed = d_p(LatentPrior(folder, "cpu", loras=[f"{file}:0.5"]))
    assert float((changed - d_p(plain)).abs().max()) > 1e-3
    assert distance(changed, by_hooks(plain, made, 0.5 * ALPHA / RANK)) < 1e-6


def test_weight_0_gives_the_bytes_of_none_and_two_add_up(
    plain: LatentPrior, folder: Path, tmp_path: Path
) -> None:
    made = factors(plain._network.unet)
    file = tmp_path / "clay.safetensors"
    save_file(peft(made), file)
    none = LatentPrior(folder, "cpu", loras=[f"{file}:0"])
    assert torch.equal(d_p(none), d_p(plain))
    twice = LatentPrior(folder, "cpu", loras=[f"{file}:0.75", f"{file}:-0.5"])
    assert distance(d_p(twice), by_hooks(plain, made, 0.25)) < 1e-6
    described = twice.describe()["loras"]
    assert [one["weight"] for one in described] == [0.75, -0.5] and len(described[0]["sha256"]) == 64


def test_text_encoders_have_theirs_and_d_phi_starts_from_the_network_with_it(
    plain: LatentPrior, folder: Path, tmp_path: Path
) -> None:
    """D_phi equals the conditional D_p before its first step, and its own adapter is another one."""
    draw = torch.Generator().manual_seed(6)
    tensors = peft(factors(plain._network.unet))
    for te in ("te1", "te2"):
        name = f"lora_{te}_text_model_{TEXT.replace('.', '_')}"
        tensors |= {f"{name}.lora_down.weight": torch.randn(2, 16, generator=draw),
                    f"{name}.lora_up.weight": torch.randn(16, 2, generator=draw)}  # fmt: skip
    file = tmp_path / "words.safetensors"
    save_file(tensors, file)
    prior = LatentPrior(folder, "cpu", loras=[str(file)])
    ours, others = (p.prepare("a red mug", "", "colour", 64).phi for p in (prior, plain))
    assert not torch.allclose(ours.hidden[..., :16], others.hidden[..., :16])
    assert not torch.allclose(ours.hidden[..., 16:], others.hidden[..., 16:])
    conditioning = prior.prepare("a red mug", "", "colour", 64)
    before = prior.denoise(Z, LEVEL, FRONT, conditioning, 1.0)
    phi = prior.phi(conditioning, 4, 1e-2, 0, seed=0)
    alone = prior._network.convention.denoised(prior._network.predict(Z, LEVEL, conditioning.phi), Z, LEVEL)
    torch.testing.assert_close(phi(Z, LEVEL, FRONT), alone.detach())
    phi.fit(Z, LEVEL, FRONT, torch.Generator().manual_seed(1))
    assert torch.equal(prior.denoise(Z, LEVEL, FRONT, conditioning, 1.0), before)


@pytest.mark.parametrize(("metadata", "words"), [
    ({"modelspec.trigger_phrase": "clay style"}, "clay style"),
    ({"ss_tag_frequency": json.dumps({"10_x": {"clay": 9, "toy": 3}, "5_y": {"toy": 8}})}, "toy, clay"),
    ({"ss_tag_frequency": "broken"}, None),
])  # fmt: skip
def test_its_words_are_said(
    metadata: dict[str, str], words: str | None, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "clay.safetensors"
    name = f"unet.{MODULES[1]}"
    save_file(
        {f"{name}.lora_A.weight": torch.zeros(1, 16), f"{name}.lora_B.weight": torch.zeros(16, 1)},
        file,
        metadata,
    )
    notes = LatentPrior(folder, "cpu", loras=[str(file)]).take_notes()
    assert notes == ([] if words is None else [f"clay.safetensors was trained with these words: {words}."])


A, B, LAYER = torch.zeros(2, 16), torch.zeros(16, 2), f"unet.{MODULES[1]}"
WRONG: dict[str, tuple[dict[str, Tensor], str]] = {
    "another layer": (
        {"unet.no.such.lora_A.weight": A, "unet.no.such.lora_B.weight": B},
        "changes no_such, which the model's unet",
    ),
    "another width": (
        {f"{LAYER}.lora_A.weight": torch.zeros(2, 320), f"{LAYER}.lora_B.weight": B},
        "does not fit: .*320",
    ),
    "one factor": ({f"{LAYER}.lora_A.weight": A}, "lacks one of the two factors"),
    "LoHa": ({"lora_unet_x.hada_w1_a": A}, "holds LoHa"),
    "DoRA": ({"lora_unet_x.dora_scale": A}, "holds DoRA"),
    "a model": ({"model.diffusion_model.out.2.bias": A}, "no LoRA that is known here"),
    "nothing": ({}, "holds nothing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_refused_by_name(kind: str, folder: Path, tmp_path: Path) -> None:
    tensors, message = WRONG[kind]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=message):
        LatentPrior(folder, "cpu", loras=[str(tmp_path / "a.safetensors")])


def test_file_and_weight_are_read_from_one_word(tmp_path: Path) -> None:
    file = tmp_path / "clay.safetensors"
    file.write_bytes(b"")

    def read(text: str) -> tuple[Path, float]:
        return weighted_path(text, "--lora", "a LoRA's .safetensors file")

    assert read(str(file)) == (file, 1.0) and read(f"{file}:0.8") == (file, 0.8)
    for text, message in (
        (f"{file}:11", "-10 to 10, got 11"),
        (f"{file}x", "expected a LoRA's .safetensors file"),
        (f"{file}:nan", "got nan"),
    ):
        with pytest.raises(InputError, match=message):
            read(text)
