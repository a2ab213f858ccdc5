"""Rooms: the objects stand where they should, pictures from the middle show them, and the exact prior knows those."""

from __future__ import annotations

import pytest
import torch

from backend.diffusion.schedule import NoiseLevel
from backend.errors import InputError
from backend.objects.kinds import COLOURS, NATURAL
from backend.objects.room import CIRCLE, HALF, SCALE, SIDES, VIEWS, WITHIN, RoomPrior, build_room
from backend.objects.sphere_trace import render, sky_shade
from backend.scene.camera import Camera, look_out
from benchmarks.room import PROMPT, inside_cameras

COLOUR = {"mug": "red", "duck": "yellow", "cactus": "green", "chair": "blue"}


def towards(azimuth: float, elevation: float = -15.0, size: int = 16) -> Camera:
    one = torch.ones(1)
    return look_out(azimuth * one, elevation * one, torch.zeros(1, 3), 75 * one, size, size)


def test_five_objects_stand_on_the_floor_within_the_walls_apart_from_each_other() -> None:
    room = build_room(PROMPT)
    assert [one.shape.kind for one in room.objects] == ["mug", "duck", "cactus", "chair", "donut"]
    axes = [torch.linspace(-half, half, 60) for half in HALF]
    points = torch.cartesian_prod(*axes)
    distances = room._distances(points)
    inside = distances[:, 1:] < 0
    assert bool(inside.any(0).all()) and int(inside.sum(1).max()) == 1
    for number in range(5):
        own = points[inside[:, number]]
        assert float(own[:, 2].min()) == pytest.approx(-HALF[2], abs=0.015)
        assert float(own[:, :2].abs().max()) < HALF[0] - 0.01
        assert float(own[:, :2].norm(dim=1).min()) > 0.15  # the cameras have room


def test_an_object_faces_the_middle_where_the_prompt_puts_it() -> None:
    duck = build_room("a room with a yellow duck and a red mug").objects[0]
    front = duck.own(torch.tensor([[0.0, -CIRCLE + 0.1, float(duck.place[2])]]))
    assert torch.allclose(front, torch.tensor([[0.0, -0.1 / SCALE, 0.0]]), atol=1e-5)  # objects face -Y


def test_pictures_from_the_middle_show_what_is_there() -> None:
    room = build_room(PROMPT)
    for number, one in enumerate(room.objects[:4]):
        image = render(room, towards(72.0 * number)).colour[0]
        body = torch.tensor(COLOURS[COLOUR[one.shape.kind]])
        nearest = (
            (image[6:14, 5:11] / body - (image[6:14, 5:11] / body).mean(-1, keepdim=True)).abs().amax(-1)
        )
        assert float((nearest < 0.06).float().mean()) > 0.05, one.shape.kind  # its colour under some shade
    up = render(room, towards(0.0, 89.0))
    ceiling = torch.tensor((COLOURS | NATURAL)[SIDES[5]]) * sky_shade(torch.tensor([[0.0, 0.0, -1.0]]))
    assert torch.allclose(up.colour[0, 8, 8], ceiling[0], atol=1e-3)
    assert float(render(room, inside_cameras()[:2]).alpha.min()) == 1  # no way out


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("a red mug", "names no room"),
        ("a room with a red unicorn", "unicorn"),
        ("a room with " + " and ".join(["a red mug"] * 6), "5 places, got 6"),
    ],
)
def test_other_prompts_are_refused(prompt: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        RoomPrior(views=1).check(prompt, "", "colour", 8)


def test_the_prior_knows_the_pictures_of_the_way_that_a_camera_looks() -> None:
    prior, prompt = RoomPrior(views=16), "a room with a red mug and a blue chair"
    bank = prior.prepare(prompt, "", "colour", 8)
    assert prior.words_of(towards(0.0)) == ["front"] and prior.words_of(towards(91.0)) == ["left"]
    camera = prior.poses.cameras(torch.tensor([5]), 8, 8)
    word = prior.words_of(camera)[0]
    rows = range(*bank.rows[word].indices(16))
    image = torch.stack([bank.image(row, 0) for row in rows])
    true = prior.encode(render(build_room(prompt), camera).colour)[0]
    near = (image - true).square().mean((1, 2, 3))
    assert float(near.min()) < 0.01
    found = prior.denoise(image[near.argmin()][None], NoiseLevel(1, 0.05, 0.0), camera, bank)[0]
    assert torch.allclose(found, image[near.argmin()], atol=1e-3)


def test_the_cameras_that_judge_are_not_the_priors_own() -> None:
    own, held = RoomPrior().poses.cameras(torch.arange(VIEWS), 8, 8), inside_cameras()
    for camera in (own, held):
        assert float(camera.position.abs().max()) <= WITHIN.away + 1e-6
        looks = torch.rad2deg((-camera.c2w[:, 2, 2]).asin())
        assert (
            WITHIN.elevation[0] - 0.01 <= float(looks.min())
            and float(looks.max()) <= WITHIN.elevation[1] + 0.01
        )
    apart = (own.c2w[:, None] - held.c2w[None]).flatten(2).norm(dim=2)
    assert float(apart.min()) > 0.02
