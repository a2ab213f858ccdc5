"""The exact denoiser against plain float64 loops, its limits, and the cameras it is made from."""

import math
import time

import pytest
import torch

from backend.diffusion.schedule import NoiseLevel
from backend.diffusion.view_words import COMPASS, VIEWS, view_words
from backend.errors import InputError
from backend.evidence.known_objects import held_out_cameras, truth
from backend.objects.exact_prior import (
    DISTANCE,
    FLOAT32_BYTES,
    GREYS,
    NORMAL_BACKGROUND,
    Bank,
    ExactPrior,
    FixedPoses,
    make_bank,
    posterior_mean,
)
from backend.objects.shapes import build
from backend.objects.sphere_trace import gbuffer, render
from backend.scene.camera import orbit
from dreamflow_blender.contract.language.reading import Description

SIZE = 16


@pytest.fixture(scope="module")
def prior() -> ExactPrior:
    return ExactPrior(views=40)


def bank_of(prior: ExactPrior, kind: str = "colour") -> Bank:
    return prior.prepare("a red mug", "", kind, SIZE)


def level(sigma: float) -> NoiseLevel:
    return NoiseLevel(500.0, sigma, sigma / 2)


def naive(z: torch.Tensor, sigma: float, images: torch.Tensor) -> torch.Tensor:
    distances = torch.tensor(
        [float((z.double() - x.double()).square().sum()) for x in images], dtype=torch.float64
    )
    weights = torch.exp(-(distances - distances.min()) / (2 * sigma**2))
    return torch.einsum("n,nchw->chw", weights / weights.sum(), images.double())


def all_images(bank: Bank, rows: slice) -> torch.Tensor:
    return torch.stack(
        [bank.image(i, g) for i in range(len(bank.clear))[rows] for g in range(len(bank.backgrounds))]
    )


def camera_seeing(word: str) -> object:
    azimuth, elevation = {"front": (5, 0), "side": (90, 0), "back": (175, 0), "overhead": (0, 70)}[word]
    return orbit(*(torch.tensor([float(v)]) for v in (azimuth, elevation, 1.5, 45)), SIZE, SIZE)


