"""What the refiner learns to mend, and that its loss asks for the clean picture whatever the damage."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Generator, Tensor, nn

from backend.diffusion.schedule import sigma_table
from backend.training.damage import WHOLE_SHARE, damage, soften, turn_hue
from backend.training.train_unet import REFINER_FROM, loss_of


def plain(*colour: float) -> Tensor:
    return torch.tensor(colour, dtype=torch.float32)[:, None, None].expand(3, 32, 32).clone()


def test_a_third_of_a_turn_makes_red_green() -> None:
    assert torch.allclose(turn_hue(plain(1, 0, 0), 120), plain(0, 1, 0), atol=1e-6)
    assert torch.allclose(turn_hue(plain(0, 0, 1), 120), plain(1, 0, 0), atol=1e-6)
    for degrees in (-30, 0, 77):
        assert torch.allclose(turn_hue(plain(0.4, 0.4, 0.4), degrees), plain(0.4, 0.4, 0.4), atol=1e-6)


def test_softening_keeps_the_mean_and_takes_the_detail() -> None:
    fine = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).float().expand(3, 32, 32)
    soft = soften(fine, Generator().manual_seed(0))
    assert soft.shape == fine.shape and torch.allclose(soft, torch.full_like(soft, 0.5), atol=1e-6)


def test_damage_is_the_objects_own_and_leaves_some_pictures_whole() -> None:
    generator = Generator().manual_seed(0)
    image = torch.rand(3, 32, 32, generator=generator)
    same = [damage(image, torch.ones(32, 32), generator) for _ in range(300)]
    assert all(one.min() >= 0 and one.max() <= 1 for one in same)
    share = sum(torch.equal(one, image) for one in same) / len(same)
    assert abs(share - WHOLE_SHARE) < 0.1
    # a plain background stays as it is, however hue and grain went, where the object is not
    backdrop = plain(0.2, 0.5, 0.7)
    for _ in range(50):
        assert torch.allclose(damage(backdrop, torch.zeros(32, 32), generator), backdrop, atol=1e-6)


class Oracle(nn.Module):
    """A UNet that knows the clean latent: its v is the one for which D(z) = x exactly."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        self.harm: list[float] = []

    def forward(self, seen: Tensor, t: Tensor, **_: object) -> SimpleNamespace:
        assert int(t.max()) < REFINER_FROM
        sigma = sigma_table().float()[t][:, None, None, None]
        signal = (1 + sigma**2).rsqrt()
        noise = (seen / signal - self.x) / sigma
        self.harm.append(float(noise.square().mean()))
        return SimpleNamespace(sample=signal * (noise - sigma * self.x))


def told_text(_: Tensor, output_hidden_states: bool) -> SimpleNamespace:
    return SimpleNamespace(hidden_states=[torch.zeros(8, 4, 8)] * 3, text_embeds=torch.zeros(8, 8))


def test_the_refiners_loss_vanishes_for_the_network_that_mends_the_damage() -> None:
    generator = Generator().manual_seed(0)
    x = torch.randn(8, 4, 8, 8, generator=generator)
    harms = []
    for y in (x, x + 2 * torch.randn(x.shape, generator=generator)):
        oracle = Oracle(x)
        loss = loss_of(oracle, told_text, torch.zeros(8, 4), x, y, torch.zeros(8, 5), generator)
        assert float(loss) < 1e-8
        harms += oracle.harm
    assert abs(harms[0] - 1) < 0.1  # undamaged: the noise is a normal draw
    assert harms[1] > 1.5  # damaged: what the network sees holds the damage too
