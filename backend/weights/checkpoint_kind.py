"""What lies in a .safetensors file, by the names and shapes in its header: no weight is read.

A whole model in one file, as ComfyUI and A1111 keep them, has the tensor names of the program that trained it
(LDM: model.diffusion_model., first_stage_model., and a text encoder).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from backend.errors import ModelError

WHOLE_MODEL = (
    "Give a model of Stable Diffusion 1 or 2, SDXL or its refiner, with UNet, text encoder and VAE in it."
)
UNET = "model.diffusion_model."
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
# beside the parts: averaged weights of training, noise tables, and what other programs read
EXTRAS = re.compile(
    r"model_ema\.|alphas_cumprod|betas$|sqrt_|log_one_minus|posterior_|logvar|lvlb_weights|denoiser\.|global_step$"
    r"|v_pred$|.*\.(position_ids|logit_scale|attn_mask)$"
)
OTHERS = (  # a pattern of tensor names, and what a file that has them is
    (r".*(lora_down|lora_A|hada_w1|lokr_w1|lora\.down)", "a LoRA, which --lora takes beside a model"),
    (r".*\.to_q_mv\.", "an MV-Adapter, which --control takes beside a model"),
    (r"control_model\.|controlnet_cond_embedding\.|input_hint_block\.", "a ControlNet"),
    (r".*double_blocks\.", "Flux, a flow model with other noise levels"),
    (r".*joint_blocks\.", "Stable Diffusion 3, a flow model with other noise levels"),
    (r"clip_txt_mapper\.|down_blocks\.1\.0\.channelwise\.", "Stable Cascade"),
    (r"edm_mean|edm_std", "Playground 2.5, which has other noise levels"),
    (r"ztsnr$", "a model of noise levels that end in pure noise (zero terminal SNR)"),
    (r".*(scaled_fp8|scale_weight|weight_scale|\.quant_(state|map)|absmax|bitsandbytes)", "a quantised model"),
    (r"emb_params$|string_to_param|clip_l$|clip_g$", "a textual inversion, words and no model"),
    (r"image_proj\.|ip_adapter\.", "an IP-Adapter, which --image-adapter takes beside a model and an --image"),
    (r"(encoder|decoder)\.(down|up|conv_in)", "a VAE alone"),
    (r"(down_blocks|up_blocks|mid_block)\.", "the UNet alone, in diffusers' names"),
)  # fmt: skip
IN_CHANNELS = {
    9: "an inpainting model, which reads a mask as well",
    8: "InstructPix2Pix, which reads a second picture as well",
    7: "an upscaler, which reads a small picture as well",
    5: "a depth model, which reads a depth map as well",
}
FEW_STEPS = re.compile(r"turbo|lightning|schnell|(?<![a-z])(lcm|hyper|dmd2?|tcd)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Header:
    """Names, shapes and metadata of a file."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: set[str]  # safetensors' names
    metadata: dict[str, str]


@dataclass(frozen=True)
class Family:
    """A kind of whole model: published.json has the published pipelines' configurations."""

    name: str
    pipeline: str  # a key of weights.layout.COMPONENTS
    prefixes: dict[str, str]  # component -> how its tensors' names begin
    configs: dict[str, dict[str, Any]]


@cache
def families() -> tuple[Family, ...]:
    """Stable Diffusion 1 and 2, SDXL and its refiner."""
    stored = json.loads(Path(__file__).with_name("published.json").read_text("utf-8"))
    return tuple(Family(name, **values) for name, values in stored.items())


def read_header(path: Path) -> Header:
    """ModelError for a damaged file."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  no mapping
            shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            dtypes = {one.get_dtype() for one in slices.values()}
            return Header(path, shapes, dtypes, file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} is truncated or damaged ({error}).", "Copy or download it again."
        ) from error


def other_kind(header: Header) -> str:
    """What a file is by its tensors' names, of OTHERS; "" where it may be a whole model."""
    return next(
        (what for pattern, what in OTHERS if any(re.match(pattern, name) for name in header.shapes)), ""
    )


def family_of(header: Header) -> Family:
    """ModelError, which says what the file is, unless it is a whole model of one of `families` and nothing else."""
    path, names = header.path, header.shapes
    if what := other_kind(header):
        raise ModelError(f"{path} holds {what}.", WHOLE_MODEL)
    if odd := header.dtypes.difference(DTYPES):
        raise ModelError(
            f"{path} holds numbers of type {', '.join(sorted(odd))}, expected float32, float16, bfloat16 or float8.",
            "Use the model's weights in one of these.",
        )
    found = [
        family
        for family in families()
        if any(n.startswith(tuple(p for c, p in family.prefixes.items() if "text" in c)) for n in names)
    ]
    # SDXL has the refiner's names and more
    family = max(found, key=lambda one: len(one.prefixes), default=None)
    inputs = names.get(f"{UNET}input_blocks.0.0.weight", (0, 0))
    if family is None or len(inputs) != 4:
        first = min(names, default="nothing")
        raise ModelError(f"{path} is no model that is known here (it holds {first}).", WHOLE_MODEL)
    if inputs[1] != 4:
        what = IN_CHANNELS.get(inputs[1], f"a model that reads {inputs[1]} channels, expected 4")
        raise ModelError(f"{path} holds {what}.", WHOLE_MODEL)
    for component, prefix in family.prefixes.items():
        if not any(name.startswith(prefix) for name in names):
            raise ModelError(
                f"{path} holds {family.name} without its {component.replace('_', ' ')} ({prefix}).",
                "Get the file that has it built in, which is the usual one.",
            )
    known = tuple(family.prefixes.values())
    unknown = sorted(n for n in names if not n.startswith(known) and not EXTRAS.match(n))
    if unknown:
        raise ModelError(
            f"{path} holds {family.name} and {len(unknown)} unknown tensors, {unknown[0]} first.", WHOLE_MODEL
        )
    return family


def few_steps(header: Header) -> str:
    """The word that tells a model that was distilled for a few steps, of its name or its metadata; "" if none."""
    told = ("modelspec.title", "modelspec.architecture", "modelspec.description", "ss_sd_model_name")
    for text in (header.path.stem, *(header.metadata.get(key, "") for key in told)):
        if found := FEW_STEPS.search(text.replace("_", " ")):
            return found[0]
    return ""
