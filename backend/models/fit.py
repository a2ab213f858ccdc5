"""Whether a folder's parts fit each other and what we do with them. What would load and give something else is refused.

Every check reads configurations alone, so that every error comes before a weight is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.diffusion.camera_label import CAMERA_NUMBERS
from backend.diffusion.convention import Prediction
from backend.diffusion.prior import PriorSpec
from backend.errors import ModelError

OTHERS = {  # what a pipeline that we do not take is, for one sentence
    "StableDiffusionInpaintPipeline": "an inpainting model's network reads a mask as well",
    "StableDiffusionXLInpaintPipeline": "an inpainting model's network reads a mask as well",
    "StableDiffusionDepth2ImgPipeline": "its network reads a depth map as well",
    "StableDiffusionInstructPix2PixPipeline": "its network reads a second picture as well",
    "StableDiffusionUpscalePipeline": "an upscaler's network reads a small picture as well",
    "StableDiffusionLatentUpscalePipeline": "an upscaler's network reads a small picture as well",
    "StableUnCLIPPipeline": "its network reads an image's embedding as well",
    "StableUnCLIPImg2ImgPipeline": "its network reads an image's embedding as well",
    "LatentConsistencyModelPipeline": "a consistency model is distilled for a few steps",
    "StableDiffusion3Pipeline": "a flow model has other noise levels",
    "FluxPipeline": "a flow model has other noise levels",
}
FEW_STEPS = ("LCMScheduler", "TCDScheduler")  # schedulers that only distilled models come with
CONDITIONS = {  # of a UNet: the further input that it needs where this is set
    "class_embed_type": "a class or an embedding",
    "num_class_embeds": "a class",
    "encoder_hid_dim_type": "an image",
    "time_cond_proj_dim": "the guidance scale",
}


def check_scheduler(path: Path, config: dict[str, Any]) -> Prediction:
    """The prediction type; ModelError unless the noise levels are Stable Diffusion's (schedule.py)."""
    expected = {
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "trained_betas": None,
        "rescale_betas_zero_snr": False,
    }
    for name, value in expected.items():
        got = config.get(name, value if name in ("trained_betas", "rescale_betas_zero_snr") else None)
        if got != value:
            raise ModelError(
                f"{path}: the scheduler's {name} is {got}, expected {value}.",
                "Use a model trained with Stable Diffusion's noise levels.",
            )
    prediction = config.get("prediction_type", "epsilon")  # absent in configurations older than the option
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"{path}: the prediction type is {prediction}, expected epsilon or v_prediction.",
            "Use another model.",
        )
    return "v_prediction" if prediction == "v_prediction" else "epsilon"


def distilled_sign(scheduler: dict[str, Any]) -> str:
    """What tells a folder's model that was distilled for a few steps (SD-Turbo, LCM); "" where nothing does.

    Its configuration is Stable Diffusion's but for the scheduler, which comes with the spacing or the class of such
    models.
    """
    if scheduler.get("timestep_spacing") == "trailing":
        return "timestep_spacing trailing in its scheduler"
    return f"class {scheduler['_class_name']}" if scheduler.get("_class_name") in FEW_STEPS else ""


def distilled_note(path: Path, sign: str) -> str:
    """For the user of such a model, which is run without guidance: docs/decisions.md."""
    return (
        f"{path} looks distilled for a few steps, as Turbo, Lightning and LCM are ({sign}): its guidance is set to 1,"
        " and results may be poor, since it was not trained to denoise in small steps. If it is not distilled, write"
        ' {"guidance": 7.5} into its dreamflow.json.'
    )


def check_plain(path: Path, component: str, config: dict[str, Any]) -> None:
    """ModelError where a component's weights are quantised, or an adapter is beside them.

    path  the folder that holds the component's folder
    """
    if config.get("quantization_config"):
        raise ModelError(
            f"{path / component} is quantised, expected float16, bfloat16 or float32.",
            "Use the model's weights in half or full precision.",
        )
    for place in (path, path / component):
        if (place / "adapter_config.json").is_file():  # transformers would load what this names instead
            raise ModelError(
                f"{place} holds an adapter (adapter_config.json), which would not be used as it was meant.",
                "Merge it into the model's weights, or use the folder without it.",
            )


LARGEST = 1 << 14  # width, channels or places of a network: of published ones 10,240
MOST_WORDS, MOST_LAYERS = 1 << 20, 64


