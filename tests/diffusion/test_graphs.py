"""Captured passes: the same numbers as without, from inputs, adapters and cameras that have changed since.

A card's capture is played by a trace: whatever Python would decide anew, or read from the device, is frozen or
refused in it just the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from backend.diffusion import graphs
from backend.diffusion.denoiser import Text, denoise, denoise_guided
from backend.diffusion.graphs import Graphs, Inputs, Run
from backend.diffusion.load import load_network
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.models import open_folder
from backend.diffusion.schedule import noise_levels
from backend.scene.camera import orbit
from tests.diffusion.tiny_models import build

CPU = torch.device("cpu")
LEVELS = noise_levels(0.8, 0.2, 4)


def capture_trace(run: Run, inputs: Inputs) -> Callable[[], Tensor]:
    names = list(inputs)
    traced = make_fx(lambda *values: run(dict(zip(names, values, strict=True))))(*inputs.values())
    return lambda: traced(*inputs.values())


def network(folder: Path, capture: bool):
    found = load_network(open_folder(folder), CPU)
    return type(found)(found.unet, found.prediction, found.dtype, Graphs(capture_trace) if capture else None)


@pytest.fixture(scope="module", params=["sd21-base", "refiner"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / request.param, request.param)


def text(net, rows: int, seed: int) -> Text:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 7, net.unet.config.cross_attention_dim, generator=generator)
    if "add_embedding" not in dict(net.unet.named_children()):
        return Text(hidden)
    width = net.unet.add_embedding.linear_1.in_features - 5 * net.unet.config.addition_time_embed_dim
    return Text(hidden, torch.randn(rows, width, generator=generator), torch.full((rows, 5), 64.0))


@torch.no_grad()
def test_what_is_replayed_follows_its_inputs(folder: Path) -> None:
    plain, captured = network(folder, False), network(folder, True)
    for seed, level in enumerate(LEVELS):
        z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        told = text(plain, 2, seed), text(plain, 1, 9)
        expected, found = (denoise_guided(net, z, level, *told, 7.5) for net in (plain, captured))
        torch.testing.assert_close(found, expected)
        kept = found.clone()
        denoise_guided(captured, z + 1, level, *told, 7.5)
        assert torch.equal(found, kept)  # what was given stays its owner's
    assert len(captured.graphs) == 1
    denoise(captured, z, level, told[0])  # another number of rows
    assert len(captured.graphs) == 2


def test_d_phi_on_the_same_network(folder: Path) -> None:
    """Fits, cameras and numbers of views change; D_p stays what it was."""
    results = []
    for capture in (False, True):
        net = network(folder, capture)
        told = text(net, 1, 3)
        phi, found = LoRAPhi(net, told, 2, 1e-2, 1, 0), []
        generator = torch.Generator().manual_seed(5)
        for step, views in enumerate((1, 1, 2, 1)):
            at = torch.full((views,), 40.0 * step)
            camera = orbit(at, 0 * at, 1 + 0 * at, 50 + 0 * at, 8, 8)
            x = torch.randn(views, 4, 8, 8, generator=generator)
            phi.fit(x, LEVELS[step], camera, generator)
            found.append(phi(x, LEVELS[step], camera))
            with torch.no_grad():
                found.append(denoise(net, x, LEVELS[step], told.repeated(views)))
        LoRAPhi(net, told, 2, 1e-2, 1, 1)
        assert net.graphs is None or len(net.graphs) == 0  # the layers it was captured from are gone
        results.append(found)
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_only_on_a_card_and_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert graphs.wanted(cuda) is None
    monkeypatch.setenv(graphs.SWITCH, "1")
    assert graphs.wanted(cuda) is not None and graphs.wanted(CPU) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
@torch.no_grad()
def test_on_a_card_it_gives_what_the_network_gives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    plain = load_network(open_folder(folder), cuda)
    monkeypatch.setenv(graphs.SWITCH, "1")
    captured = load_network(open_folder(folder), cuda)
    told = text(plain, 2, 0)
    told = Text(told.hidden.cuda(), *(None if t is None else t.cuda() for t in (told.pooled, told.time_ids)))
    for level in LEVELS:
        z = torch.randn(2, 4, 8, 8, device=cuda)
        expected, found = (denoise(net, z, level, told) for net in (plain, captured))
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
