"""Captured passes, on a pretended card whose graphs record operators and refuse what a card's would.

The same numbers as without, from inputs, adapters and cameras that have changed since; and where a capture fails or
gives something else, the plain pass from then on and a note.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from backend.diffusion import graphs
from backend.diffusion.denoiser import Network, Text, denoise, denoise_guided, notes_of
from backend.diffusion.graphs import Graphs, Inputs
from backend.diffusion.lora import LoRAPhi
from backend.diffusion.schedule import noise_levels
from backend.scene.camera import orbit
from tests.card.pretended import PretendedCard

LEVELS = noise_levels(0.8, 0.2, 4)
TEXT, POOLED = 16, 12  # widths


def small_unet() -> UNet2DConditionModel:
    """Of the refiner's kinds of block, as few as there can be."""
    return UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=(8, 16), attention_head_dim=(1, 2), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT, norm_num_groups=4, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=POOLED + 5 * 4,
    )  # fmt: skip


def allowed() -> Graphs:
    made = Graphs()
    made.allowed = True
    return made


@pytest.fixture
def card() -> Iterator[PretendedCard]:
    with PretendedCard() as made:
        yield made


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return small_unet().state_dict()


def networks(weights: dict[str, Tensor]) -> tuple[Network, Network]:
    """On the card, of the same weights: as it is, and captured."""
    made = []
    for own in (None, allowed()):
        module = small_unet()
        module.load_state_dict(weights)
        made.append(Network(module.to("cuda").eval().requires_grad_(False), "epsilon", torch.float32, own))
    return made[0], made[1]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to("cuda")


def text(rows: int, seed: int) -> Text:
    pooled = draw(rows, POOLED, seed=seed + 50)
    return Text(draw(rows, 7, TEXT, seed=seed), pooled, torch.full((rows, 5), 64.0, device="cuda"))


@torch.no_grad()
def test_what_is_replayed_follows_its_inputs(card: PretendedCard, weights: dict[str, Tensor]) -> None:
    plain, captured = networks(weights)
    assert captured.graphs is not None
    for seed, level in enumerate(LEVELS[:3]):
        z, told = draw(1, 4, 8, 8, seed=seed), (text(1, seed), text(1, 9))
        expected, found = (denoise_guided(net, z, level, *told, 7.5) for net in (plain, captured))
        assert torch.equal(found, expected)
        assert card.replays == 1 + seed  # the first one was the test of itself
    kept = found.clone()
    denoise_guided(captured, z + 1, level, *told, 7.5)
    assert torch.equal(found, kept)  # what was given stays its owner's
    assert len(captured.graphs) == 1
    denoise(captured, z, level, told[0])  # another number of rows
    assert len(captured.graphs) == 2 and captured.graphs.take_notes() == []


def test_d_phi_on_the_same_network(card: PretendedCard, weights: dict[str, Tensor]) -> None:
    """Fits, cameras, saved weights and numbers of views change; D_p stays what it was."""
    results: list[list[Tensor]] = []
    for net in networks(weights):
        told = text(1, 3)
        phi, found, saved = LoRAPhi(net, told, 2, 1e-2, 1, 0), [], {}
        generator = torch.Generator("cuda").manual_seed(5)
        before = card.replays
        for step, views in enumerate((1, 1, 2, 1)):
            at = torch.full((views,), 40.0 * step, device="cuda")
            camera = orbit(at, 0 * at, 1 + 0 * at, 50 + 0 * at, 8, 8)
            x = draw(views, 4, 8, 8, seed=step)
            if step == 3:
                phi.load_state_dict(saved)
            phi.fit(x, LEVELS[step], camera, generator)
            found.append(phi(x, LEVELS[step], camera))
            with torch.no_grad():
                found.append(denoise(net, x, LEVELS[step], told.repeated(views)))
            saved = phi.state_dict() if step == 0 else saved
        results.append(found)
        if net.graphs is not None:
            assert len(net.graphs) == 4 and card.replays - before == 8 and notes_of([net]) == []
            LoRAPhi(net, told, 2, 1e-2, 1, 1)
            assert len(net.graphs) == 0  # the layers it was captured from are gone
    for expected, found in zip(*results, strict=True):
        assert torch.equal(found, expected)
    assert not torch.equal(results[0][0], results[0][2])  # it did learn


