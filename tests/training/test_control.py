"""The built-in prior's ControlNet: its data, and how its training begins and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Generator

from backend.diffusion.control import MAPS, Control, residuals
from backend.diffusion.joint_attention import join_frames
from backend.jobs.priors import built_in
from backend.models.load import load_network, load_vae
from backend.models.model_folder import open_folder
from backend.training import control
from backend.training.dataset import make_album


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "VIEWS", 4)


def test_maps_lie_under_the_views_that_they_are_of(few: None, tmp_path: Path) -> None:
    album = make_album("mug", 4, 64, control.SEED)
    maps = control.open_maps(tmp_path, album)
    assert maps.shape == (4, 6, 64, 64) and torch.equal(maps, control.open_maps(tmp_path, album))
    near, solid = maps[:, 0] > 0, album.alpha > 127
    assert float((near & solid).sum() / (near | solid).sum()) > 0.95
    facing = (maps[:, 5].float() / 127.5 - 1)[near & solid]  # blue to the front
    assert float((facing > 0).float().mean()) > 0.97


def test_a_latent_of_a_part_counts_more_than_one_of_the_body(few: None, tmp_path: Path) -> None:
    album = make_album("mug", 4, 64, control.SEED)
    vae = load_vae(open_folder(built_in("mini")), torch.device("cpu"))
    batch = control.make_batch([(album, torch.zeros(4, 6, 64, 64))], vae, Generator().manual_seed(0))
    assert batch.label.shape == (control.BATCH, 16)
    assert batch.x.shape == (control.BATCH, 4, 16, 16) and len(batch.captions) == control.BATCH
    assert float(batch.weight.amin()) == 1 and float(batch.weight.amax()) == 1 + control.PART_WEIGHT
    shares = (batch.weight > 1).float().mean((1, 2, 3))
    assert 0 < float(shares.max()) < 0.3  # a handle and what is seen of the inside


def test_it_begins_as_nothing_learns_and_is_written_to_be_opened(tmp_path: Path) -> None:
    network = load_network(open_folder(built_in("mini")), torch.device("cpu"))
    unet = network.unet
    join_frames(unet, 1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    run = control.begin(tmp_path, unet)  # type: ignore[arg-type]
    net, g = run.networks["control"], Generator().manual_seed(0)
    x, t = torch.randn(2, 4, 16, 16, generator=g), torch.tensor([100, 400])
    hidden, maps = torch.randn(2, 24, 96, generator=g), torch.rand(2, 6, 64, 64, generator=g)
    told = {"encoder_hidden_states": hidden, "class_labels": torch.randn(2, 16, generator=g)}
    more = residuals([Control(net, MAPS, 1.0)], x, t, hidden, None, maps, told["class_labels"])
    assert torch.equal(unet(x, t, **told, **more).sample, unet(x, t, **told).sample)
    batch = control.Batch(x, maps, told["class_labels"], torch.ones(2, 1, 16, 16), ["", ""])
    losses = []
    for _ in range(12):
        loss = control.loss_of(net, unet, hidden, batch, Generator().manual_seed(1))  # type: ignore[arg-type]
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.step += 1
        run.follow()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]
    assert all(p.grad is None for p in unet.parameters())  # type: ignore[attr-defined]
    control.export(run, tmp_path / "control")
    from backend.models.control import open_controls

    (found,) = open_controls([str(tmp_path / "control")], open_folder(built_in("mini")))
    assert found.shows == MAPS and sum(file.stat().st_size for file in found.files) < 6e6
