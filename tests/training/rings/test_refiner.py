"""The refiner's training: single views, begun as the shipped refiner; it goes on, and its export is a refiner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from backend.diffusion.schedule import noise_levels
from backend.jobs.priors import built_in, open_prior
from backend.models.load import load_text
from backend.models.model_folder import open_folder
from backend.training import networks, train_unet
from backend.training.rings import refiner
from backend.training.rings.rings import Drawer, open_ring_album, ring_cameras


def test_a_view_of_a_ring_is_a_picture_with_its_coverage(tmp_path: Path) -> None:
    drawer = Drawer([open_ring_album(tmp_path, "cone", count=2)], {})
    picture = drawer.draw_view(torch.Generator().manual_seed(0))
    assert picture.image.shape == (3, 64, 64) and picture.description.view is None
    empty = picture.image[:, picture.alpha == 0]
    assert 0.1 < picture.alpha.mean() < 0.9
    assert torch.equal(empty, empty[:, :1].expand_as(empty)), "the background is plain where nothing is"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refiner, "RINGS", 1)
    monkeypatch.setattr(refiner, "ROOM", 256)
    monkeypatch.setattr(train_unet, "BATCH", 8)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_it_goes_on_and_exports_a_refiner(tmp_path: Path) -> None:
    def train(pictures: int) -> int:
        given = ["--cache", str(tmp_path), "--kinds", "ball", "--pictures", str(pictures)]
        return refiner.main(given)

    assert refiner.main(["--cache", str(tmp_path), "--export", str(tmp_path / "model")]) == 2, "nothing yet"
    assert train(8) == 0
    assert train(16) == 0
    assert json.loads((tmp_path / "refiner.json").read_text("utf-8"))["pictures"] >= 16
    assert refiner.main(["--cache", str(tmp_path), "--export", str(tmp_path / "refiner")]) == 0
    stated = json.loads((tmp_path / "refiner" / "dreamflow.json").read_text("utf-8"))
    assert "views" not in stated and stated["view_prompt"] == "{prompt}" and stated["native_size"] == 128
    (tmp_path / "base").symlink_to(built_in("mini"))  # whose VAE it uses
    prior = open_prior(tmp_path / "refiner", "cpu")
    same, other = (prior.prepare(f"a red {kind}", "", "colour", 128) for kind in ("ball", "duck"))
    noise = torch.randn(1, prior.channels, 32, 32, generator=torch.Generator().manual_seed(0))
    level, camera = noise_levels(0.3, 0.0, 2)[0], ring_cameras(1, torch.Generator().manual_seed(0), 128)[:1]
    said = [prior.denoise(noise, level, camera, text, 1.0) for text in (same, other)]
    assert not torch.equal(*said), "it reads the words"


def test_it_begins_as_the_shipped_refiner(tmp_path: Path) -> None:
    tokenizer = networks.save_tokenizer(tmp_path)
    parts = refiner.grown_refiner(built_in("mini-refiner"), tokenizer.get_vocab())
    model, cpu = open_folder(built_in("mini-refiner")), torch.device("cpu")
    shipped_tokenizer, shipped = load_text(model, cpu)
    told = {"padding": "max_length", "max_length": networks.TEXT_LENGTH, "return_tensors": "pt"}
    text = "a normal map of a red duck with a blue beak"
    with torch.no_grad():
        new = parts["text_encoder"](tokenizer(text, **told).input_ids)
        old = shipped.float()(shipped_tokenizer(text, **told).input_ids)
    assert torch.equal(new.last_hidden_state, old.last_hidden_state)
    assert torch.equal(new.text_embeds, old.text_embeds)
