"""What Python decides by: on the CPU as it was, of a card without waiting for it."""

import pytest
import torch

from backend.diffusion.prior import Backgrounds
from backend.draws import draw_on_host
from tests.card.pretended import PretendedCard

SOLIDS = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (0.7, 0.8, 0.9))


def test_on_the_cpu_it_is_the_generators_next_number():
    a, b = (torch.Generator().manual_seed(3) for _ in range(2))
    for _ in range(5):
        assert draw_on_host(a) == float(torch.rand(1, generator=b))


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this torch has CUDA: there is a card to ask")
def test_of_a_card_without_waiting_uniform_and_again_from_a_state():
    with PretendedCard() as card:
        generator = torch.Generator("cuda").manual_seed(3)
        states, drawn = [], []
        for _ in range(300):
            states.append(generator.get_state())
            drawn.append(draw_on_host(generator))
        assert card.waits.total() == 0
        generator.set_state(states[100])
        assert [draw_on_host(generator) for _ in range(200)] == drawn[100:]
        other = draw_on_host(torch.Generator("cuda").manual_seed(4))
    values = torch.tensor(drawn).sort().values
    assert (
        values - torch.linspace(0, 1, 300)
    ).abs().max() < 0.1  # Kolmogorov and Smirnov: 0.08 once in 20 times
    assert len(set(drawn)) == 300 and other not in drawn


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_solid_background_is_one_of_those_listed(device):
    with PretendedCard() as card:
        generator = torch.Generator(device).manual_seed(0)
        found = [Backgrounds(SOLIDS).sample_solid(generator) for _ in range(40)]
        assert card.waits.total() == 0
        assert {colour.device.type for colour in found} == {device}
        numbers = {tuple(colour.tolist()) for colour in found}
    assert numbers == {tuple(torch.tensor(solid).tolist()) for solid in SOLIDS}
