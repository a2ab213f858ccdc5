"""The built-in prior's ControlNet: its data, and how its training begins and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from backend.diffusion.camera_label import camera_label
from backend.diffusion.control import MAPS, Control, residuals
from backend.jobs.priors import built_in
from backend.models.control import open_controls
from backend.models.load import load_network, load_text, load_vae
from backend.models.model_folder import ModelFolder, open_folder
from backend.training.rings import control, rings
from backend.training.rings.rings import RingAlbum, open_ring_album, ring_cameras
from backend.training.train_unet import Sentences

# once it is the built-in one, and before
PLACES = built_in("mini"), Path(control.__file__).parent / "second_edition"


@pytest.fixture(scope="module")
def model() -> ModelFolder:
    return next(found for found in map(open_folder, PLACES) if found.spec.frames > 1)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[RingAlbum, Tensor]:
    folder = tmp_path_factory.mktemp("albums")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "CELLS", (16, 24))
        patch.setattr(rings, "EDGE", 2)
        album = open_ring_album(folder, "mug", 2)
        maps = control.open_maps(folder, album)
    assert torch.equal(maps, control.open_maps(folder, album))
    return album, maps


def test_maps_lie_under_the_views_that_they_are_of(shown: tuple[RingAlbum, Tensor]) -> None:
    album, maps = shown
    assert maps.shape == (8, 6, 64, 64)
    near, solid = maps[:, 0] > 0, album.alpha > 127
    assert float((near & solid).sum() / (near | solid).sum()) > 0.95
    facing = (maps[:, 5].float() / 127.5 - 1)[near & solid]  # blue to the front
    assert float((facing > 0).float().mean()) > 0.97


def test_a_step_takes_whole_rings_and_the_same_ones_again(
    model: ModelFolder, shown: tuple[RingAlbum, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CHUNK", 6)
    cpu = torch.device("cpu")
    words, encoder = load_text(model, cpu)

    def pool() -> control.Pool:
        return control.Pool([shown], load_vae(model, cpu), encoder, Sentences(words))

    one = pool()
    one.take(0)
    views, again = one.take(7), pool().take(7)  # of a run that was stopped
    assert all(torch.equal(part, vars(again)[name]) for name, part in vars(views).items())
    assert views.x.shape == (control.RINGS * 4, 4, 16, 16) and views.maps.dtype == torch.uint8
    labels = camera_label(shown[0].c2w)
    for ring in range(control.RINGS):
        rows = slice(4 * ring, 4 * ring + 4)
        (place,) = {int((labels == label).all(1).nonzero()[0]) // 4 for label in views.label[rows]}
        assert torch.equal(views.maps[rows], shown[1][4 * place : 4 * place + 4])
        assert float((views.hidden[rows] - views.hidden[rows][:1]).abs().max()) == 0
    assert float(views.weight.amin()) == 1 and float(views.weight.amax()) == 1 + control.PART_WEIGHT
    shares = (views.weight > 1).float().mean((1, 2, 3))
    assert 0 < float(shares.max()) < 0.3  # a handle and what is seen of the inside


def test_it_begins_as_nothing_learns_and_is_written_to_be_opened(model: ModelFolder, tmp_path: Path) -> None:
    unet = load_network(model, torch.device("cpu")).unet
    torch.manual_seed(0)
    run = control.begin(tmp_path, unet)  # type: ignore[arg-type]
    net, g = run.networks["control"], Generator().manual_seed(0)
    x, t = torch.randn(4, 4, 16, 16, generator=g), torch.full((4,), 400)
    hidden, maps = torch.randn(4, 24, 96, generator=g), torch.randint(256, (4, 6, 64, 64), generator=g)
    label = camera_label(ring_cameras(1, g, 64).c2w)
    told = {"encoder_hidden_states": hidden, "class_labels": label}
    more = residuals([Control(net, MAPS, 1.0)], x, t, hidden, None, maps / 255, label)
    assert torch.equal(unet(x, t, **told, **more).sample, unet(x, t, **told).sample)
    views = control.Views(x, maps.to(torch.uint8), torch.ones(4, 1, 16, 16), label, hidden)
    losses = []
    for _ in range(12):
        loss = control.loss_of(net, unet, views, Generator().manual_seed(1))  # type: ignore[arg-type]
        run.learn(loss, 4)
        run.step += 1
        run.follow()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]
    assert all(p.grad is None for p in unet.parameters())  # type: ignore[attr-defined]
    control.export(run, tmp_path / "control")
    (found,), _ = open_controls([str(tmp_path / "control")], model)
    assert found.shows == MAPS and sum(file.stat().st_size for file in found.files) < 6e6
