"""The embedded prior's networks and their training, with few parameters' worth of work."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torch import Generator, nn

from backend.errors import InputError
from backend.jobs.priors import open_prior
from backend.models.model_folder import open_folder
from backend.training import __main__, export, networks, samples, train_unet, train_vae
from backend.training.dataset import make_album
from backend.training.run import Run, new_optimizer, width


def test_every_word_of_the_grammar_is_one_token(tmp_path) -> None:
    tokenizer = networks.save_tokenizer(tmp_path)
    longer = [w for w in networks.grammar_words() if len(tokenizer(w).input_ids) != 3]
    assert longer == ["3d"]  # digits always stand alone
    assert len(tokenizer("a corgi").input_ids) > 4  # unknown words come in pieces, without a crash
    longest = "a normal map of a yellow duck with a red beak and a blue wings, overhead view"
    assert len(tokenizer(longest).input_ids) <= networks.TEXT_LENGTH


def step(run: Run, network: nn.Module, generator: Generator) -> None:
    loss = network(torch.randn(4, 3, generator=generator)).square().sum()
    run.optimizer.zero_grad()
    loss.backward()
    run.optimizer.step()
    run.note(loss, 4)


def new_run(folder) -> tuple[Run, nn.Module]:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    return Run("base", folder, {"net": network}, new_optimizer({"net": network}, 0.0), 0.9), network


def test_a_training_goes_on_where_it_stopped(tmp_path) -> None:
    whole, network = new_run(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    generator = Generator().manual_seed(1)
    for _ in whole.work(1, 40):
        step(whole, network, generator)
    generator = Generator().manual_seed(1)
    first, network_b = new_run(tmp_path / "b")
    for _ in first.work(1, 20):
        step(first, network_b, generator)
    second, network_c = new_run(tmp_path / "b")
    assert second.restore() and second.seen == 20
    for _ in second.work(1, 40):
        step(second, network_c, generator)
    assert torch.equal(network_c.weight, network.weight)
    assert all(torch.equal(second.average[k], v) for k, v in whole.average.items())
    assert second.losses == whole.losses


def test_the_average_is_put_in(tmp_path) -> None:
    run, network = new_run(tmp_path)
    run.follow()
    first = network.weight.detach().clone()
    with torch.no_grad():
        network.weight.add_(1)
    run.put_average()
    assert torch.equal(network.weight, first)


def test_a_fresh_vae_learns(tmp_path) -> None:
    """A few steps on one batch: the noise of a fresh encoder does not hide the picture."""
    torch.manual_seed(0)
    vae = networks.make_vae()
    optimizer = new_optimizer({"vae": vae}, 0.0)
    generator = Generator().manual_seed(0)
    image = train_vae.pictures([make_album("ball", 2, 32, 0)], 4, 32, generator)
    losses = []
    for _ in range(12):
        loss = train_vae.loss_of(vae, image, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.fixture
def few(monkeypatch, tmp_path):
    """The whole training at the least size."""
    monkeypatch.setattr(__main__, "FIRST_KINDS", ("ball", "cone"))
    monkeypatch.setattr(__main__, "RING", 64)
    monkeypatch.setattr(__main__, "SCALE_PICTURES", 8)
    monkeypatch.setattr(train_unet, "BATCH", 8)
    monkeypatch.setattr(train_vae, "PLANNED", 16)
    monkeypatch.setattr(train_vae, "ENCODER_UNTIL", 8)
    monkeypatch.setattr(train_unet, "PLANNED", {"base": 24, "refiner": 20})
    monkeypatch.setattr(samples, "STEPS", 2)
    monkeypatch.setattr(samples, "LEVELS", 2)
    monkeypatch.setattr(samples, "REFINED", 2)
    monkeypatch.setattr(__main__, "open_album", lambda cache, kind: make_album(kind, 2, 128, 0))
    return ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"), "--device", "cpu"]


@pytest.mark.slow
def test_the_whole_training_makes_folders_that_load_as_any_prior(few, tmp_path) -> None:
    assert __main__.main([*few, "--minutes", "5"]) == 0
    out, cache = tmp_path / "out", tmp_path / "cache"
    assert Image.open(cache / "samples.png").size == (8 * 64, 2 * 64)  # a kind a row, two colours, four views
    assert Image.open(cache / "refined.png").size == (8 * 128, 128)
    assert Image.open(cache / "losses.png").width == 3 * 320
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert size <= 20e6
    assert not (out / "refiner" / "vae").exists()  # stored once
    base, refiner = open_folder(out / "base"), open_folder(out / "refiner")
    assert base.prediction == refiner.prediction == "v_prediction"
    assert refiner.weights["vae"] == base.weights["vae"]
    assert refiner.spec.native_size == 128 and base.spec.native_size == 64
    assert json.loads((out / "base" / "vae" / "config.json").read_text())["scaling_factor"] != 0.18215
    for folder in (out / "base", out / "refiner"):
        prior = open_prior(folder, "cpu")
        assert prior.spec.target == "pixel" and not prior.spec.lora
        prior.check("a red ball", "", "colour", 128)
        for prompt in ("a corgi", "a red chair"):
            with pytest.raises(InputError, match="no known kind") as error:
                prior.check(prompt, "", "colour", 128)
            assert "Stable Diffusion" in str(error.value)
    # going on, and from shipped weights with fresh moments
    assert __main__.main([*few, "--part", "base", "--resume"]) == 0
    assert __main__.main([*few, "--part", "base", "--from", str(out)]) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
def test_a_card_trains_in_bf16_and_goes_on(few) -> None:
    on_card = [*few[:-1], "cuda"]
    assert __main__.main([*on_card, "--minutes", "5"]) == 0
    assert __main__.main([*on_card, "--part", "base", "--resume"]) == 0


def test_a_card_takes_more_pictures_a_step() -> None:
    assert width(torch.device("cpu")) == 1 < width(torch.device("cuda"))


def test_networks_in_bf16_give_the_same_loss_but_for_rounding(monkeypatch, tmp_path) -> None:
    """Parameters and losses stay in fp32, as on a card; on a CPU, bf16 is only slow."""
    torch.manual_seed(0)
    vae, unet = networks.make_vae(), networks.make_unet(True)
    encoder = networks.make_text_encoder(True, len(networks.save_tokenizer(tmp_path)))
    tokens, told = torch.zeros(2, networks.TEXT_LENGTH, dtype=torch.int64), torch.rand(2, 5)
    x, image = torch.randn(2, 4, 16, 16), torch.rand(2, 3, 32, 32)

    def losses() -> list[torch.Tensor]:
        generators = (Generator().manual_seed(0), Generator().manual_seed(0))
        of_unet = train_unet.loss_of(unet, encoder, tokens, x, x + 0.1, told, generators[0])
        return [of_unet, train_vae.loss_of(vae, image, generators[1])]

    exact = losses()
    for module in (train_unet, train_vae):
        monkeypatch.setattr(module, "precision", lambda device: torch.autocast("cpu", torch.bfloat16))
    for rounded, loss in zip(losses(), exact, strict=True):
        assert rounded.dtype == torch.float32 and not torch.equal(rounded, loss)
        assert abs(float(rounded.detach() / loss.detach()) - 1) < 0.02
        rounded.backward()
    gradients = [p.grad for p in [*unet.parameters(), *vae.parameters()] if p.grad is not None]
    assert gradients and all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


def test_base_cannot_begin_before_the_encoder_stands_still(few, capsys) -> None:
    assert __main__.main([*few, "--part", "base"]) == 2
    assert "--part vae" in capsys.readouterr().err


def test_what_a_prior_states_survives_the_folder() -> None:
    stated = export.statement(refiner=False)
    assert stated["backgrounds"]["learned_share"] == 0 and stated["kinds"]
