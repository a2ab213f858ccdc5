"""MVDream's and ImageDream's UNets written out from their papers and LDM's description, and folders that hold them.

Nothing of diffusers computes here: it is what the product's loading is compared with. Widths are tiny, all else is the
published model's: two blocks a level, attention everywhere but at the lowest, normalisation in 32 groups.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from backend.diffusion.joint_attention import JointAttention

WIDTH, MULT, BLOCKS, HEAD, CONTEXT = 32, (1, 2, 2, 2), 2, 16, 16
LEVELS = len(MULT)
EYE, EYE_HEADS, EYE_HEAD, EYE_LAYERS = 32, 2, 64, 4  # CLIP's states, and what reads them
LDM_CONFIG: dict[str, Any] = {
    "_class_name": "MultiViewUNetModel",
    "_diffusers_version": "0.27.2",
    "adm_in_channels": None,
    "attention_resolutions": [4, 2, 1],
    "camera_dim": 16,
    "channel_mult": list(MULT),
    "context_dim": CONTEXT,
    "conv_resample": True,
    "dims": 2,
    "dropout": 0,
    "image_size": 8,
    "in_channels": 4,
    "ip_dim": 0,
    "ip_weight": 1.0,
    "model_channels": WIDTH,
    "n_embed": None,
    "num_attention_blocks": None,
    "num_classes": None,
    "num_head_channels": HEAD,
    "num_heads": -1,
    "num_heads_upsample": -1,
    "num_res_blocks": BLOCKS,
    "out_channels": 4,
    "resblock_updown": False,
    "transformer_depth": 1,
    "use_checkpoint": False,
    "use_scale_shift_norm": False,
}


class Residual(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * WIDTH, outer))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, outer), nn.SiLU(), nn.Identity(), nn.Conv2d(outer, outer, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[..., None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(d)) v, head by head; the last `words` of the context by keys and values of their own."""

    def __init__(self, width: int, context: int, words: int = 0) -> None:
        super().__init__()
        self.words = words
        if words:
            self.to_k_ip, self.to_v_ip = (nn.Linear(context, width, bias=False) for _ in range(2))
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Identity())

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        text = context[:, : context.shape[1] - self.words]
        found = attend(self.to_q(x), self.to_k(text), self.to_v(text))
        if self.words:
            said = context[:, -self.words :]
            found = found + attend(self.to_q(x), self.to_k_ip(said), self.to_v_ip(said))
        return self.to_out(found)


def attend(q: Tensor, k: Tensor, v: Tensor, wide: int = HEAD) -> Tensor:
    heads = []
    for i in range(0, q.shape[-1], wide):
        one, two, three = (t[..., i : i + wide] for t in (q, k, v))
        heads.append((one @ two.mT / math.sqrt(wide)).softmax(-1) @ three)
    return torch.cat(heads, -1)


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, -1)
        return x * F.gelu(gate)


class Forward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gated(width), nn.Identity(), nn.Linear(4 * width, width))


class Block(nn.Module):
    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(width, width), Attention(width, CONTEXT, words)
        self.ff = Forward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor, frames: int) -> Tensor:
        b, n, c = x.shape
        x = x.reshape(b // frames, frames * n, c)  # the views of a ring as one sequence
        seen = self.norm1(x)
        x = (self.attn1(seen, seen) + x).reshape(b, n, c)
        x = self.attn2(self.norm2(x), context) + x
        return self.ff.net(self.norm3(x)) + x


class Transformer(nn.Module):
    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([Block(width, words)])

    def forward(self, x: Tensor, context: Tensor, frames: int) -> Tensor:
        tokens = self.proj_in(self.norm(x).flatten(2).mT)
        tokens = self.proj_out(self.transformer_blocks[0](tokens, context, frames))
        return x + tokens.mT.reshape(x.shape)


class Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)


class Up(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)


