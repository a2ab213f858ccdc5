"""The published models' configuration files, every key and value, and the lists of their files.

Facts, retyped from public mirrors of the model repositories and compared with them. Seen whole: Stable Diffusion 2.1,
1.5, 2-inpainting, the x4 upscaler, SDXL base and refiner (its model_index.json by its list of folders), SD-Turbo's
scheduler. Of 2.1-base a copy was seen that diffusers had written again (its values, among them the VAE's sample_size
of 768); its files are spelt here as those of its neighbour, 2.1. SD-Turbo's other files are 2.1-base's, written again.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

START, END = "<|startoftext|>", "<|endoftext|>"


def token(content: str, **more: Any) -> Json:
    return {
        "content": content,
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
    } | more


def special_tokens(pad: str) -> Json:
    """special_tokens_map.json, of all published models alike but for the pad token."""
    return {"bos_token": token(START), "eos_token": token(END), "pad_token": pad, "unk_token": token(END)}


def tokenizer(pad: str, **more: Any) -> Json:
    """tokenizer_config.json as transformers wrote it in 2022."""
    marks = {
        name: {"__type": "AddedToken"} | token(text)
        for name, text in (("bos_token", START), ("eos_token", END), ("unk_token", END))
    }
    return {
        "add_prefix_space": False,
        **marks,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer",
        **more,
    }


def rewritten_tokenizer(pad: str) -> Json:
    """tokenizer_config.json as transformers has written it since 2023: special_tokens_map.json is no longer asked."""
    added = {
        "49406": token(START, special=True),
        "49407": token(END, special=True),
    }
    if pad == "!":
        added = {"0": token("!", special=True, normalized=False)} | added
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": [],
        "bos_token": START,
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": 77,
        "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer",
        "tokenizer_file": None,
        "unk_token": END,
    }


OPENAI = {
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
OPENCLIP_H = {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
OPENCLIP_BIGG = {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}


def text(kind: Json, architecture: str = "CLIPTextModel", **more: Any) -> Json:
    return {
        "architectures": [architecture],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "pad_token_id": 1,
        "torch_dtype": "float32",
        "transformers_version": "4.25.0.dev0",
        "vocab_size": 49408,
        **kind,
        **more,
    }


def vae(**more: Any) -> Json:
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "out_channels": 3,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        **more,
    }


def unet(**more: Any) -> Json:
    """Of Stable Diffusion 1 and 2."""
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": False,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 4,
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-05,
        "norm_num_groups": 32,
        "out_channels": 4,
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        **more,
    }


SD2_UNET = {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "num_class_embeds": None,
    "use_linear_projection": True,
}
SDXL_UNET = {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "upcast_attention": None,
    "use_linear_projection": True,
    "_diffusers_version": "0.19.0.dev0",
}


def scheduler(kind: str, version: str, **more: Any) -> Json:
    return {
        "_class_name": kind,
        "_diffusers_version": version,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
        **more,
    }


EULER = {
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "use_karras_sigmas": False,
}


def index(pipeline: str, version: str, kind: str, **more: Any) -> Json:
    return {
        "_class_name": pipeline,
        "_diffusers_version": version,
        "scheduler": ["diffusers", kind],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        **more,
    }


NO_CHECKER = {
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
}
CHECKER = {
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
}
SDXL_VAE = vae(
    _diffusers_version="0.20.0.dev0",
    _name_or_path="../sdxl-vae/",
    force_upcast=True,
    sample_size=1024,
    scaling_factor=0.13025,
)


def sd2(
    name: str, pipeline: str, kind: str, text_version: str = "4.25.0.dev0", **unet_more: Any
) -> dict[str, Json]:
    """The files of a Stable Diffusion 2 model, but for the scheduler's."""
    return {
        "model_index.json": index(pipeline, "0.8.0", kind, **NO_CHECKER),
        "text_encoder/config.json": text(
            OPENCLIP_H, _name_or_path=f"{name}/text_encoder", transformers_version=text_version
        ),
        "tokenizer/special_tokens_map.json": special_tokens("!"),
        "tokenizer/tokenizer_config.json": tokenizer(
            END, name_or_path=f"{name}/tokenizer", special_tokens_map_file="./special_tokens_map.json"
        ),
        "unet/config.json": unet(_diffusers_version="0.10.0.dev0", **SD2_UNET, **unet_more),
        "vae/config.json": vae(_diffusers_version="0.8.0", _name_or_path=f"{name}/vae", sample_size=768),
    }


