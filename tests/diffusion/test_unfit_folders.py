"""Folders that people have and that would load, or fail late: each is refused in a sentence before a weight is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from backend.errors import ModelError
from backend.jobs.priors import open_prior
from backend.models.model_folder import open_folder
from backend.weights.layout import read_json
from backend.weights.tokens import check_vocabulary
from tests.diffusion import published_others as rejected
from tests.tools import published_configs as published
from tests.tools.real_folders import write_texts


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


def others() -> dict[str, tuple[dict[str, published.Json], str]]:
    """Folders that people have, and what is said of them."""

    def changed(
        name: str, start: dict[str, published.Json] = published.SD21, **values: Any
    ) -> dict[str, Any]:
        return start | {name: start[name] | values}

    def pipeline(name: Any) -> dict[str, Any]:
        return changed("model_index.json", _class_name=name)

    scheduler, unet, vae = "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json"
    return {
        "lcm-unet": (changed(unet, time_cond_proj_dim=256), "needs the guidance scale as well"),
        "lcm-pipeline": (pipeline("LatentConsistencyModelPipeline"), "distilled for a few steps"),
        "sd2-inpainting": (rejected.SD2_INPAINTING, "reads a mask as well"),
        "inpainting-as-plain": (
            rejected.SD2_INPAINTING | {"model_index.json": published.SD21["model_index.json"]},
            "in_channels 9, expected 4",
        ),
        "depth": (pipeline("StableDiffusionDepth2ImgPipeline"), "reads a depth map as well"),
        "depth-as-plain": (changed(unet, in_channels=5), "in_channels 5, expected 4"),
        "x4-upscaler": (rejected.X4_UPSCALER, "upscaler's network reads a small picture"),
        "unclip": (pipeline("StableUnCLIPImg2ImgPipeline"), "reads an image's embedding as well"),
        "unclip-as-plain": (
            changed(unet, class_embed_type="projection"),
            "needs a class or an embedding as well",
        ),
        "sdxl-base-as-refiner": (
            changed("model_index.json", published.SDXL_BASE, _class_name="StableDiffusionXLImg2ImgPipeline"),
            "cross_attention_dim 2048, expected 1280",
        ),
        "refiner-as-sdxl-base": (
            changed("model_index.json", published.SDXL_BASE, requires_aesthetics_score=True)
            | {"unet/config.json": published.REFINER["unet/config.json"]},
            "cross_attention_dim 1280, expected 2048",
        ),
        "sd3": (pipeline("StableDiffusion3Pipeline"), "flow model"),
        "flux": (pipeline("FluxPipeline"), "flow model"),
        "mvdream": (pipeline("MVDreamPipeline"), "expected MultiViewUNetModel"),
        "of one's own": (pipeline(["pipeline_flow", "FluxPipeline"]), "flow model"),
        "no name": (pipeline(None), "holds a None, expected one of"),
        "ip-adapter": (changed(unet, encoder_hid_dim_type="ip_image_proj"), "needs an image as well"),
        "playground-vae": (
            changed(vae, latents_mean=[-1.6574, 1.886, -1.383, 2.5155]),
            "latents are shifted",
        ),
        "sd3-vae": (changed(vae, shift_factor=0.0609), "latents are shifted"),
        "no scale": (changed(vae, scaling_factor=None), "scaling_factor is a number False"),
        "quantised unet": (
            changed(unet, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
            "unet is quantised",
        ),
        "quantised encoder": (
            changed("text_encoder/config.json", quantization_config={"quant_method": "quanto"}),
            "text_encoder is quantised",
        ),
        "a thousand layers": (changed(unet, layers_per_block=1000), "unet: layers_per_block is 1000, where"),
        "layers by block": (changed(unet, layers_per_block=[2, 2, 2, 65]), "layers_per_block is .*65"),
        "a hundred blocks": (
            changed(unet, block_out_channels=[320] * 100),
            "at most 64 numbers",
        ),
        "a wide network": (
            changed(unet, block_out_channels=[320, 10**7]),
            "block_out_channels is .*up to 16,384",
        ),
        "a deep encoder": (
            changed("text_encoder/config.json", num_hidden_layers=10**9),
            "text_encoder: num_hidden_layers is 1000000000",
        ),
        "endless words": (changed("text_encoder/config.json", vocab_size=1e300), "vocab_size is 1e"),
        "nested configuration": (changed(unet, a=nested(200)), "nested more than 32 deep"),
        "nested statement": (
            published.SD21 | {"dreamflow.json": {"settings": nested(200)}},
            "nested more than 32",
        ),
        "zero terminal snr": (
            changed(scheduler, rescale_betas_zero_snr=True),
            "rescale_betas_zero_snr is True",
        ),
    }


@pytest.mark.parametrize("kind", others())
def test_folders_that_do_not_fit_are_refused_in_a_sentence(kind: str, tmp_path: Path) -> None:
    files, message = others()[kind]
    folder = tmp_path / kind
    write_texts(folder, files)
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if (folder / component).is_dir():
            stem = "model" if "text" in component else "diffusion_pytorch_model"
            save_file({"weight": torch.zeros(1)}, folder / component / f"{stem}.safetensors")
    with pytest.raises(ModelError, match=message) as caught:
        open_prior(folder, "cpu")
    assert caught.value.todo
    with pytest.raises(ModelError, match=message):
        open_folder(folder)


def test_json_that_no_parser_follows_is_refused(tmp_path: Path) -> None:
    for content in ("[" * 100_000, '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=r"cannot be read|nested more than 32"):
            read_json(tmp_path / "config.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes a pipe")
def test_a_pipe_or_a_device_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    """They were read: without an end."""
    os.mkfifo(tmp_path / "model_index.json")
    with pytest.raises(ModelError, match=r"model_index.json cannot be read .*no plain file"):
        open_folder(tmp_path)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "model_index.json").symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=r"model_index.json cannot be read .*no plain file"):
        open_folder(tmp_path)


def test_a_tokenizer_of_a_terabyte_is_refused_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with (tmp_path / "merges.txt").open("wb") as file:
        file.truncate(1 << 40)  # of nothing, which takes no room
    with pytest.raises(ModelError, match=r"merges.txt cannot be read .*larger than"):
        check_vocabulary(tmp_path)


def test_a_link_is_followed_as_in_the_hubs_cache(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text('{"a": 1}')
    (tmp_path / "config.json").symlink_to("blob")
    assert read_json(tmp_path / "config.json") == {"a": 1}
