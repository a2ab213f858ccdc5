"""Training of rings: how it starts, and that a run in two parts ends with the bytes of one in one part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from backend.diffusion.camera_label import camera_label
from backend.diffusion.joint_attention import join_frames
from backend.errors import InputError
from backend.jobs.priors import built_in
from backend.models.load import load_network, load_text
from backend.models.model_folder import open_folder
from backend.objects.shapes import KINDS
from backend.training import export, networks
from backend.training.rings import __main__
from backend.training.rings.rings import FRAMES, Drawer, RingAlbum, open_ring_album, ring_cameras


@pytest.fixture(scope="module")
def first_edition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as backend.training writes it, untrained: it is told no camera."""
    folder = tmp_path_factory.mktemp("first") / "base"
    torch.manual_seed(0)
    words = len(networks.save_tokenizer(folder.parent / "tokenizer"))
    parts = {"unet": networks.make_unet(False), "text_encoder": networks.make_text_encoder(False, words)}
    export.write_model(folder, parts | {"vae": networks.make_vae()}, refiner=False)
    return folder


@pytest.mark.parametrize("start", ["shipped", "first edition"])
def test_step_0_is_the_model_that_it_starts_from(tmp_path: Path, first_edition: Path, start: str) -> None:
    tokenizer = networks.save_tokenizer(tmp_path / "tokenizer")
    shipped = start == "shipped"
    folder = built_in("mini") if shipped else first_edition
    trainer = __main__.Trainer(tmp_path, 0, None, folder)
    assert (trainer.run.seen >= 380_000) == shipped and trainer.run.step == trainer.run.seen // 32
    unet, encoder, model = trainer.unet, trainer.encoder, open_folder(folder)
    old_tokenizer, old_encoder = load_text(model, torch.device("cpu"))
    old_unet = load_network(model, torch.device("cpu")).unet.float()
    padded = {"padding": "max_length", "max_length": networks.TEXT_LENGTH, "return_tensors": "pt"}
    text = "a normal map of a red duck with a blue beak"
    camera = ring_cameras(1, torch.Generator().manual_seed(0), 64)
    x = torch.randn(FRAMES, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([900, 600, 300, 10])
    for network in (unet, old_unet):
        join_frames(network, 1)
    with torch.no_grad():
        new = encoder(tokenizer(text, **padded).input_ids).last_hidden_state
        old = old_encoder.float()(old_tokenizer(text, **padded).input_ids).last_hidden_state
        told = {"encoder_hidden_states": new.expand(FRAMES, -1, -1), "class_labels": camera_label(camera.c2w)}
        a = unet(x, t, **told).sample
        if not shipped:
            del told["class_labels"]
        b = old_unet(x, t, **told).sample
    assert torch.equal(new, old)
    assert torch.allclose(a, b, atol=1e-6)


def test_every_old_token_keeps_its_row_and_every_new_one_is_its_own() -> None:
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    grown = networks.grown_rows({"a": 0, "b": 1, "end": 2}, rows, {"a": 0, "b": 1, "c": 2, "d": 3, "end": 4})
    assert torch.equal(grown[[0, 1, 4]], rows)
    assert not torch.allclose(grown[2], grown[3], atol=1e-3)
    with pytest.raises(ValueError, match="no end"):
        networks.grown_rows({"a": 0, "end": 2}, rows, {"a": 0})


@pytest.fixture
def albums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RingAlbum]:
    monkeypatch.setattr(__main__, "BATCH", 8)
    monkeypatch.setattr(__main__, "CHUNK", 2)
    monkeypatch.setattr(__main__, "CHUNKS", 2)
    return [open_ring_album(tmp_path / "albums", kind, count=2) for kind in ("ball", "cone")]


def run(folder: Path, albums: list[RingAlbum], pictures: int, start: Path) -> dict[str, torch.Tensor]:
    trainer = __main__.Trainer(folder, 3, (10**6, pictures), start)  # ends at `pictures`, no decay before
    trainer.train(albums, 60)
    return {name: value.detach().clone() for name, value in trainer.run.parameters().items()} | {
        f"average.{name}": value.clone() for name, value in trainer.run.average.items()
    }


@pytest.mark.slow
def test_going_on_ends_with_the_same_bytes(
    tmp_path: Path, albums: list[RingAlbum], first_edition: Path
) -> None:
    whole = run(tmp_path / "whole", albums, 56, first_edition)
    run(tmp_path / "torn", albums, 24, first_edition)
    torn = run(tmp_path / "torn", albums, 56, first_edition)
    assert whole.keys() == torn.keys()
    assert all(torch.equal(whole[name], torn[name]) for name in whole)
    moved = [name for name in whole if "class_embedding.linear_2" in name and whole[name].abs().max() > 0]
    assert len(moved) == 4  # weight and bias, and their averages


