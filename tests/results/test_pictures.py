"""Pictures show what they were given, twice the same, and never half of it."""

import numpy as np
import pytest
import torch
from PIL import Image

from backend.errors import DiskError, NumericsError
from backend.results import curves as curve_pictures
from backend.results import look, pictures


def balls(count=8, size=48, colour=(0.8, 0.2, 0.15)):
    """[count,size,size,3]: a ball with a bright spot that goes round it."""
    y, x = torch.meshgrid(*[torch.linspace(-1.2, 1.2, size)] * 2, indexing="ij")
    z = (1 - x * x - y * y).clamp(min=0).sqrt()
    images = []
    for i in range(count):
        turn = torch.tensor(6.2832 * i / count)
        shade = 0.45 + 0.55 * (x * turn.sin() + z * turn.cos() - 0.5 * y).clamp(min=0)
        ball = shade[..., None] * torch.tensor(colour)
        images.append(torch.where((z > 0)[..., None], ball, torch.full_like(ball, 0.92)))
    return torch.stack(images)


def curves(iterations=400, seed=0):
    noise = torch.randn(3, iterations, generator=torch.Generator().manual_seed(seed))
    fall = torch.exp(-torch.linspace(0, 4, iterations))
    return {
        name: fall * torch.exp(0.4 * n) for name, n in zip(("loss", "gradient", "gap"), noise, strict=True)
    }


STAGES = ("nerf", "geometry", "texture", "refine")


@pytest.fixture
def sheets():
    greys = [(0.8, 0.2, 0.15), (0.7, 0.7, 0.7), (0.8, 0.2, 0.15), (0.85, 0.2, 0.1)]
    return {stage: balls(colour=c) for stage, c in zip(STAGES, greys, strict=True)}


def test_preview_is_the_image(tmp_path):
    pictures.write_preview(tmp_path / "preview.png", balls()[0])
    seen = np.asarray(Image.open(tmp_path / "preview.png")) / 255
    assert np.abs(seen - balls()[0].numpy()).max() <= 0.5 / 255 + 1e-6
    with pytest.raises(NumericsError):
        pictures.write_preview(tmp_path / "preview.png", balls()[0] * float("nan"))
    assert [p.name for p in tmp_path.iterdir()] == ["preview.png"]


def test_a_large_preview_is_made_as_small_as_blender_shows_it(tmp_path):
    half = torch.zeros(320, 640, 3)
    half[:, :320] = 0.8
    pictures.write_preview(tmp_path / "preview.png", half)
    seen = np.asarray(Image.open(tmp_path / "preview.png"))
    assert seen.shape == (256, 512, 3)
    assert (seen[:, :254] == 204).all() and (seen[:, 258:] == 0).all()


def test_views_hold_every_view_of_every_stage_in_order(tmp_path, sheets):
    path = tmp_path / "views.png"
    pictures.write_views(path, sheets)
    seen = np.asarray(Image.open(path)).astype(int)
    for row, images in enumerate(sheets.values()):
        for i, image in enumerate((images * 255).round().numpy().astype(int)):
            y, x = 30 + row * 54, 104 + i * 54
            assert np.array_equal(seen[y : y + 48, x : x + 48], image)
    label = seen[30:78, :104]
    assert label.min() < 60 and (label == 255).mean() > 0.8  # dark words on paper
    assert seen[:, -8:].min() == 255 and seen[-4:].min() == 255


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(0),
        torch.zeros(10),
        torch.ones(1),
        torch.tensor([1.0, float("nan"), 0.0, -1.0, float("inf"), 2.0]),
        torch.full((5,), float("nan")),
    ],
    ids=["empty", "zeros", "one", "gaps", "nan"],
)
@pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")
def test_curves_of_odd_runs_are_drawn(tmp_path, values):
    path = tmp_path / "curves.png"
    pictures.write_curves(path, {"nerf": {"loss": values, "gradient": values, "gap": values}})
    assert Image.open(path).size[0] == 1200


def test_more_stages_more_rows(tmp_path):
    heights = []
    for n in (1, 4):
        pictures.write_curves(tmp_path / "c.png", {s: curves(50) for s in STAGES[:n]})
        heights.append(Image.open(tmp_path / "c.png").size[1])
    assert heights == [280, 970]


def test_running_median():
    got = curve_pictures._running_median(np.array([1.0, 100.0, 3.0, np.nan, 5.0]))
    assert got.tolist() == [50.5, 3.0, 51.5, 4.0, 5.0]


def test_the_turntable_turns(tmp_path):
    path = tmp_path / "turntable.webp"
    pictures.write_turntable(path, balls(12), seconds=3)
    image = Image.open(path)
    assert image.n_frames == 12 and image.info["loop"] == 0
    image.load()
    assert image.info["duration"] == 250
    for i in (0, 5):
        image.seek(i)
        seen = np.asarray(image.convert("RGB")) / 255
        assert np.abs(seen - balls(12)[i].numpy()).mean() < 0.03


def test_the_same_input_gives_the_same_bytes(tmp_path, sheets):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pictures.write_views(tmp_path / name / "views.png", sheets)
        pictures.write_curves(tmp_path / name / "curves.png", {"nerf": curves()})
        pictures.write_turntable(tmp_path / name / "turntable.webp", balls(6))
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
    assert len(list((tmp_path / "a").iterdir())) == 3


def test_nothing_is_left_where_nothing_can_be_written(tmp_path, sheets):
    with pytest.raises(DiskError):
        pictures.write_views(tmp_path / "none" / "views.png", sheets)


def test_the_ring_from_below_sees_undersides() -> None:
    cameras = look.turntable_cameras(8, 16, "cpu", elevation=look.BELOW)
    assert (cameras.position[:, 2] < -1).all()
    assert cameras.elevation.tolist() == pytest.approx([-60] * 8, abs=1e-3)
