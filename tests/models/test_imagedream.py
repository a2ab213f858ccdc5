"""ImageDream's folder against a UNet that was written out from its description; what is done to a picture before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionModel

from backend.diffusion.camera_label import camera_label
from backend.diffusion.convention import scale_in
from backend.diffusion.savings import Savings
from backend.diffusion.schedule import NoiseLevel, sigma_at
from backend.errors import InputError, ModelError
from backend.models.imagedream import alone
from backend.models.latent_prior import LatentPrior
from backend.models.model_folder import open_folder
from backend.models.reference import clip_pixels
from backend.scene.camera import Camera, orbit, rings_of
from tests.tools.mvdream_reference import build, joined_frames, reference

LEVEL = NoiseLevel(500, sigma_at(500), sigma_at(499))
FRAMES, WORDS = 4, 6
CAMERA: Camera = rings_of(
    orbit(torch.tensor([-40.0, -15.0]), torch.full((2,), 20.0), torch.full((2,), 1.3), torch.full((2,), 45.0), 64, 64),
    FRAMES,
)  # fmt: skip
Z = torch.randn(2 * FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Path:
    return build(tmp_path_factory.mktemp("models") / "image dream é", base_folder, "ldm", words=WORDS)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "cup.png"
    pixels = torch.randint(256, (48, 40, 4), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    pixels[:, :9, 3] = 0
    Image.fromarray(pixels.numpy()).save(path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path / "cache"))


def written_out(folder: Path, picture: Path, hidden: Tensor, weight_of_picture: float) -> Tensor:
    """D of two rings by the reference; 0: of no picture, all zeros."""
    prior = LatentPrior(folder, "cpu", image=str(picture))
    before_grey, _ = alone(np.array(Image.open(picture)), "cup")
    small = np.array(Image.fromarray(before_grey).resize((64, 64), Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(small).float() / 127.5 - 1
    mode = prior._vae.encode(pixels.permute(2, 0, 1)[None]).latent_dist.mode()
    frame = mode * prior._vae.config.scaling_factor * weight_of_picture
    opaque = np.dstack((before_grey, np.full(before_grey.shape[:2], 255, np.uint8)))
    eye = CLIPVisionModel.from_pretrained(folder / "image_encoder")
    states = eye(clip_pixels(opaque, 28), output_hidden_states=True).hidden_states[-2] * weight_of_picture
    net = reference(words=WORDS)
    rows = 2 * (FRAMES + 1)
    context = torch.cat((hidden.expand(rows, -1, -1), net.image_embed(states).expand(rows, -1, -1)), 1)
    x = torch.cat((Z * scale_in(LEVEL), Z[:2]))  # two more rows, put in place below
    x = torch.cat([torch.cat((x[FRAMES * r : FRAMES * (r + 1)], frame)) for r in range(2)])
    label = camera_label(CAMERA.c2w).unflatten(0, (2, FRAMES))
    label = torch.cat((label, torch.zeros(2, 1, 16)), 1).flatten(0, 1)
    epsilon = net(x, 500, context, label, FRAMES + 1).unflatten(0, (2, FRAMES + 1))[:, :FRAMES].flatten(0, 1)
    return Z - LEVEL.sigma * epsilon


@torch.no_grad()
def test_it_denoises_as_the_model_written_out(folder: Path, picture: Path) -> None:
    prior = LatentPrior(folder, "cpu", image=str(picture))
    said = prior.prepare("a red mug", "blurry", "colour", 64)
    got = prior.denoise(Z, LEVEL, CAMERA, said, 3.0)
    shown, none = (
        written_out(folder, picture, text.hidden, weight)
        for text, weight in ((said.views, 1.0), (said.negative, 0.0))
    )
    expected = none + 3.0 * (shown - none)
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-3  # sigma 1.6, guided, in float32
    assert float((shown - none).abs().max()) > 0.01
    unguided = prior.denoise(Z, LEVEL, CAMERA, said, 1.0)
    assert float((unguided - shown).abs().max() / shown.abs().max()) < 1e-3
    assert joined_frames(prior._network.unet) == FRAMES + 1


@torch.no_grad()
def test_of_normals_a_picture_says_nothing(folder: Path, picture: Path) -> None:
    prior = LatentPrior(folder, "cpu", image=str(picture))
    said = prior.prepare("a red mug", "blurry", "normal", 64)
    expected = written_out(folder, picture, said.views.hidden, 0.0)
    got = prior.denoise(Z, LEVEL, CAMERA, said, 1.0)
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-3


@torch.no_grad()
def test_its_network_is_the_model_written_out(folder: Path, picture: Path) -> None:
    """In double precision, so that nothing but rounding is let through."""
    network = LatentPrior(folder, "cpu", image=str(picture))._network
    assert isinstance(network.unet, nn.Module)
    network = replace(network, unet=network.unet.double(), dtype=torch.float64)
    generator, rows = torch.Generator().manual_seed(2), 2 * FRAMES
    z, hidden, said, label, frame = (
        torch.randn(rows, *shape, generator=generator, dtype=torch.float64)
        for shape in ((4, 8, 8), (77, 16), (WORDS, 16), (16,), (4, 8, 8))
    )
    inputs = {"sample": z, "timestep": torch.full((rows,), 737.0), "hidden": hidden, "label": label}
    got = network._run(inputs | {"picture": said, "frame": frame})

    def joined(of_views: Tensor, last: Tensor) -> Tensor:
        return torch.cat([torch.cat((of_views[i : i + FRAMES], last[i : i + 1])) for i in (0, FRAMES)])

    z, context = joined(z, frame[3:]), torch.cat((hidden, said), 1)
    context = joined(context, context[3:])
    answer = reference(words=WORDS).double()(z, 737, context, joined(label, 0 * label), FRAMES + 1)
    expected = answer.unflatten(0, (2, FRAMES + 1))[:, :FRAMES].flatten(0, 1)
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_learnt_phi_sees_the_picture_and_savings_change_nothing(folder: Path, picture: Path) -> None:
    prior = LatentPrior(folder, "cpu", image=str(picture))
    said = prior.prepare("a red mug", "", "colour", 64)
    before = prior.denoise(Z, LEVEL, CAMERA, said, 1.0)
    phi = prior.phi(said, 2, 1e-3, 1, 0)
    assert torch.allclose(phi(Z, LEVEL, CAMERA), before, atol=2e-3), "it starts as D_p, told the picture"
    phi.fit(0.1 * Z, LEVEL, CAMERA, torch.Generator().manual_seed(0))
    assert float((phi(Z, LEVEL, CAMERA) - before).abs().max()) > 1e-4
    prior.save_memory(Savings(True, True, True))
    assert torch.allclose(prior.denoise(Z, LEVEL, CAMERA, said, 1.0), before, atol=2e-3)
    assert set(prior.describe()["image"]["sha256"]) == {"cup.png"}
    assert any(name.startswith("image_encoder/") for name in prior.describe()["prior"]["sha256"])


def test_another_weight_is_another_picture_of_it(folder: Path, picture: Path) -> None:
    def said(image: str) -> Tensor:
        prior = LatentPrior(folder, "cpu", image=image)
        return prior.denoise(Z, LEVEL, CAMERA, prior.prepare("a red mug", "", "colour", 64), 1.0)

    assert float((said(str(picture)) - said(f"{picture}:0.5")).abs().max()) > 1e-4


def test_it_asks_for_a_picture_and_takes_no_adapter(folder: Path, picture: Path) -> None:
    with pytest.raises(InputError, match=r"ImageDream.*none was given") as asked:
        LatentPrior(folder, "cpu")
    assert "--image FILE" in asked.value.todo and "mvdream" in asked.value.todo
    with pytest.raises(InputError, match="looks at the picture itself"):
        LatentPrior(folder, "cpu", image=str(picture), image_adapter="ip-adapter.safetensors")


def test_half_an_imagedream_is_refused_by_name(tmp_path: Path, base_folder: Path, picture: Path) -> None:
    folder = build(tmp_path / "whole", base_folder, "ldm", words=WORDS)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    for left_out in ("image_embed.latents", "middle_block.1.transformer_blocks.0.attn2.to_v_ip.weight"):
        save_file({name: t for name, t in tensors.items() if name != left_out}, weights)
        with pytest.raises(ModelError, match="cannot be loaded"):
            LatentPrior(folder, "cpu", image=str(picture)).load()
    (folder / "image_encoder" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"image_encoder.*missing"):
        open_folder(folder)
    path = folder / "model_index.json"
    index = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**index, "image_encoder": [None, None]}), "utf-8")
    with pytest.raises(ModelError, match=f"half an ImageDream: ip_dim {WORDS}, image encoder"):
        open_folder(folder)


def test_an_object_is_cut_out_and_put_in_the_middle() -> None:
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[5:21, 2:10] = (200, 40, 30, 255)  # 16 high, 8 wide, near a corner
    pixels[30, 50] = (0, 0, 255, 10)  # a speck that is hardly there
    found, note = alone(pixels, "cup.png")
    assert found.shape == (20, 20, 3) and note == ""  # 16 / 0.8
    red = (found == (200, 40, 30)).all(-1)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (2, 17, 6, 13)
    assert (found[~red] == 128).all()


def test_without_transparency_a_plain_border_is_the_background_and_is_named() -> None:
    pixels = np.full((40, 40, 4), 255, np.uint8)
    pixels[..., :3] = (250, 240, 10)
    pixels[10:26, 12:28, :3] = (20, 40, 200)
    found, note = alone(pixels, "cup.png")
    assert "#faf00a" in note
    assert (found == (20, 40, 200)).all(-1).sum() == 16 * 16
    pixels[:20, :3, :3] = 0
    with pytest.raises(InputError, match="neither transparency nor a plain background") as refused:
        alone(pixels, "cup.png")
    assert "PNG" in refused.value.todo
    with pytest.raises(InputError, match="shows nothing"):
        alone(np.zeros((8, 8, 4), np.uint8), "cup.png")