def test_an_exported_model_is_gone_on_with_and_keeps_its_kinds(
    tmp_path: Path, albums: list[RingAlbum], first_edition: Path
) -> None:
    first = __main__.Trainer(tmp_path / "first", 3, (10**6, 8), first_edition)
    first.train(albums, 60)
    first.export(tmp_path / "model", None)
    path = tmp_path / "model" / "dreamflow.json"
    export.write_json(path, json.loads(path.read_text("utf-8")) | {"kinds": ["cone", "sofa", "ball"]})
    first.export(tmp_path / "model", None)
    assert json.loads(path.read_text("utf-8"))["kinds"] == ["ball", "cone"], "no sofa was shown"
    configs = [path.read_text("utf-8") for path in (tmp_path / "model").rglob("*.json")]
    assert not any("_name_or_path" in text for text in configs), "a path of the machine that trained it"
    second = __main__.Trainer(tmp_path / "second", 3, None, tmp_path / "model")
    assert (second.run.seen, second.run.step) == (8, 1)
    for name, value in first.run.parameters().items():
        assert torch.allclose(second.run.parameters()[name], value, atol=2e-3, rtol=1e-3), name  # fp16
    (tmp_path / "model" / "CREDITS.txt").write_text("by Somebody\n", "utf-8")
    second.run.follow()
    second.export(tmp_path / "further", None)
    assert (tmp_path / "further" / "CREDITS.txt").read_text("utf-8") == "by Somebody\n"


def test_a_joint_batch_is_whole_rings_and_a_single_one_is_not(albums: list[RingAlbum]) -> None:
    latents = torch.arange(5.0)[:, None, None, None, None] * 10 + torch.arange(4.0)[:, None, None, None]
    cameras = torch.zeros(5, FRAMES, 4, 4)
    pool = (latents.expand(5, FRAMES, 1, 2, 2), cameras, list("abcde"))
    x, c2w, texts = __main__.take(pool, True, torch.Generator().manual_seed(0))
    assert c2w.shape == (8, 4, 4)
    assert (x[:, 0, 0, 0].view(-1, FRAMES) % 10 == torch.arange(4.0)).all()
    assert texts[:4] == [texts[0]] * 4
    x, _, texts = __main__.take(pool, False, torch.Generator().manual_seed(0))
    said = [text for text in zip(texts, (x[:, 0, 0, 0] // 10).long().tolist(), strict=True) if text[0]]
    assert all("abcde"[row] == text for text, row in said)
    assert len({float(v) for v in x[:, 0, 0, 0]}) > 4


def test_a_kind_is_drawn_by_its_weight_and_never_in_a_held_out_colour(albums: list[RingAlbum]) -> None:
    drawer = Drawer(albums, {"ball": 3.0})
    generator = torch.Generator().manual_seed(0)
    drawn = [drawer.draw(generator) for _ in range(200)]
    kinds = [picture.description.kind for picture in drawn]
    assert 130 <= kinds.count("ball") <= 170
    assert ("ball", "grey") not in {(p.description.kind, p.description.colour) for p in drawn}
    assert 10 <= sum(p.description.normal_map for p in drawn) <= 55
    assert all(p.description.view is None and p.images.shape == (4, 3, 64, 64) for p in drawn)


def test_an_export_is_whole_states_the_ring_and_credits_the_makers(
    tmp_path: Path, albums: list[RingAlbum], first_edition: Path
) -> None:
    run(tmp_path / "run", albums, 16, first_edition)
    trainer = __main__.Trainer(tmp_path / "run", 3, None)
    trainer.export(tmp_path / "model", None)
    stated = json.loads((tmp_path / "model" / "dreamflow.json").read_text("utf-8"))
    assert (stated["camera"], stated["frames"], stated["view_prompt"]) == ("c2w", FRAMES, "{prompt}")
    assert stated["settings"]["nerf.levels"] * stated["settings"]["nerf.views"] == 440
    assert "views" not in stated and set(stated["kinds"]) == set(KINDS)
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "model" / "unet", local_files_only=True)
    average = trainer.run.average
    assert all(torch.equal(p, average[f"unet.{name}"].half().float()) for name, p in unet.named_parameters())
    size = sum(file.stat().st_size for file in (tmp_path / "model").rglob("*") if file.is_file())
    assert size < 25e6
    __main__.write_rings_model(
        tmp_path / "model", trainer.parts | {"vae": trainer.vae}, ["ball"], "by Somebody\n"
    )
    assert (tmp_path / "model" / "CREDITS.txt").read_text("utf-8") == "by Somebody\n"
    with pytest.raises(InputError, match="no training state"):
        __main__.Trainer(tmp_path / "nothing", 3, None).export(tmp_path / "model", None)