def check_counts(folder: Path, config: dict[str, Any]) -> None:
    """ModelError for a network of more layers, or wider ones, than any that is published: it would take all memory.

    folder  of the component
    """
    for name, value in config.items():
        most = LARGEST
        if name.endswith(("vocab_size", "token_id")):
            most = MOST_WORDS
        elif "layers" in name:
            most = MOST_LAYERS
        numbers, wide = [value], 0
        while numbers and wide <= MOST_LAYERS:
            number = numbers.pop()
            if isinstance(number, list):
                numbers += number
                wide += len(number)
            elif isinstance(number, int | float) and not abs(number) <= most:
                break
        else:
            if wide <= MOST_LAYERS:
                continue
        raise ModelError(
            f"{folder}: {name} is {value!r:.60}, where at most {MOST_LAYERS} numbers up to {most:,} are expected.",
            "Copy the model again, or use another.",
        )


def check_fit(path: Path, configs: dict[str, dict[str, Any]], spec: PriorSpec) -> None:
    """ModelError unless latents, text widths and token counts match each other, and the UNet reads no more
    than noise, time, text and the camera that the spec names."""
    unet, vae = configs["unet"], configs["vae"]
    for name, needed in CONDITIONS.items():
        if unet.get(name) is not None and not (name == "class_embed_type" and spec.camera == "c2w"):
            raise ModelError(
                f"{path}: the UNet needs {needed} as well ({name} is {unet[name]}).",
                "Use a plain text-to-image model: Stable Diffusion 1, 2 or XL.",
            )
    for name in ("shift_factor", "latents_mean", "latents_std"):
        if vae.get(name) is not None:
            raise ModelError(
                f"{path}: the VAE's latents are shifted ({name} is {vae[name]}), expected scaled ones alone.",
                "Use a model with Stable Diffusion's VAE.",
            )
    for got_name, got, expected_name, expected in _pairs(configs, spec.camera):
        if got != expected:
            raise ModelError(
                f"{path} does not fit together: {got_name} {got}, expected {expected} ({expected_name}).",
                "Use a folder whose parts belong together, or another model.",
            )


def _pairs(configs: dict[str, dict[str, Any]], camera: str) -> list[tuple[str, Any, str, Any]]:
    """What has to be equal: name and value as got, name and value as expected."""
    xl, base = "text_encoder_2" in configs, "text_encoder" in configs
    unet, vae = configs["unet"], configs["vae"]
    encoders = [configs[name] for name in encoders_of(configs)]
    widths: list[Any] = [text.get("hidden_size") for text in encoders]
    lengths = [
        (
            f"{name.replace('text_encoder', 'tokenizer')} model_max_length",
            configs[name.replace("text_encoder", "tokenizer")].get("model_max_length"),
            "text max_position_embeddings",
            configs[name].get("max_position_embeddings", 77),
        )
        for name in encoders_of(configs)
    ]
    reads_camera = camera == "c2w"
    reader = "a camera's matrix, as dreamflow.json states" if reads_camera else "Stable Diffusion's"
    pooled: Any = encoders[-1].get("projection_dim", 512)
    ids: Any = unet.get("addition_time_embed_dim")
    numbers = 6 if base else 5  # sizes and crop, and with the refiner an aesthetic score (models/text.py)
    pooled_and_ids = pooled + numbers * ids if is_count(pooled) and is_count(ids) else "a number"
    return [
        ("UNet in_channels", unet.get("in_channels"), "VAE latent_channels", vae.get("latent_channels")),
        ("UNet out_channels", unet.get("out_channels"), "VAE latent_channels", vae.get("latent_channels")),
        (
            "UNet cross_attention_dim",
            unet.get("cross_attention_dim"),
            "text hidden_size",
            sum(widths) if all(map(is_count, widths)) else widths,
        ),
        *lengths,
        (
            "UNet addition_embed_type",
            unet.get("addition_embed_type"),
            "SDXL's" if xl else "Stable Diffusion's",
            "text_time" if xl else None,
        ),
        (
            "UNet projection_class_embeddings_input_dim",
            unet.get("projection_class_embeddings_input_dim"),
            f"pooled text and {numbers} numbers" if xl else reader,
            pooled_and_ids if xl else CAMERA_NUMBERS if reads_camera else None,
        ),
        (
            "UNet class_embed_type",
            unet.get("class_embed_type"),
            reader,
            "projection" if reads_camera else None,
        ),
        ("UNet sample_size is a number", is_count(unet.get("sample_size")), "latent pixels", True),
        (
            "VAE block_out_channels is a list",
            is_list_of_counts(vae.get("block_out_channels")),
            "channels",
            True,
        ),
        ("VAE scaling_factor is a number", is_scale(vae.get("scaling_factor", 0.18215)), "above zero", True),
    ]


def encoders_of(configs: dict[str, dict[str, Any]]) -> list[str]:
    """The text encoders, in the order in which their hidden states are joined."""
    return sorted(name for name in configs if name.startswith("text_encoder"))


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_list_of_counts(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(map(is_count, value))


def is_scale(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