SD21_BASE = sd2(
    "hf-models/stable-diffusion-v2-1-base", "StableDiffusionPipeline", "PNDMScheduler", sample_size=64
) | {
    "scheduler/scheduler_config.json": scheduler("PNDMScheduler", "0.8.0", prediction_type="epsilon"),
}
SD21 = sd2(
    "hf-models/stable-diffusion-v2-768x768",
    "StableDiffusionPipeline",
    "DDIMScheduler",
    sample_size=96,
    upcast_attention=True,
) | {"scheduler/scheduler_config.json": scheduler("DDIMScheduler", "0.8.0", prediction_type="v_prediction")}
SD15: dict[str, Json] = {
    "model_index.json": index("StableDiffusionPipeline", "0.6.0", "PNDMScheduler", **CHECKER),
    "scheduler/scheduler_config.json": scheduler("PNDMScheduler", "0.6.0"),
    "text_encoder/config.json": text(
        OPENAI, _name_or_path="openai/clip-vit-large-patch14", transformers_version="4.22.0.dev0"
    ),
    "tokenizer/special_tokens_map.json": special_tokens(END),
    "tokenizer/tokenizer_config.json": tokenizer(
        END, name_or_path="openai/clip-vit-large-patch14", special_tokens_map_file="./special_tokens_map.json"
    ),
    "unet/config.json": unet(
        _diffusers_version="0.6.0", attention_head_dim=8, cross_attention_dim=768, sample_size=64
    ),
    "vae/config.json": vae(_diffusers_version="0.6.0", sample_size=512),
}
SD_TURBO = {
    **SD21_BASE,
    "model_index.json": index(
        "StableDiffusionPipeline",
        "0.24.0.dev0",
        "EulerDiscreteScheduler",
        feature_extractor=[None, None],
        image_encoder=[None, None],
        requires_safety_checker=False,
        safety_checker=[None, None],
    ),
    "scheduler/scheduler_config.json": scheduler(
        "EulerDiscreteScheduler",
        "0.24.0.dev0",
        **EULER,
        sigma_max=None,
        sigma_min=None,
        timestep_spacing="trailing",
        timestep_type="discrete",
    ),
    "tokenizer/special_tokens_map.json": special_tokens("!") | {"pad_token": token("!", normalized=False)},
    "tokenizer/tokenizer_config.json": rewritten_tokenizer("!"),
}
REFINER: dict[str, Json] = {
    "model_index.json": index(
        "StableDiffusionXLImg2ImgPipeline",
        "0.19.0.dev0",
        "EulerDiscreteScheduler",
        add_watermarker=None,
        force_zeros_for_empty_prompt=False,
        requires_aesthetics_score=True,
        text_encoder=[None, None],
        text_encoder_2=["transformers", "CLIPTextModelWithProjection"],
        tokenizer=[None, None],
        tokenizer_2=["transformers", "CLIPTokenizer"],
    ),
    "scheduler/scheduler_config.json": scheduler(
        "EulerDiscreteScheduler", "0.19.0.dev0", **EULER, timestep_spacing="leading"
    ),
    "text_encoder_2/config.json": text(
        OPENCLIP_BIGG,
        "CLIPTextModelWithProjection",
        torch_dtype="float16",
        transformers_version="4.32.0.dev0",
    ),
    "tokenizer_2/special_tokens_map.json": special_tokens("!"),
    "tokenizer_2/tokenizer_config.json": tokenizer("!", clean_up_tokenization_spaces=True),
    "unet/config.json": unet(
        **SDXL_UNET,
        attention_head_dim=[6, 12, 24, 24],
        cross_attention_dim=1280,
        projection_class_embeddings_input_dim=2560,
        transformer_layers_per_block=4,
    )
    | {
        "block_out_channels": [384, 768, 1536, 1536],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
    "vae/config.json": SDXL_VAE,
}
SDXL_BASE: dict[str, Json] = {
    "model_index.json": REFINER["model_index.json"]
    | {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    },
    "scheduler/scheduler_config.json": REFINER["scheduler/scheduler_config.json"],
    "text_encoder/config.json": text(OPENAI, torch_dtype="float16", transformers_version="4.32.0.dev0"),
    "text_encoder_2/config.json": REFINER["text_encoder_2/config.json"],
    "tokenizer/special_tokens_map.json": special_tokens(END),
    "tokenizer/tokenizer_config.json": tokenizer(END, clean_up_tokenization_spaces=True),
    "tokenizer_2/special_tokens_map.json": special_tokens("!"),
    "tokenizer_2/tokenizer_config.json": tokenizer("!", clean_up_tokenization_spaces=True),
    "unet/config.json": unet(
        **SDXL_UNET,
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        projection_class_embeddings_input_dim=2816,
        transformer_layers_per_block=[1, 2, 10],
    )
    | {
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    },
    "vae/config.json": SDXL_VAE,
}
del SDXL_BASE["model_index.json"]["requires_aesthetics_score"]
MODELS: dict[str, dict[str, Json]] = {
    "sd21-base": SD21_BASE,
    "sd21": SD21,
    "refiner": REFINER,
    "sd15": SD15,
    "sd-turbo": SD_TURBO,
    "sdxl": SDXL_BASE,
}
PREPROCESSOR: Json = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}

# the published vocabulary: 256 bytes, the same as the end of a word, then one token a merge, in the order of merges
VOCABULARY = 49408
MERGES = {  # of the words of our tests' prompts: what is joined, and the id of the result
    ("o", "n"): 521, ("r", "e"): 515, ("e", "r"): 517, ("o", "r"): 523, ("a", "l"): 526, ("i", "t"): 529,
    ("o", "f</w>"): 539, ("a", "c"): 546, ("l", "o"): 549, ("s", "i"): 564, ("u", "r"): 565, ("a", "l</w>"): 566,
    ("m", "a"): 577, ("v", "i"): 603, ("v", "er"): 624, ("h", "e"): 651, ("d", "e</w>"): 654, ("q", "u"): 666,
    ("m", "u"): 670, ("a", "d</w>"): 680, ("it", "y</w>"): 696, ("ac", "k</w>"): 725, ("re", "d</w>"): 736,
    ("b", "l"): 833, ("b", "ack</w>"): 893, ("r", "y</w>"): 913, ("vi", "e"): 922, ("f", "r"): 936,
    ("lo", "w</w>"): 1042, ("n", "or"): 1062, ("vie", "w</w>"): 1093, ("si", "de</w>"): 1145,
    ("he", "ad</w>"): 1375, ("o", "ver"): 1658, ("al", "ity</w>"): 1694, ("fr", "on"): 1847, ("fron", "t</w>"): 2184,
    ("qu", "ality</w>"): 3027, ("m", "al</w>"): 3796, ("ma", "p</w>"): 3923, ("nor", "mal</w>"): 5967,
    ("mu", "g</w>"): 9722, ("bl", "ur"): 12102, ("over", "head</w>"): 20321, ("blur", "ry</w>"): 21977,
}  # fmt: skip