class Perceiver(nn.Module):
    """The words attend to the picture's states and to themselves (Flamingo's resampler)."""

    def __init__(self) -> None:
        super().__init__()
        inner = EYE_HEADS * EYE_HEAD
        self.norm1, self.norm2 = nn.LayerNorm(CONTEXT), nn.LayerNorm(CONTEXT)
        self.to_q = nn.Linear(CONTEXT, inner, bias=False)
        self.to_kv = nn.Linear(CONTEXT, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, CONTEXT, bias=False)

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        words = self.norm2(words)
        k, v = self.to_kv(torch.cat((self.norm1(states), words), 1)).chunk(2, -1)
        return self.to_out(attend(self.to_q(words), k, v, EYE_HEAD))


class Resampler(nn.Module):
    """CLIP's states [B,N,EYE] of a picture to words [B,words,CONTEXT]."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, words, CONTEXT))
        self.proj_in, self.proj_out = nn.Linear(EYE, CONTEXT), nn.Linear(CONTEXT, CONTEXT)
        self.norm_out = nn.LayerNorm(CONTEXT)
        self.layers = nn.ModuleList()
        for _ in range(EYE_LAYERS):
            wide, small = (nn.Linear(*sides, bias=False) for sides in ((CONTEXT, 64), (64, CONTEXT)))
            forward = nn.Sequential(nn.LayerNorm(CONTEXT), wide, nn.GELU(), small)
            self.layers.append(nn.ModuleList((Perceiver(), forward)))

    def forward(self, states: Tensor) -> Tensor:
        states, words = self.proj_in(states), self.latents.expand(len(states), -1, -1)
        for look, forward in self.layers:
            words = words + look(states, words)
            words = words + forward(words)
        return self.norm_out(self.proj_out(words))


class Reference(nn.Module):
    """words: of a picture, for ImageDream."""

    def __init__(self, words: int = 0) -> None:
        super().__init__()
        wide = 4 * WIDTH
        if words:
            self.image_embed = Resampler(words)
        self.time_embed = nn.Sequential(nn.Linear(WIDTH, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.camera_embed = nn.Sequential(nn.Linear(16, wide), nn.SiLU(), nn.Linear(wide, wide))
        blocks: list[list[nn.Module]] = [[nn.Conv2d(4, WIDTH, 3, padding=1)]]
        skips, c = [WIDTH], WIDTH
        for level, mult in enumerate(MULT):
            for _ in range(BLOCKS):
                blocks.append([Residual(c, WIDTH * mult)])
                c = WIDTH * mult
                if level < LEVELS - 1:
                    blocks[-1].append(Transformer(c, words))
                skips.append(c)
            if level < LEVELS - 1:
                blocks.append([Down(c)])
                skips.append(c)
        self.input_blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks)
        self.middle_block = nn.ModuleList([Residual(c, c), Transformer(c, words), Residual(c, c)])
        blocks = []
        for level in reversed(range(LEVELS)):
            for i in range(BLOCKS + 1):
                blocks.append([Residual(c + skips.pop(), WIDTH * MULT[level])])
                c = WIDTH * MULT[level]
                if level < LEVELS - 1:
                    blocks[-1].append(Transformer(c, words))
                if level and i == BLOCKS:
                    blocks[-1].append(Up(c))
        self.output_blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks)
        self.out = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, 4, 3, padding=1))

    def forward(self, x: Tensor, t: float, text: Tensor, camera: Tensor, frames: int) -> Tensor:
        """Epsilon [B,4,h,w] for noised latents [B,4,h,w], text [B,L,C] and flat camera-to-world matrices [B,16]."""
        angle = t * torch.exp(-math.log(10000) * torch.arange(WIDTH // 2) / (WIDTH // 2))
        wave = torch.cat((angle.cos(), angle.sin())).expand(len(x), -1).to(x.dtype)
        emb = self.time_embed(wave) + self.camera_embed(camera)

        def through(block: Any, h: Tensor) -> Tensor:
            for layer in block:
                if isinstance(layer, Residual):
                    h = layer(h, emb)
                elif isinstance(layer, Transformer):
                    h = layer(h, text, frames)
                elif isinstance(layer, Up):
                    h = layer.conv(h.repeat_interleave(2, 2).repeat_interleave(2, 3))
                else:
                    h = layer.op(h) if isinstance(layer, Down) else layer(h)
            return h

        kept = []
        for block in self.input_blocks:
            x = through(block, x)
            kept.append(x)
        x = through(self.middle_block, x)
        for block in self.output_blocks:
            x = through(block, torch.cat((x, kept.pop()), 1))
        return self.out(x)


def reference(seed: int = 0, words: int = 0) -> Reference:
    """Random weights; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Reference(words).eval().requires_grad_(False)


RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def diffusers_name(name: str) -> str:
    """An LDM name (no camera's) in diffusers' words, block by block."""
    stem, end = name.rsplit(".", 1)
    if stem in ENDS:
        return f"{ENDS[stem]}.{end}"
    part, number, *rest = name.split(".")
    inner = ".".join(rest[1:])
    for old, new in RESIDUAL.items():
        inner = inner.replace(old, new)
    if part == "middle_block":
        place = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}[number]
        return f"mid_block.{place}." + ".".join([*rest[:-1], end] if number == "1" else [middle(rest)])
    if part == "input_blocks":
        level, i = divmod(int(number) - 1, BLOCKS + 1)
        if i == BLOCKS:
            return f"down_blocks.{level}.downsamplers.0.conv.{end}"
        return f"down_blocks.{level}.{('resnets', 'attentions')[int(rest[0])]}.{i}.{inner}"
    level, i = divmod(int(number), BLOCKS + 1)
    if inner.startswith("conv.") and rest[0] != "0":
        return f"up_blocks.{level}.upsamplers.0.{inner}"
    return f"up_blocks.{level}.{('resnets', 'attentions')[int(rest[0])]}.{i}.{inner}"


def middle(rest: list[str]) -> str:
    name = ".".join(rest)
    for old, new in RESIDUAL.items():
        name = name.replace(old, new)
    return name


def build(folder: Path, base: Path, layout: str, seed: int = 0, words: int = 0) -> Path:
    """A folder in the layout "ldm" or "diffusers" of `reference(seed, words)`; the other parts are tiny Stable
    Diffusion's, and with words CLIP's eye."""
    shutil.copytree(base, folder)
    shutil.rmtree(folder / "unet")
    tensors = dict(reference(seed, words).state_dict())
    index = json.loads((base / "model_index.json").read_text("utf-8"))
    index |= {"_class_name": "MVDreamPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    ).save_pretrained(folder / "scheduler")
    (folder / "scheduler" / "config.json").unlink(missing_ok=True)
    if layout == "ldm":
        index |= {"_class_name": ["pipeline_mvdream", "MVDreamPipeline"], "image_encoder": [None, None]}
        index["unet"] = ["mv_unet", "MultiViewUNetModel"]
        config: dict[str, Any] = LDM_CONFIG | {"ip_dim": words}
    else:
        config = json.loads((base / "unet" / "config.json").read_text("utf-8"))
        config |= {
            "block_out_channels": [WIDTH * mult for mult in MULT],
            "attention_head_dim": [WIDTH * mult // HEAD for mult in MULT],
            "norm_num_groups": 32,
        }
        index |= {"camera_proj": ["mvdream.camera_proj", "CameraMatrixEmbedding"]}
        camera = {
            f"linear_{1 + place // 2}.{end}": tensors.pop(f"camera_embed.{place}.{end}")
            for place in (0, 2)
            for end in ("weight", "bias")
        }
        tensors = {diffusers_name(name): tensor for name, tensor in tensors.items()}
        write(folder / "camera_proj", {"in_channels": 16, "camera_embed_dim": 4 * WIDTH}, camera)
    if words:
        index["image_encoder"] = ["transformers", "CLIPVisionModel"]
        eye = CLIPVisionConfig(
            hidden_size=EYE,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            CLIPVisionModel(eye).save_pretrained(folder / "image_encoder")
    write(folder / "unet", config, tensors)
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    return folder


def write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / "diffusion_pytorch_model.safetensors",
    )


def joined_frames(unet: UNet2DConditionModel) -> int:
    """How many pictures the UNet's self-attention joins: 1 where any layer looks at single pictures."""
    frames = [
        processor.frames if isinstance(processor, JointAttention) else 1
        for name, processor in unet.attn_processors.items()
        if "attn1" in name
    ]
    return min(frames, default=1)
