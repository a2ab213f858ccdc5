from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load, save
from torch import Tensor

from backend.diffusion.convention import CONVENTIONS
from backend.diffusion.denoiser import Network, Text, denoise
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.schedule import noise_levels
from backend.errors import ModelError
from backend.scene.camera import Camera, orbit

LEVEL = noise_levels(0.6, 0.2, 4)[1]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cameras(*azimuths: float) -> Camera:
    azimuth = torch.tensor(azimuths)
    same = torch.ones_like(azimuth)
    return orbit(azimuth, 15 * same, 1.2 * same, 50 * same, 32, 32)


TEXT, X, CAMERA = Text(noise(1, 5, 16, seed=3)), noise(1, 4, 8, 8), cameras(30)


@pytest.fixture(scope="module")
def unets(base_folder: Path, v_folder: Path) -> dict[str, UNet2DConditionModel]:
    return {
        prediction: UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
        .eval()
        .requires_grad_(False)
        for prediction, folder in (("epsilon", base_folder), ("v_prediction", v_folder))
    }


@pytest.fixture
def network(unets: dict[str, UNet2DConditionModel]) -> Network:
    return Network(unets["epsilon"], "epsilon")


def fresh(network: Network, **settings: Any) -> LoRAPhi:
    defaults: dict[str, Any] = {"rank": 4, "learning_rate": 1e-3, "warmup": 1, "seed": 0}
    return LoRAPhi(network, TEXT, **(defaults | settings))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_fresh_is_the_base_exactly_and_the_base_comes_back_exactly(
    prediction: Any, unets: dict[str, UNet2DConditionModel]
) -> None:
    network = Network(unets[prediction], prediction)
    z, camera = noise(2, 4, 8, 8), cameras(0, 120)
    with torch.no_grad():
        before = denoise(network, z, LEVEL, TEXT.repeated(2))
    phi = fresh(network)
    assert torch.equal(phi(z, LEVEL, camera), before)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        phi.fit(noise(2, 4, 8, 8), LEVEL, camera, generator)
    assert not torch.equal(phi(z, LEVEL, camera), before)
    with torch.no_grad():
        assert torch.equal(denoise(network, z, LEVEL, TEXT.repeated(2)), before)
    assert not unets[prediction].time_embedding._forward_hooks
    assert torch.equal(fresh(network)(z, LEVEL, camera), before)  # the next stage starts from the base


