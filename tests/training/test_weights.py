"""The weights that ship: do they know what their card says? Small experiments; benchmarks/mini.py has the figures."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from backend.diffusion.schedule import noise_levels
from backend.errors import InputError
from backend.jobs.priors import built_in, default_refiner, open_prior
from backend.objects.shapes import KINDS, build
from backend.objects.sphere_trace import render
from backend.scene.camera import orbit, rings_of
from backend.training import export
from backend.training.dataset import LEARNED, NORMAL_BACKGROUND, spoil
from backend.training.rings.__main__ import rings_statement
from backend.training.rings.furniture import CATALOGUES
from backend.training.rings.rings import FRAMES
from dreamflow_blender.contract.language.reading import Description, describe

GREY = (0.6, 0.6, 0.6)
SIZE = 64
MADE = [kind for kind in LEARNED if kind in KINDS]  # whose true pictures are known


@pytest.fixture(scope="module")
def mini():
    return open_prior("mini", "cpu")


def ring(turn=30.0, size=SIZE):
    """Four cameras, the first of them `turn` degrees from the front."""
    angles = torch.tensor([[turn], [20.0], [1.5], [45.0]])
    return rings_of(orbit(*angles, size, size), FRAMES)


def pictures(kind, colour):
    """[4,H,W,3] of a ring before grey."""
    return render(build(Description(kind, colour)), ring()).over(GREY)


def error(prior, image, prompt, camera, share, kind="colour"):
    """Mean squared error of D_p(x) after noise to `share` of the schedule, without guidance."""
    conditioning = prior.prepare(prompt, "", kind, image.shape[1])
    level = noise_levels(share, 0.0, 1)[0]
    x = prior.encode(image)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    guess = prior.denoise(x + level.sigma * noise, level, camera, conditioning, 1.0)
    return float((guess - x).square().mean())


def test_no_configuration_names_the_folder_that_it_was_made_in():
    found = list(Path(export.__file__).parents[1].rglob("config.json"))
    assert len(found) >= 5 and not any("_name_or_path" in path.read_text("utf-8") for path in found)


def test_the_folders_are_small_half_precision_and_hold_one_vae():
    files = [path for path in built_in("mini").parent.rglob("*") if path.is_file() and path.suffix != ".md"]
    assert sum(path.stat().st_size for path in files) <= 24e6
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


@pytest.mark.parametrize("kind", MADE)
@torch.no_grad()
def test_the_right_sentence_explains_pictures_best(mini, kind):
    """Half-way into the noise, the denoiser told the truth errs less than one told of another kind or colour."""
    image = pictures(kind, "blue")
    other = MADE[(MADE.index(kind) + 3) % len(MADE)]
    truth = error(mini, image, describe(Description(kind, "blue")), ring(), 0.6)
    assert truth < error(mini, image, describe(Description(other, "blue")), ring(), 0.6)
    assert truth < 0.9 * error(mini, image, describe(Description(kind, "red")), ring(), 0.6)


@pytest.mark.parametrize("kind", ["duck", "mug", "teapot"])
@torch.no_grad()
def test_it_knows_where_a_camera_stands(mini, kind):
    """Told the right cameras it errs less than told a ring that is turned by 45, 90 or 180 degrees."""
    prompt, image = describe(Description(kind, "green")), pictures(kind, "green")
    truth = error(mini, image, prompt, ring(), 0.8)
    assert all(
        truth < 0.95 * error(mini, image, prompt, ring(30.0 + turn), 0.8) for turn in (45.0, 90.0, 180.0)
    )


@torch.no_grad()
def test_four_views_tell_more_than_one(mini):
    """Jointly, a view of a mug is denoised better than beside three that show something else."""
    prompt, image = "a red mug", pictures("mug", "red")
    beside = torch.cat((image[:1], pictures("teapot", "red")[1:]))

    def first(images):
        level, x = noise_levels(0.7, 0.0, 1)[0], mini.encode(images)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
        text = mini.prepare(prompt, "", "colour", SIZE)
        return float((mini.denoise(x + level.sigma * noise, level, ring(), text, 1.0) - x)[0].square().mean())

    assert first(image) < 0.95 * first(beside)


@torch.no_grad()
def test_it_tells_a_normal_map_from_a_picture(mini):
    views = render(build(Description("mug", "red")), ring())
    normals = views.over(NORMAL_BACKGROUND, normal=True)
    as_normals = error(mini, normals, "a red mug", ring(), 0.6, "normal")
    assert as_normals < 0.8 * error(mini, normals, "a red mug", ring(), 0.6)


@torch.no_grad()
def test_the_vae_is_right_on_renders_and_on_fog(mini):
    """>= 29 dB on clean renders, >= 22 dB on fog: the field's gradient goes through it from the first moment."""
    vae = mini._vae
    clean = torch.cat([pictures(kind, "orange")[:1] for kind in MADE]).permute(0, 3, 1, 2)
    fog = spoil(clean, clean.flip(0), torch.Generator().manual_seed(0))
    for image, least in ((clean, 29), (fog, 22)):
        again = vae.decode(vae.encode(image * 2 - 1).latent_dist.mode()).sample.clamp(-1, 1) / 2 + 0.5
        assert -10 * (again - image).square().mean((1, 2, 3)).log10().mean() >= least


@pytest.mark.slow
@torch.no_grad()
def test_the_refiner_mends_a_dull_picture_and_keeps_a_clean_one():
    """One D_p at t = 0.3, where stage 3 begins: of a render made four times coarser, and of the render itself."""
    refiner = open_prior("mini-refiner", "cpu")
    level = noise_levels(0.3, 0.0, 1)[0]
    camera = ring(size=2 * SIZE)[:1]
    gains, kept = [], []
    for kind in MADE:
        clean = render(build(Description(kind, "red")), camera).over(GREY)
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


def test_the_base_states_what_the_code_would_write(mini):
    stated = json.loads((built_in("mini") / "dreamflow.json").read_text("utf-8"))
    assert stated == json.loads(json.dumps(rings_statement(LEARNED)))


def test_what_the_refiner_knows_is_what_the_base_states(mini):
    refiner = open_prior("mini-refiner", "cpu").spec
    assert refiner.kinds == mini.spec.kinds == LEARNED
    stated = export.statement(refiner=True)
    assert (refiner.settings, refiner.guidance) == (stated["settings"], stated["guidance"])
    assert (refiner.vae, refiner.vae_scale) == (stated["vae"], stated["vae_scale"])


def test_a_word_it_does_not_know_is_an_error_with_the_nearest_ones(mini):
    with pytest.raises(InputError, match=r"'rocker'.*rocket") as error:
        mini.prepare("a red rocker", "", "colour", SIZE)
    assert "Stable Diffusion" in str(error.value)


def test_a_kind_that_was_not_learnt_is_an_error_too(mini):
    """One that the grammar has."""
    with pytest.raises(InputError, match="'truck' is no known kind"):
        mini.prepare("a red truck", "", "colour", SIZE)


def test_the_card_and_the_credits_lie_beside_the_weights():
    card = (built_in("mini").parent / "README.md").read_text(encoding="utf-8")
    assert all(kind in card for kind in LEARNED)
    credits = (built_in("mini") / "CREDITS.txt").read_text(encoding="utf-8")
    assert all(licence in credits for licence in CATALOGUES.values()) and "Scopia: Armchair" in credits