@pytest.mark.parametrize("kind", ["colour", "normal"])
@pytest.mark.parametrize("sigma", [0.03, 0.5, 3.0, 14.6])
def test_against_a_float64_loop(prior: ExactPrior, kind: str, sigma: float):
    bank = bank_of(prior, kind)
    rows = bank.rows["side"]
    images = all_images(bank, rows)
    generator = torch.Generator().manual_seed(3)
    for index in (0, len(images) // 2, -1):
        z = images[index] + sigma * torch.randn(3, SIZE, SIZE, generator=generator)
        found = prior.denoise(z[None], level(sigma), camera_seeing("side"), bank, 1.0)[0]
        assert found.dtype == torch.float32
        assert torch.allclose(found, naive(z, sigma, images).float(), atol=2e-4)


def test_precision_at_small_sigma_on_a_large_bank():
    """Two nearly equal images at 128^2: the weights are decided by differences far below float32's."""
    generator = torch.Generator().manual_seed(0)
    count, size, sigma = 6, 128, 0.03
    coloured = (torch.rand(1, 3, size * size, generator=generator) * 2 - 1).repeat(count, 1, 1)
    coloured += 2e-4 * torch.randn(coloured.shape, generator=generator)
    clear = torch.zeros(count, size * size)
    bank = Bank(
        coloured, clear, coloured.double().square().sum((1, 2))[:, None].expand(-1, 3),
        torch.tensor(GREYS), {}, size,
    )  # fmt: skip
    z = coloured[2].view(3, size, size) + sigma * torch.randn(3, size, size, generator=generator)
    images = torch.stack([bank.image(i, 0) for i in range(count)])
    assert torch.allclose(
        posterior_mean(z, sigma, bank, slice(None)), naive(z, sigma, images).float(), atol=1e-6
    )


def test_sigma_to_zero_gives_the_nearest_image(prior: ExactPrior):
    bank = bank_of(prior)
    row = bank.rows["front"].start + 1
    z = bank.image(row, 2) + 0.01
    for sigma in (1e-3, 0.0):
        found = prior.denoise(z[None], level(sigma), camera_seeing("front"), bank, 1.0)[0]
        assert torch.allclose(found, bank.image(row, 2), atol=1e-5)


def test_sigma_to_infinity_gives_the_mean(prior: ExactPrior):
    bank = bank_of(prior)
    z = torch.zeros(1, 3, SIZE, SIZE)
    found = prior.denoise(z, level(1e6), camera_seeing("back"), bank, 1.0)[0]
    assert torch.allclose(found, all_images(bank, bank.rows["back"]).mean(0), atol=1e-4)


def test_view_words_select_the_images(prior: ExactPrior):
    bank = bank_of(prior)
    words = list(bank.rows)
    assert words == list(VIEWS)
    z = bank.image(bank.rows["back"].start, 1)[None]
    for word in VIEWS:
        found = prior.denoise(z, level(0.0), camera_seeing(word), bank, 1.0)[0]
        near = [torch.allclose(found, x, atol=1e-5) for x in all_images(bank, bank.rows[word])]
        assert any(near)
        assert torch.allclose(found, z[0], atol=1e-5) == (word == "back")


def test_a_batch_has_a_word_for_each_view(prior: ExactPrior):
    bank = bank_of(prior)
    camera = orbit(
        torch.tensor([0.0, 180.0]), torch.zeros(2), torch.full((2,), 1.5), torch.full((2,), 45.0), SIZE, SIZE
    )
    z = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    both = prior.denoise(z, level(1.0), camera, bank, 1.0)
    for i, word in enumerate(("front", "back")):
        assert torch.equal(
            both[i : i + 1], prior.denoise(z[i : i + 1], level(1.0), camera_seeing(word), bank, 1.0)
        )


def test_the_compass_tells_left_from_right():
    """A chair's back, in all that noise leaves to guess: on both sides by halves, or on the side where it is."""
    sides = orbit(
        *(torch.tensor(v) for v in ([-90.0, 90.0], [20.0, 20.0], [1.5, 1.5], [45.0, 45.0])), SIZE, SIZE
    )
    guesses = {}
    for words in (VIEWS, COMPASS):
        prior = ExactPrior(words=words)
        bank = prior.prepare("a brown chair", "", "colour", SIZE)
        guesses[prior.name] = prior.denoise(torch.zeros(2, 3, SIZE, SIZE), level(1e6), sides, bank)
    left, right = guesses["exact"]
    assert torch.equal(left, right)
    left, right = guesses["exact-compass"]
    same, mirrored = (left - right).square().mean(), (left - right.flip(-1)).square().mean()
    assert mirrored < 0.1 * same


def test_guidance_leads_away_from_all_views(prior: ExactPrior):
    bank = bank_of(prior)
    z = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    camera = camera_seeing("front")
    told = prior.denoise(z, level(2.0), camera, bank, 1.0)
    untold = posterior_mean(z[0], 2.0, bank, slice(None))[None]
    guided = prior.denoise(z, level(2.0), camera, bank, 3.0)
    assert torch.allclose(guided, untold + 3 * (told - untold), atol=1e-6)
    assert prior.spec.guidance == 1.0


def test_no_gradient_and_the_same_every_time(prior: ExactPrior):
    bank = bank_of(prior)
    z = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = prior.denoise(z, level(1.0), camera_seeing("side"), bank, 1.0)
    assert not found.requires_grad
    again = ExactPrior(views=40)
    assert torch.equal(found, again.denoise(z, level(1.0), camera_seeing("side"), bank_of(again), 1.0))


def test_bank_images_are_the_renders(prior: ExactPrior):
    camera = held_out_cameras(6, 2, SIZE, SIZE)
    order = sorted(range(6), key=lambda i: VIEWS.index(view_words(camera)[i]))
    camera = type(camera)(camera.c2w[order], camera.proj[order], SIZE, SIZE)
    shape = build(Description("mug", "red"))
    buffer = gbuffer(shape, camera)
    views = render(shape, camera)
    colour = make_bank([buffer], camera, shape.colours, "colour", view_words(camera))
    for g, grey in enumerate(GREYS):
        assert torch.allclose(prior.decode(colour.image(4, g)[None])[0], views.over(grey)[4], atol=1e-5)
    normal = make_bank([buffer], camera, shape.colours, "normal", view_words(camera))
    assert torch.allclose(
        prior.decode(normal.image(4, 0)[None])[0], views.over(NORMAL_BACKGROUND, normal=True)[4], atol=1e-5
    )
    assert prior.spec.normal_background == NORMAL_BACKGROUND and prior.spec.backgrounds.solids == GREYS


def test_large_banks_are_halved(prior: ExactPrior, monkeypatch: pytest.MonkeyPatch):
    shape = build(Description("ball"))
    camera = held_out_cameras(4, 0, SIZE, SIZE)
    buffer = gbuffer(shape, camera)
    full = make_bank([buffer], camera, shape.colours, "colour", view_words(camera))
    monkeypatch.setattr("backend.objects.exact_prior.FLOAT32_BYTES", 1)
    half = make_bank([buffer], camera, shape.colours, "colour", view_words(camera))
    assert FLOAT32_BYTES > 176 * 256 * 256 * 16 and half.coloured.dtype == torch.float16
    z = full.image(1, 0) + 0.3
    a, b = (posterior_mean(z, 0.5, bank, slice(None)) for bank in (full, half))
    assert torch.allclose(a, b, atol=2e-3)


def test_encode_and_decode_are_inverse_and_differentiable(prior: ExactPrior):
    image = torch.rand(2, 4, 6, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = prior.encode(image)
    assert x.shape == (2, 3, 4, 6) and x.min() < 0
    assert torch.allclose(prior.decode(x), image, atol=1e-6)
    x.sum().backward()
    assert torch.equal(image.grad, torch.full_like(image, 2.0))
    assert (prior.factor, prior.channels) == (1, 3)
    assert prior.phi(None, 4, 1e-4, 0, 0) is None


def test_poses_are_the_bank_and_spread_out(prior: ExactPrior):
    poses = FixedPoses()
    assert 160 <= len(poses) <= 240
    camera = poses.cameras(torch.arange(len(poses)), SIZE, SIZE)
    words = view_words(camera)
    for word, least in (("front", 20), ("back", 20), ("side", 80), ("overhead", 18)):
        assert words.count(word) >= least
    assert camera.elevation.min() > -10.1 and camera.elevation.max() < 85.1
    distance = camera.position.norm(dim=1)
    assert distance.min() >= DISTANCE[0] - 1e-4 and distance.max() <= DISTANCE[1] + 1e-4
    direction = camera.position / distance[:, None]
    gap = torch.rad2deg((direction @ direction.T - 2 * torch.eye(len(poses))).amax(1).clamp(-1, 1).acos())
    assert gap.min() > 1 and gap.max() < 20
    drawn = poses.sample(torch.Generator().manual_seed(7), 5, 32, 32)
    index = poses.draw(torch.Generator().manual_seed(7), 5)
    assert torch.equal(drawn.c2w, poses.cameras(index, 32, 32).c2w)
    assert (drawn.height, drawn.width) == (32, 32)


def test_the_ball_fits_the_frame():
    half = math.radians(45 / 2)
    assert math.asin(0.5 / DISTANCE[0]) < half


def test_held_out_cameras_are_not_in_the_list():
    camera = held_out_cameras(24, 0, SIZE, SIZE)
    assert torch.equal(camera.c2w, held_out_cameras(24, 0, SIZE, SIZE).c2w)
    poses = FixedPoses()
    listed = poses.cameras(torch.arange(len(poses)), SIZE, SIZE)
    assert torch.cdist(camera.position, listed.position).min() > 1e-3
    assert camera.elevation.min() >= -10.1 and camera.elevation.max() <= 60.1
    views = truth("a red mug", camera)
    assert views.colour.shape == (24, SIZE, SIZE, 3)


def test_banks_are_kept(prior: ExactPrior):
    assert bank_of(prior) is bank_of(prior)
    assert prior.prepare("the red mug.", "", "colour", SIZE) is bank_of(prior)


@pytest.mark.parametrize(
    ("prompt", "negative", "expected"),
    [
        ("a red corgi", "", "no known kind"),
        ("a red mug", "blurry", "negative"),
        ("a red mug, side view", "", "one picture"),
        ("a normal map of a red mug", "", "one picture"),
    ],
)
def test_bad_requests(prior: ExactPrior, prompt: str, negative: str, expected: str):
    with pytest.raises(InputError, match=expected):
        prior.prepare(prompt, negative, "colour", SIZE)


def test_a_wrong_size_is_a_mistake(prior: ExactPrior):
    with pytest.raises(ValueError, match="got"):
        prior.denoise(torch.zeros(1, 3, 8, 8), level(1.0), camera_seeing("front"), bank_of(prior), 1.0)


def test_description_and_speed(prior: ExactPrior):
    assert prior.describe()["name"] == "exact" and prior.describe()["views"] == 40
    bank, z = bank_of(prior), torch.zeros(1, 3, SIZE, SIZE)
    began = time.process_time()
    for _ in range(20):
        prior.denoise(z, level(1.0), camera_seeing("side"), bank, 1.0)
    print(f"denoise at {SIZE}^2, 40 views: {(time.process_time() - began) / 20 * 1000:.2f} ms")