def test_the_base_comes_back_after_an_error(network: Network) -> None:
    phi = fresh(network)
    phi.fit(X, LEVEL, CAMERA, torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = denoise(network, X, LEVEL, TEXT)
        with pytest.raises(RuntimeError):
            phi(noise(1, 3, 8, 8), LEVEL, CAMERA)  # a channel short
        assert torch.equal(denoise(network, X, LEVEL, TEXT), before)


def test_fit_minimises_the_error_of_the_networks_own_prediction_at_a_draw_of_its_own(
    network: Network,
) -> None:
    phi = fresh(network)
    loss = phi.fit(X, LEVEL, CAMERA, torch.Generator().manual_seed(7))
    n = noise(1, 4, 8, 8, seed=7)
    with torch.no_grad():
        output = network.predict(X + LEVEL.sigma * n, LEVEL, TEXT)
    expected = (output - CONVENTIONS["epsilon"].answer(X, n, LEVEL)).square().mean()
    torch.testing.assert_close(loss, expected)
    assert not loss.requires_grad


def test_fitting_learns_the_render(unets: dict[str, UNet2DConditionModel]) -> None:
    """A render of flat colours, which attention and an embedding can learn under frozen random convolutions."""
    phi = fresh(Network(unets["v_prediction"], "v_prediction"), learning_rate=5e-2)
    x = torch.tensor([2.0, -1, 1, 0])[None, :, None, None].expand(1, 4, 8, 8)
    z, generator = x + LEVEL.sigma * noise(1, 4, 8, 8, seed=9), torch.Generator().manual_seed(0)
    before = (phi(z, LEVEL, CAMERA) - x).norm()
    for _ in range(8):
        phi.fit(x, LEVEL, CAMERA, generator)
    assert (phi(z, LEVEL, CAMERA) - x).norm() < 0.97 * before  # 0.958: the convolutions stay what they are


def test_the_camera_matters_once_fitted(network: Network) -> None:
    phi, z, generator = (
        fresh(network),
        noise(2, 4, 8, 8)[:1].repeat(2, 1, 1, 1),
        torch.Generator().manual_seed(0),
    )
    both = cameras(0, 180)
    one, other = phi(z, LEVEL, both)
    torch.testing.assert_close(one, other)
    for _ in range(3):
        phi.fit(noise(2, 4, 8, 8), LEVEL, both, generator)
    one, other = phi(z, LEVEL, both)
    assert (one - other).abs().max() > 1e-5


def test_only_attention_and_the_camera_are_trained_in_float32(network: Network) -> None:
    phi = fresh(network, rank=3)
    for name, parameter in phi.parameters.items():
        assert parameter.dtype == torch.float32
        if name.startswith("camera."):
            continue
        assert any(f".{target}.lora_" in name for target in ("to_q", "to_k", "to_v", "to_out.0"))
        assert 3 in parameter.shape
    # 16 latents a side: of 8 the middle block sees one, and attention over one token teaches to_q and to_k nothing
    phi.fit(noise(1, 4, 16, 16), LEVEL, CAMERA, torch.Generator().manual_seed(0))
    ours = {id(p) for p in phi.parameters.values()}
    assert isinstance(network.unet, UNet2DConditionModel)
    assert all(p.grad is None for p in network.unet.parameters() if id(p) not in ours)
    moved = fresh(network, rank=3).parameters
    assert all(not torch.equal(p, moved[name]) for name, p in phi.parameters.items() if "lora_B" in name)


def test_a_bfloat16_base_keeps_its_lora_in_float32(base_folder: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(
        base_folder, subfolder="unet", torch_dtype=torch.bfloat16
    ).eval()
    phi = fresh(Network(unet, "epsilon", torch.bfloat16))
    assert {p.dtype for p in phi.parameters.values()} == {torch.float32}
    assert torch.isfinite(phi.fit(X, LEVEL, CAMERA, torch.Generator().manual_seed(0)))
    assert phi(X, LEVEL, CAMERA).dtype == torch.float32


def test_the_seed_decides_and_the_global_generator_is_left_alone(network: Network) -> None:
    state = torch.random.get_rng_state()
    first = {name: p.detach().clone() for name, p in fresh(network, seed=1).parameters.items()}
    torch.manual_seed(99)
    again, other = fresh(network, seed=1).parameters, None
    assert all(torch.equal(p, again[name]) for name, p in first.items())
    other = fresh(network, seed=2).parameters
    assert any(not torch.equal(p, other[name]) for name, p in first.items())
    torch.random.set_rng_state(state)
    fresh(network).fit(X, LEVEL, CAMERA, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_learning_rate_warms_up_linearly(network: Network) -> None:
    phi = fresh(network, learning_rate=1e-2, warmup=4)
    generator, last, sizes = torch.Generator().manual_seed(0), torch.zeros(32), []
    for _ in range(6):
        phi.fit(X, LEVEL, CAMERA, generator)
        bias = phi.parameters["camera.outer.bias"].detach().clone()
        sizes.append(float((bias - last).abs().max()))
        last = bias
    assert sizes[0] == pytest.approx(1e-2 / 4, rel=1e-2)  # Adam's first step is the learning rate
    assert [group["lr"] for group in phi._optimizer.param_groups] == [1e-2]
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3]


def test_state_goes_through_safetensors_and_the_fit_goes_on_as_if_uninterrupted(network: Network) -> None:
    phi, generator = fresh(network, warmup=10), torch.Generator().manual_seed(0)
    for _ in range(2):
        phi.fit(X, LEVEL, CAMERA, generator)
    data, drawn = save(phi.state_dict()), generator.get_state()
    expected_loss = phi.fit(X, LEVEL, CAMERA, generator)
    expected = phi(X, LEVEL, CAMERA)

    other = fresh(network, warmup=10, seed=5)
    other.load_state_dict(load(data))
    loss = other.fit(X, LEVEL, CAMERA, torch.Generator().set_state(drawn))
    assert torch.equal(loss, expected_loss)
    assert torch.equal(other(X, LEVEL, CAMERA), expected)


def test_the_state_of_a_fresh_phi_is_without_moments(network: Network) -> None:
    phi = fresh(network)
    state = phi.state_dict()
    assert not any(name.startswith("adamw.") for name in state)
    phi.fit(X, LEVEL, CAMERA, torch.Generator().manual_seed(0))
    phi.load_state_dict(state)
    assert phi.steps == 0 and not phi._optimizer.state


def test_a_state_of_another_rank_is_refused(network: Network) -> None:
    state = fresh(network, rank=2).state_dict()
    with pytest.raises(ModelError, match=r"\(2, .*expected \(4, "):
        fresh(network, rank=4).load_state_dict(state)
    with pytest.raises(ModelError, match="nothing"):
        fresh(network).load_state_dict({})
