"""A learnt D_phi on the embedded prior: it learns what renders look like, and colours stay where they are."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from backend.diffusion.schedule import noise_levels
from backend.jobs.priors import open_prior
from backend.objects.shapes import build
from backend.objects.sphere_trace import render
from backend.scene.camera import RenderOutput, orbit, rings_of
from backend.stages.apfo import apfo
from backend.stages.update import PictureSpace
from dreamflow_blender.contract.language.reading import Description

SIZE = 64
CAMERA = rings_of(
    orbit(*torch.tensor([[30.0], [20.0], [1.5], [45.0]]), SIZE, SIZE), 4
)  # as the prior sees it
PROMPT = "a red duck"


@pytest.fixture(scope="module")
def views():
    return render(build(Description("duck", "red")), CAMERA)


def fresh(prior, learning_rate):
    return prior.phi(prior.prepare(PROMPT, "", "colour", SIZE), 4, learning_rate, 1, 0)


def test_it_learns_the_render_as_it_is(views):
    """A render four times too coarse: D_phi comes to expect the blur, at noise that it was not fitted with."""
    prior = open_prior("mini", "cpu")
    sharp = views.over((0.6, 0.6, 0.6)).permute(0, 3, 1, 2)
    coarse = functional.avg_pool2d(sharp, 4)
    blurred = functional.interpolate(coarse, size=SIZE, mode="bilinear").permute(0, 2, 3, 1)
    x, level = prior.encode(blurred), noise_levels(0.5, 0.4, 1)[0]
    phi, generator = fresh(prior, 2e-3), torch.Generator().manual_seed(1)
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))

    def error():
        return float((phi(x + level.sigma * other, level, CAMERA) - x).square().mean())

    before = error()
    losses = [float(phi.fit(x, level, CAMERA, generator)) for _ in range(24)]
    assert error() < 0.7 * before
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])


@pytest.mark.slow
def test_colours_stay_where_they_are(views):
    """40 updates that begin at the true picture leave the duck's colour within what a whole run may err by."""
    prior = open_prior("mini", "cpu")
    truth = views.over((0.6, 0.6, 0.6))
    image = nn.Parameter(truth.clone())
    conditioning = prior.prepare(PROMPT, "", "colour", SIZE)
    for _ in apfo(
        noise_levels(0.5, 0.05, 40),
        1,
        sample_camera=lambda: CAMERA,
        render=lambda _: RenderOutput(image.clamp(0, 1), torch.ones(())),
        space=PictureSpace(prior.encode, prior.decode),
        prior=lambda z, level, camera: prior.denoise(z, level, camera, conditioning, 2.0),
        phi=fresh(prior, 1e-4),
        regularize=lambda _out, _iteration: torch.zeros(()),
        optimizer=torch.optim.Adam([image], lr=1e-2),
        generator=torch.Generator().manual_seed(0),
    ):
        pass
    inside = (views.over((1, 1, 1)) == views.over((0, 0, 0))).all(-1)
    off = (image.detach().clamp(0, 1)[inside].mean(0) - truth[inside].mean(0)).abs().mean()
    assert int(inside.sum()) > 200
    assert float(off) < 0.06, off
