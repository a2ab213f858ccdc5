"""The weights that ship: do they know what their card says? Small experiments; benchmarks/mini.py has the figures."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from backend.diffusion.schedule import noise_levels
from backend.diffusion.view_words import COMPASS
from backend.errors import InputError
from backend.jobs.priors import built_in, default_refiner, open_prior
from backend.objects.shapes import build
from backend.objects.sphere_trace import render
from backend.training import export
from backend.training.dataset import LEARNED, NORMAL_BACKGROUND, spoil
from backend.training.samples import view_cameras
from dreamflow_blender.contract.language.reading import Description, describe

GREY = (0.6, 0.6, 0.6)
SIZE = 64


@pytest.fixture(scope="module")
def mini():
    return open_prior("mini", "cpu")


def picture(kind, colour, word="front left", size=SIZE):
    """[1,H,W,3] before grey."""
    return render(build(Description(kind, colour)), view_cameras([word], size)).over(GREY)


def error(prior, image, prompt, word, share, kind="colour"):
    """Mean squared error of D_p(x) after noise to `share` of the schedule, without guidance."""
    conditioning = prior.prepare(prompt, "", kind, image.shape[1])
    level = noise_levels(share, 0.0, 1)[0]
    x = prior.encode(image)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    guess = prior.denoise(
        x + level.sigma * noise, level, view_cameras([word], image.shape[1]), conditioning, 1.0
    )
    return float((guess - x).square().mean())


def test_no_configuration_names_the_folder_that_it_was_made_in():
    found = list(Path(export.__file__).parents[1].rglob("config.json"))
    assert len(found) >= 7 and not any("_name_or_path" in path.read_text("utf-8") for path in found)


def test_both_folders_are_small_half_precision_and_hold_one_vae():
    files = [
        path for name in ("mini", "mini-refiner") for path in built_in(name).rglob("*") if path.is_file()
    ]
    assert sum(path.stat().st_size for path in files) <= 20e6
    assert {path.suffix for path in files} <= {".json", ".txt", ".safetensors"}
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert [path.parent.name for path in weights].count("vae") == 1
    for path in weights:
        with safe_open(path, "pt") as tensors:
            assert {tensors.get_tensor(key).dtype for key in tensors.keys()} == {torch.float16}  # noqa: SIM118


def test_what_it_states(mini):
    assert (
        mini.spec.native_size == SIZE
        and mini.spec.target == "pixel"
        and mini.spec.normal_background == NORMAL_BACKGROUND
    )
    assert len(LEARNED) >= 10
    assert default_refiner("mini") == "mini-refiner"
    refiner = open_prior("mini-refiner", "cpu")
    assert refiner.spec.native_size == 2 * SIZE and refiner.factor == mini.factor == 4


@pytest.mark.parametrize("kind", LEARNED)
@torch.no_grad()
def test_the_right_sentence_explains_a_picture_best(mini, kind):
    """Half-way into the noise, the denoiser told the truth errs less than one told of another kind or colour."""
    image = picture(kind, "blue")
    other = LEARNED[(LEARNED.index(kind) + 3) % len(LEARNED)]
    truth = error(mini, image, describe(Description(kind, "blue")), "front left", 0.6)
    assert truth < error(mini, image, describe(Description(other, "blue")), "front left", 0.6)
    assert truth < 0.9 * error(mini, image, describe(Description(kind, "red")), "front left", 0.6)


@pytest.mark.parametrize("kind", ["duck", "mug"])
@torch.no_grad()
def test_it_knows_where_a_camera_stands(mini, kind):
    """Told the right one of eight directions it errs less than told the opposite one, nearly always."""
    prompt = describe(Description(kind, "green"))
    around = [word for word in COMPASS if word != "overhead"]
    right = 0
    for i, word in enumerate(around):
        image = picture(kind, "green", word)
        opposite = around[(i + len(around) // 2) % len(around)]
        right += error(mini, image, prompt, word, 0.8) < error(mini, image, prompt, opposite, 0.8)
    assert right >= len(around) - 2


@torch.no_grad()
def test_it_tells_a_normal_map_from_a_picture(mini):
    views = render(build(Description("mug", "red")), view_cameras(["right"], SIZE))
    normals = views.over(NORMAL_BACKGROUND, normal=True)
    as_normals = error(mini, normals, "a red mug", "right", 0.6, "normal")
    assert as_normals < 0.8 * error(mini, normals, "a red mug", "right", 0.6)


@torch.no_grad()
def test_the_vae_is_right_on_renders_and_on_fog(mini):
    """>= 31 dB on clean renders, >= 22 dB on fog: the field's gradient goes through it from the first moment."""
    vae = mini._vae
    clean = torch.cat([picture(kind, "orange") for kind in LEARNED]).permute(0, 3, 1, 2)
    fog = spoil(clean, clean.flip(0), torch.Generator().manual_seed(0))
    for image, least in ((clean, 31), (fog, 22)):
        again = vae.decode(vae.encode(image * 2 - 1).latent_dist.mode()).sample.clamp(-1, 1) / 2 + 0.5
        assert -10 * (again - image).square().mean((1, 2, 3)).log10().mean() >= least


@pytest.mark.slow
@torch.no_grad()
def test_the_refiner_mends_a_dull_picture_and_keeps_a_clean_one():
    """One D_p at t = 0.3, where stage 3 begins: of a render made four times coarser, and of the render itself."""
    refiner = open_prior("mini-refiner", "cpu")
    level = noise_levels(0.3, 0.0, 1)[0]
    camera = view_cameras(["front left"], 2 * SIZE)
    gains, kept = [], []
    for kind in LEARNED:
        clean = picture(kind, "red", size=2 * SIZE)
        small = functional.interpolate(clean.permute(0, 3, 1, 2), scale_factor=1 / 4, mode="area")
        dull = functional.interpolate(small, size=2 * SIZE, mode="bilinear").permute(0, 2, 3, 1)
        conditioning = refiner.prepare(f"a red {kind}", "", "colour", 2 * SIZE)
        noise = torch.randn(refiner.encode(dull).shape, generator=torch.Generator().manual_seed(5))

        def mended(image, conditioning=conditioning, noise=noise):
            z = refiner.encode(image) + level.sigma * noise
            return refiner.decode(refiner.denoise(z, level, camera, conditioning, 1.0))

        gains.append(psnr(mended(dull), clean) - psnr(dull, clean))
        kept.append(psnr(mended(clean), clean))
    assert sum(gains) / len(gains) > 1, gains
    assert sum(kept) / len(kept) > 30, kept


def psnr(image, true):
    return -10 * float((image - true).square().mean().log10())


@pytest.mark.parametrize("name", ["mini", "mini-refiner"])
def test_the_folders_state_what_the_code_would_write(name):
    stated = json.loads((built_in(name) / "dreamflow.json").read_text("utf-8"))
    assert stated == json.loads(json.dumps(export.statement(refiner=name == "mini-refiner")))


def test_a_word_it_does_not_know_is_an_error_with_the_nearest_ones(mini):
    with pytest.raises(InputError, match=r"'rocker'.*rocket") as error:
        mini.prepare("a red rocker", "", "colour", SIZE)
    assert "Stable Diffusion" in str(error.value)


def test_a_kind_that_was_not_learnt_is_an_error_too(mini):
    with pytest.raises(InputError, match="'house'"):
        mini.prepare("a red house", "", "colour", SIZE)


def test_the_card_lies_beside_the_weights():
    card = (Path(built_in("mini")).parent / "README.md").read_text(encoding="utf-8")
    assert all(kind in card for kind in LEARNED)
