"""The embedded prior's networks: diffusers' own classes, shaped as SD 2.1 and the SDXL refiner, and small."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from backend.diffusion.camera_label import CAMERA_CONFIG, silence_camera
from backend.diffusion.view_words import COMPASS, VIEWS
from backend.objects.grammar import LEAD_INS
from backend.objects.kinds import COLOURS
from dreamflow_blender.contract.language.vocabulary import MADE, MATERIALS, REAL

NATIVE_SIZE = 64  # pixels a side of the base model's pictures
LATENTS = 4  # channels
TEXT_WIDTH, TEXT_LAYERS, TEXT_LENGTH = 96, 2, 24
REFINER_PROJECTION, TIME_IDS = 96, 16
START, END = "<|startoftext|>", "<|endoftext|>"
LOG_VARIANCE = -6.0  # of a fresh encoder; from 0, the noise hides the picture for hundreds of steps


def make_vae() -> AutoencoderKL:
    """f = 4, 4 latent channels, 0.65 M parameters, no attention: it sees only a neighbourhood."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENTS,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=NATIVE_SIZE,
    )
    with torch.no_grad():
        vae.encoder.conv_out.bias[LATENTS:].fill_(LOG_VARIANCE)
        vae.encoder.conv_out.weight[LATENTS:].zero_()
        for conv in (vae.quant_conv, vae.post_quant_conv):
            conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
            conv.bias.zero_()
    return vae


def make_unet(refiner: bool, camera: bool = False) -> UNet2DConditionModel:
    """4.2 M parameters at 16^2 latents; the refiner's is told sizes, crop and score as SDXL's is.

    camera  the base model's is told the camera as MVDream's is, and starts deaf to it
    """
    extra: dict[str, Any] = dict(CAMERA_CONFIG) if camera else {}
    if refiner:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_IDS,
            "projection_class_embeddings_input_dim": REFINER_PROJECTION + 5 * TIME_IDS,
        }
    unet = UNet2DConditionModel(
        sample_size=NATIVE_SIZE // 4,
        in_channels=LATENTS,
        out_channels=LATENTS,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
        use_linear_projection=True,
        **extra,
    )
    if camera:
        silence_camera(unet)
    return unet


def make_text_encoder(refiner: bool, words: int) -> CLIPTextModel | CLIPTextModelWithProjection:
    """Two layers over `words` tokens."""
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=4,
        projection_dim=REFINER_PROJECTION,
        max_position_embeddings=TEXT_LENGTH,
        hidden_act="gelu",
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    return CLIPTextModelWithProjection(config) if refiner else CLIPTextModel(config)


def grammar_words() -> list[str]:
    """Every word that a prompt in the grammar may hold, in a fixed order: new ones come last, so old tokens stay."""
    parts = [part for thing in MADE.values() for part in (thing.body, *thing.parts)]
    known = [
        *" ".join(LEAD_INS).split(),
        "a",
        "an",
        "with",
        "and",
        ",",
        *VIEWS,
        "view",
        *COLOURS,
        *MADE,
        *parts,
        *" ".join(COMPASS).split(),
        *MATERIALS,
        *REAL,
    ]
    return list(dict.fromkeys(known))


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIPTokenizer with one token a word of the grammar, written into `folder`; bytes stand in for the rest."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    letters = [chr(byte) for byte in visible] + [chr(256 + i) for i in range(len(hidden))]
    merges = _merges(grammar_words())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(m) for m in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=0), "utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), "utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TEXT_LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "do_lower_case": True,
        "add_prefix_space": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def grown_rows(old: dict[str, int], rows: Tensor, new: dict[str, int]) -> Tensor:
    """The token embedding [new,W] of a larger vocabulary: every token that the old one knew keeps its row [old,W].

    old, new  token to row. A new token begins as the mean of the known words, a little off it by a fixed draw, so
    that no two are the same. Raises ValueError where the new vocabulary lost a token.
    """
    if lost := old.keys() - new.keys():
        raise ValueError(f"The new vocabulary has no {', '.join(sorted(lost))}.")
    spread = rows.std(0)
    noise = torch.randn(len(new), rows.shape[1], generator=torch.Generator().manual_seed(0))
    grown = rows.mean(0) + 0.5 * spread * noise
    for token, row in old.items():
        grown[new[token]] = rows[row]
    return grown


def grown_state(old: dict[str, int], encoder: nn.Module, new: dict[str, int]) -> dict[str, Tensor]:
    """A text encoder's weights for the larger vocabulary `new` (grown_rows)."""
    state = encoder.float().state_dict()
    rows = next(name for name in state if name.endswith("token_embedding.weight"))
    return state | {rows: grown_rows(old, state[rows], new)}


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, best first, after which every word is one token.

    Each word is cut by the merges so far, and what remains is joined from the left by new ones. A new
    merge ranks below all earlier ones, so the words before stay whole.
    """
    rank: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pairs = [pair for pair in pairwise(pieces) if pair in rank]
            best = min(pairs, key=rank.__getitem__) if pairs else (pieces[0], pieces[1])
            rank.setdefault(best, len(rank))
            joined: list[str] = []
            while pieces:
                if tuple(pieces[:2]) == best:
                    joined.append("".join(best))
                    pieces = pieces[2:]
                else:
                    joined.append(pieces.pop(0))
            pieces = joined
    return list(rank)