class Passes:
    """A network in which something is wrong that a graph cannot stand."""

    def __init__(self, wrong: str, card: PretendedCard) -> None:
        self.wrong, self.card, self.calls = wrong, card, 0

    def __call__(self, inputs: Inputs) -> Tensor:
        self.calls += 1
        x = inputs["sample"]
        if self.wrong == "waits" and float(x.sum()) > 0:
            return x * 2
        if self.wrong == "from the host":
            return x * torch.ones(x.shape).to("cuda")
        if self.wrong == "keeps" and self.calls > 1:  # what it has made of the numbers of its capture
            self.kept = x * 3 if self.calls == 2 else self.kept
            return self.kept + 0
        if self.wrong == "counts":
            return x * self.calls
        if self.wrong == "runs out" and self.calls > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.wrong == "runs out late" and self.card.streams.capturing is not None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.wrong == "draws":
            return x + torch.randn(x.shape, device="cuda", generator=self.generator)
        if self.wrong == "waits late" and torch.cuda.is_current_stream_capturing():
            x.sum().item()
        if self.wrong == "breaks" and self.calls == 3:
            self.card.break_down()
        return x * 3

    @property
    def generator(self) -> torch.Generator:
        return torch.Generator("cuda").manual_seed(0)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ("waits", "synchronizing"),
        ("from the host", "synchronizing"),
        ("waits late", "capturing"),
        ("counts", "differed from the pass itself by"),
        ("keeps", "differed from the pass itself by 50"),
        ("runs out", "out of memory"),
        ("runs out late", "out of memory"),
        ("draws", "generator"),
    ],
)
def test_what_cannot_be_captured_runs_as_it_is_with_one_note(
    card: PretendedCard, wrong: str, word: str
) -> None:
    passes, own, before = Passes(wrong, card), allowed(), torch.cuda.current_stream()
    x = draw(2, 3, seed=0)
    inputs = {"sample": x}
    found = own("D_p", passes, inputs)
    notes = own.take_notes()
    assert len(notes) == 1 and word in notes[0] and "not used" in notes[0]
    assert torch.cuda.current_stream() == before and card.streams.capturing is None
    assert torch.cuda.get_sync_debug_mode() == 0 and card.streams.allocating == []
    expected = {"waits": 2 if x.cpu().sum() > 0 else 3, "from the host": 1, "counts": 1}.get(wrong, 3)
    if wrong != "draws":
        assert torch.equal(found, x * expected)
    calls = passes.calls
    passes.wrong = ""
    assert torch.equal(own("D_p", passes, inputs), x * 3)
    assert passes.calls == calls + 1 and len(own) == 0 and own.take_notes() == []


def test_a_card_that_has_failed_is_no_reason_to_go_on(card: PretendedCard) -> None:
    """A sticky error is raised, not taken for a capture that cannot be had."""
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        allowed()("D_p", Passes("breaks", card), {"sample": draw(2, 3, seed=0)})
    card.broken = ""


def test_only_where_there_is_memory_for_them(card: PretendedCard) -> None:
    own, passes = Graphs(), Passes("", card)
    own("D_p", passes, {"sample": draw(2, 3, seed=0)})
    assert passes.calls == 1 and card.replays == 0  # thrift.py has to allow it


def test_on_a_card_unless_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.delenv(graphs.SWITCH, raising=False)
    assert graphs.wanted(cuda) and not graphs.wanted(torch.device("cpu"))
    monkeypatch.setenv(graphs.SWITCH, "0")
    assert not graphs.wanted(cuda)


def test_how_far_a_replay_may_be_off() -> None:
    a = torch.tensor([3.0, 4.0])
    assert graphs.difference(a, a) == 0
    assert graphs.difference(a + 0.5, a) == pytest.approx(0.5 / 12.5**0.5)
    assert not graphs.difference(a * torch.nan, a) <= graphs.TOLERANCE[torch.float32]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")
@torch.no_grad()
def test_on_a_card_it_gives_what_the_network_gives(weights: dict[str, Tensor]) -> None:
    plain, captured = networks(weights)
    assert captured.graphs is not None
    for seed, level in enumerate(LEVELS):
        z, told = draw(2, 4, 8, 8, seed=seed), text(2, seed)
        expected, found = (denoise(net, z, level, told) for net in (plain, captured))
        assert graphs.difference(found, expected) <= graphs.TOLERANCE[torch.float32]
    assert len(captured.graphs) == 1, captured.graphs.take_notes()
