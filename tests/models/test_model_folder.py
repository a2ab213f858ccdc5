from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from backend.errors import ModelError
from backend.jobs.priors import open_prior
from backend.models.load import load_network, load_text, load_vae
from backend.models.model_folder import describe, file_hash, open_folder
from tests.tools.tiny_models import Kind, build

CPU = torch.device("cpu")
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage, in a path with a space and an accent."""
    return shutil.copytree(base_folder, tmp_path / "modèles à moi" / "sd21-base")


@pytest.fixture
def refiner(refiner_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(refiner_folder, tmp_path / "refiner")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


@pytest.mark.parametrize(
    ("kind", "pipeline", "prediction", "native"),
    [
        ("sd21-base", "StableDiffusionPipeline", "epsilon", 64),
        ("sd21", "StableDiffusionPipeline", "v_prediction", 96),
        ("refiner", "StableDiffusionXLImg2ImgPipeline", "epsilon", 64),
    ],
)
def test_each_kind_opens_and_loads(
    kind: Kind, pipeline: str, prediction: str, native: int, tmp_path: Path
) -> None:
    model = open_folder(build(tmp_path / kind, kind))
    assert (model.pipeline, model.prediction, model.factor) == (pipeline, prediction, 8)
    assert model.spec.native_size == native
    network = load_network(model, CPU)
    assert network.prediction == prediction and network.dtype == torch.float32
    assert isinstance(network.unet, UNet2DConditionModel)
    assert not any(p.requires_grad for p in [*network.unet.parameters(), *load_vae(model, CPU).parameters()])
    tokenizer, encoder = load_text(model, CPU)
    assert len(tokenizer) <= encoder.config.vocab_size
    assert tokenizer("a red mug").input_ids[0] == tokenizer.bos_token_id


def test_half_precision_and_sharded_weights_are_found(
    base_folder: Path, folder: Path, tmp_path: Path
) -> None:
    whole = load_network(open_folder(base_folder), CPU).unet
    assert isinstance(whole, UNet2DConditionModel)
    (folder / UNET).unlink()
    whole.save_pretrained(folder / "unet", max_shard_size="200KB")
    model = open_folder(folder)
    assert len(model.weights["unet"]) > 1
    sharded = load_network(model, CPU).unet
    assert isinstance(sharded, UNet2DConditionModel)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), sharded.parameters(), strict=True))

    half = build(tmp_path / "half", "sd21", dtype=torch.float16)
    for file in half.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    model = open_folder(half)
    assert [file.name for file in model.weights["unet"]] == ["diffusion_pytorch_model.fp16.safetensors"]
    network = load_network(model, CPU)
    assert isinstance(network.unet, UNet2DConditionModel) and network.unet.dtype == torch.float32
    assert load_vae(model, CPU).dtype == torch.float32
    assert load_text(model, CPU)[1].dtype == torch.float32


def test_the_full_size_has_the_real_numbers() -> None:
    """Built without memory: parameter counts of the published models."""
    from tests.tools.tiny_models import NUMBERS, text_encoder, unet, vae

    kinds: list[Kind] = ["sd21-base", "refiner"]
    with torch.device("meta"):
        counts = [
            [
                sum(p.numel() for p in make(kind, NUMBERS[kind, "full"]).parameters())
                for make in (unet, vae, text_encoder)
            ]
            for kind in kinds
        ]
    assert [round(n / 1e6) for n in counts[0]] == [866, 84, 340]
    assert [round(n / 1e6) for n in counts[1]] == [2260, 84, 695]


def test_a_name_that_is_no_folder_says_how_to_give_one(tmp_path: Path) -> None:
    for name in ("stabilityai/stable-diffusion-2-1-base", str(tmp_path / "nowhere")):
        with pytest.raises(ModelError, match=r"not on this machine.*model_index\.json"):
            open_folder(name)


def damage_truncate(folder: Path) -> None:
    data = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(data[: len(data) - 100])


def damage_header(folder: Path) -> None:
    (folder / UNET).write_bytes(b"\xff" * 64)


def damage_to_pickle(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def damage_no_weights(folder: Path) -> None:
    (folder / UNET).unlink()


def damage_no_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def damage_index(folder: Path) -> None:
    (folder / "model_index.json").write_bytes(b'{"_class_name": "Stable\xff')


def damage_list(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("[]")


def damage_no_vae(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def damage_escaping_index(folder: Path) -> None:
    (folder / UNET).unlink()
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "../../elsewhere.safetensors"}}
    (folder / (UNET + ".index.json")).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, r"unet.diffusion_pytorch_model\.safetensors is missing, truncated or damaged"),
        (damage_header, r"unet.diffusion_pytorch_model\.safetensors is missing, truncated or damaged"),
        (damage_to_pickle, r"only as diffusion_pytorch_model\.bin.*safetensors"),
        (damage_no_weights, r"diffusion_pytorch_model\.safetensors is missing"),
        (damage_no_index, r"model_index\.json is missing"),
        (damage_index, r"model_index\.json cannot be read"),
        (damage_list, r"config\.json is not a JSON object"),
        (damage_no_vae, "no folder vae"),
        (damage_escaping_index, "names no files of its own folder"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(
    damage: Callable[[Path], None], message: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message):
        open_folder(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "model_index.json",
            {"_class_name": "FluxPipeline"},
            "FluxPipeline .a flow model.*, expected one of StableDiffusion",
        ),
        ("model_index.json", {"unet": ["diffusers", "UNet3DConditionModel"]}, "unet is of class UNet3D"),
        (
            "model_index.json",
            {"text_encoder": [None, None]},
            "text_encoder is of class None, expected CLIPTextM",
        ),
        ("unet/config.json", {"in_channels": 9}, "in_channels 9, expected 4"),
        ("unet/config.json", {"cross_attention_dim": 768}, "cross_attention_dim 768, expected 16"),
        (
            "unet/config.json",
            {"addition_embed_type": "text_time"},
            "addition_embed_type text_time, expected None",
        ),
        ("unet/config.json", {"sample_size": None}, "sample_size"),
        ("vae/config.json", {"latent_channels": 16}, "in_channels 4, expected 16"),
        ("text_encoder/config.json", {"hidden_size": 1024}, "cross_attention_dim 16, expected 1024"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 128}, "model_max_length 128, expected 77"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "linear"}, "beta_schedule is linear"),
        ("scheduler/scheduler_config.json", {"beta_end": 0.02}, "beta_end is 0.02, expected 0.012"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 100}, "num_train_timesteps is 100"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction type is sample"),
    ],
)
def test_what_does_not_fit_is_refused_with_got_and_expected(
    file: str, change: dict[str, Any], message: str, folder: Path
) -> None:
    edit(folder / file, **change)
    with pytest.raises(ModelError, match=message):
        open_folder(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet/config.json", {"addition_embed_type": None}, "addition_embed_type None, expected text_time"),
        # six numbers are SDXL's base model, which has no aesthetic score
        ("unet/config.json", {"projection_class_embeddings_input_dim": 12 + 6 * 4}, "36, expected 32"),
        ("text_encoder_2/config.json", {"projection_dim": 16}, "32, expected 36"),
        ("text_encoder_2/config.json", {"hidden_size": 8}, "cross_attention_dim 16, expected 8"),
    ],
)
def test_a_refiner_that_does_not_fit_is_refused(
    file: str, change: dict[str, Any], message: str, refiner: Path
) -> None:
    edit(refiner / file, **change)
    with pytest.raises(ModelError, match=message):
        open_folder(refiner)


def test_missing_and_misshapen_tensors_are_refused(folder: Path) -> None:
    tensors = load_file(folder / UNET)
    save_file({k: v for k, v in tensors.items() if k != "conv_in.weight"}, folder / UNET)
    with pytest.raises(ModelError, match=r"lacks 1 tensors, conv_in\.weight first"):
        load_network(open_folder(folder), CPU)
    save_file(tensors | {"conv_in.weight": torch.zeros(8, 9, 3, 3)}, folder / UNET)
    with pytest.raises(ModelError, match=r"unet cannot be loaded"):
        load_network(open_folder(folder), CPU)


def test_a_text_encoder_that_lacks_tensors_or_tokens_is_refused(folder: Path) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("final_layer_norm.bias"))
    save_file({k: v for k, v in tensors.items() if k != name}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lacks 1 tensors"):
        load_text(open_folder(folder), CPU)
    save_file(tensors, file, metadata={"format": "pt"})
    vocabulary = json.loads((folder / "tokenizer" / "vocab.json").read_text("utf-8"))
    vocabulary |= {f"word{i}</w>": len(vocabulary) + i for i in range(100)}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    with pytest.raises(ModelError, match="tokenizer with 614 tokens, expected at most 600"):
        load_text(open_folder(folder), CPU)


def test_a_prior_may_state_its_own_ranges(folder: Path) -> None:
    statement = {
        "native_size": 32,
        "poses": {"elevation": [-10, 60], "distance": [1.3, 1.6], "fov": [45, 45], "overhead_share": 0.12},
        "backgrounds": {"solids": [[0.15, 0.15, 0.15], [0.5, 0.5, 0.5]], "learned_share": 0},
        "normal_prompt": "a normal map of {prompt}",
        "normal_background": [0.5, 0.5, 0.5],
        "guidance": 2.5,
    }
    (folder / "dreamflow.json").write_text(json.dumps(statement), "utf-8")
    stated = open_folder(folder).spec
    assert stated.native_size == 32
    assert stated.poses.fov == (45, 45) and stated.poses.azimuth == (-180, 180)
    assert stated.backgrounds.solids == ((0.15, 0.15, 0.15), (0.5, 0.5, 0.5))
    assert stated.normal_background == (0.5, 0.5, 0.5) and stated.guidance == 2.5


def test_a_prior_may_state_larger_latents(folder: Path) -> None:
    before = load_vae(open_folder(folder), CPU).config.scaling_factor
    (folder / "dreamflow.json").write_text(json.dumps({"vae_scale": 4}), "utf-8")
    assert load_vae(open_folder(folder), CPU).config.scaling_factor == 4 * before


@pytest.mark.parametrize(
    "statement",
    [
        {"colour": "red"},
        {"poses": {"roll": [0, 1]}},
        {"poses": {"fov": [70, 40]}},
        {"poses": {"fov": 45}},
        {"poses": 3},
        {"native_size": "big"},
        {"guidance": "strong"},
        {"normal_background": [1, 1]},
        {"normal_prompt": "a normal map of {thing}"},
        {"vae_scale": 0},
        {"vae_scale": "4"},
    ],
)
def test_an_unknown_statement_is_refused(statement: dict[str, Any], folder: Path) -> None:
    (folder / "dreamflow.json").write_text(json.dumps(statement), "utf-8")
    with pytest.raises(ModelError, match=r"dreamflow\.json cannot be used"):
        open_folder(folder)


def test_description_names_every_weight_file_with_its_hash(folder: Path) -> None:
    described = describe(open_folder(folder))
    files = {"unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"}
    assert set(described["sha256"]) == {f"{file}.safetensors" for file in files}
    assert described["sha256"][UNET] == sha256((folder / UNET).read_bytes()).hexdigest()
    json.dumps(described)
    data = bytearray((folder / UNET).read_bytes())
    data[-1] ^= 1
    data += b"\0" * 4  # another size, since a file system's clock may be coarse
    (folder / UNET).write_bytes(data)
    assert file_hash(folder / UNET) == sha256(bytes(data)).hexdigest()


def test_open_prior_chooses_by_the_folder_and_lists_what_it_takes(
    base_folder: Path, v_folder: Path, refiner_folder: Path
) -> None:
    assert type(open_prior(base_folder, "cpu", v_folder)).__name__ == "LatentPrior"
    assert type(open_prior(str(refiner_folder), "cpu")).__name__ == "LatentPrior"
    with pytest.raises(ModelError, match=r"'exact'.*diffusers"):
        open_prior("nowhere/at-all", "cpu")
