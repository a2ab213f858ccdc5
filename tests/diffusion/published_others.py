"""Published models that we do not take: their configuration files, as published_configs.py has those that we do."""

from __future__ import annotations

from tests.tools.published_configs import (
    Json,
    index,
    scheduler,
    sd2,
    unet,
    vae,
)

SD2_INPAINTING = sd2(
    "./hf-models/stable-diffusion-v2-inpainting",
    "StableDiffusionInpaintPipeline",
    "PNDMScheduler",
    sample_size=64,
) | {"scheduler/scheduler_config.json": scheduler("PNDMScheduler", "0.8.0")}
SD2_INPAINTING["unet/config.json"] = {
    name: value
    for name, value in SD2_INPAINTING["unet/config.json"].items()
    if name not in ("only_cross_attention", "num_class_embeds")
} | {
    "_diffusers_version": "0.8.0",
    "_name_or_path": "./hf-models/stable-diffusion-v2-inpainting/unet",
    "in_channels": 9,
}
SD2_INPAINTING["vae/config.json"]["sample_size"] = 512
X4_UPSCALER: dict[str, Json] = sd2("hf-models/stable-diffusion-x4-upscaler", "", "DDIMScheduler") | {
    "model_index.json": index(
        "StableDiffusionUpscalePipeline",
        "0.9.0.dev0",
        "DDIMScheduler",
        low_res_scheduler=["diffusers", "DDPMScheduler"],
        max_noise_level=350,
    ),
    "scheduler/scheduler_config.json": scheduler(
        "DDIMScheduler", "0.9.0.dev0", beta_end=0.02, beta_start=0.0001, prediction_type="v_prediction"
    ),
    "unet/config.json": unet(
        _diffusers_version="0.9.0.dev0",
        _name_or_path="hf-models/stable-diffusion-x4-upscaler/unet",
        attention_head_dim=8,
        cross_attention_dim=1024,
        dual_cross_attention=False,
        num_class_embeds=1000,
        use_linear_projection=True,
    )
    | {
        "block_out_channels": [256, 512, 512, 1024],
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
        "in_channels": 7,
        "only_cross_attention": [True, True, True, False],
        "sample_size": 128,
        "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
    },
    "vae/config.json": vae(
        _diffusers_version="0.9.0.dev0",
        _name_or_path="hf-models/stable-diffusion-x4-upscaler/vae",
        sample_size=256,
        scaling_factor=0.08333,
    )
    | {
        "block_out_channels": [128, 256, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
    },
}
