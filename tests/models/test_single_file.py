"""Models in one file give what the same models give as folders; everything else in one file is refused by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from backend.errors import ModelError
from backend.models.latent_prior import LatentPrior
from backend.models.load import load_network, load_text, load_tokenizer, load_vae, parameters
from backend.models.model_folder import describe, file_hash, open_folder
from backend.models.single_file import open_model
from backend.models.text import encode_sentences, tokenize
from backend.weights import checkpoint_kind
from tests.tools.one_file import KINDS, NAMES, V_BIAS, small_families, write_one_file
from tests.tools.published_configs import SD21
from tests.tools.real_folders import build

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_kind, "families", small_families)
    monkeypatch.setattr("backend.models.single_file.families", small_families)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("wholes")
    return {kind: build(root / kind, kind, "full", seed=i) for i, kind in enumerate(KINDS)}


@pytest.fixture(scope="module")
def files(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("files")
    return {kind: write_one_file(folders[kind], kind, root / f"mödel {kind}.safetensors") for kind in KINDS}


def test_the_configurations_are_the_published_ones() -> None:
    for kind, family in zip(KINDS, checkpoint_kind.__dict__["families"](), strict=True):
        assert family.name == NAMES[kind]
    import json

    stored = json.loads(Path(checkpoint_kind.__file__).with_name("published.json").read_text("utf-8"))
    for kind, name in NAMES.items():
        assert stored[name]["pipeline"] == KINDS[kind]["model_index.json"]["_class_name"]
        for component, config in stored[name]["configs"].items():
            full = KINDS[kind][f"{component}/config.json"]
            assert config == {key: full[key] for key in config}
            rest = {key for key, value in full.items() if key not in config and value is not None}
            assert rest <= {"_class_name", "_diffusers_version", "_name_or_path", "architectures",
                            "torch_dtype", "transformers_version"}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_arrives_as_from_the_folder(
    kind: str, folders: dict[str, Path], files: dict[str, Path]
) -> None:
    one, folder = open_model(files[kind]), open_folder(folders[kind])
    assert (one.pipeline, one.prediction, one.factor) == (folder.pipeline, folder.prediction, folder.factor)
    assert one.spec == folder.spec and one.empty_is_zeros == folder.empty_is_zeros
    parts: list[tuple[nn.Module, nn.Module]] = [
        (load_network(one, CPU).unet, load_network(folder, CPU).unet),  # type: ignore[list-item]
        (load_vae(one, CPU), load_vae(folder, CPU)),
        *((load_text(one, CPU, name)[1], load_text(folder, CPU, name)[1]) for name in folder.encoders),
    ]
    for ours, whole in parts:
        a, b = ours.state_dict(), whole.state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    for name in ("unet", "vae"):
        assert parameters(one, name) == parameters(folder, name)
    for name in folder.encoders:
        sentences = ["a red mug, front view", ""]
        ours, whole = (tokenize(load_tokenizer(model, name), sentences) for model in (one, folder))
        assert torch.equal(ours, whole)


@pytest.mark.parametrize("kind", ["sd21-base", "sdxl"])
def test_sentences_and_hashes(kind: str, folders: dict[str, Path], files: dict[str, Path], tmp_path: Path,
                              monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("DREAMFLOW_CACHE", str(tmp_path))
    one, folder = open_model(files[kind]), open_folder(folders[kind])
    ours, whole = (encode_sentences(model, ["a red mug"], CPU) for model in (one, folder))
    assert ours.keys() == whole.keys() and all(torch.equal(ours[name], whole[name]) for name in ours)
    assert describe(one)["sha256"] == {files[kind].name: file_hash(files[kind])}
    assert LatentPrior(files[kind], "cpu").describe()["name"] == f"mödel {kind}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_small_numbers_on_disk_are_read_as_they_are(
    dtype: torch.dtype, folders: dict[str, Path], tmp_path: Path
) -> None:
    path = write_one_file(folders["sd15"], "sd15", tmp_path / "half.safetensors", dtype)
    unet: Any = load_network(open_model(path), CPU).unet
    whole: Any = load_network(open_folder(folders["sd15"]), CPU).unet
    expected = whole.state_dict()
    for name, tensor in unet.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name].to(dtype).float())


@pytest.mark.parametrize("metadata", [
    {"modelspec.architecture": "stable-diffusion-v2-768-v"}, {"modelspec.prediction_type": "v"}, None,
])  # fmt: skip
def test_stable_diffusion_2_says_its_prediction_or_shows_it(
    metadata: dict[str, str] | None, files: dict[str, Path], tmp_path: Path
) -> None:
    tensors = load_file(files["sd21-base"])
    if metadata is None:
        tensors[V_BIAS] = torch.linspace(-1, 1, len(tensors[V_BIAS]))  # as wide as in the published v model
    path = tmp_path / "v.safetensors"
    save_file(tensors, path, metadata=metadata)
    model = open_model(path)
    assert model.prediction == "v_prediction" and model.spec.native_size == 768
    path.with_suffix(".dreamflow.json").write_text('{"prediction": "epsilon", "native_size": 32}')
    assert (open_model(path).prediction, open_model(path).spec.native_size) == ("epsilon", 32)
    assert SD21["unet/config.json"]["upcast_attention"] is model.configs["unet"]["upcast_attention"]


@pytest.mark.parametrize(("name", "title"), [
    ("sdxl_lightning_4step", ""), ("dreamTurboXL", ""), ("plain", "My LCM merge"),
])  # fmt: skip
def test_distilled_models_get_their_guidance_and_a_warning(
    name: str, title: str, files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.safetensors"
    save_file(load_file(files["sdxl"]), path, metadata={"modelspec.title": title})
    prior = LatentPrior(path, "cpu")
    assert prior.spec.guidance == 1 and "guidance is set to 1" in prior.take_notes()[0]
    path.with_suffix(".dreamflow.json").write_text('{"guidance": 6.0}')
    assert LatentPrior(path, "cpu").spec.guidance == 6 and LatentPrior(path, "cpu").take_notes() == []


def test_a_usual_name_is_no_distilled_one(files: dict[str, Path]) -> None:
    assert LatentPrior(files["sdxl"], "cpu").take_notes() == []


UNET = "model.diffusion_model."
OTHERS: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "flux": ({f"{UNET}double_blocks.0.img_attn.norm.key_norm.scale": (4,)}, "holds Flux"),
    "sd3": ({f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.bias": (4,)}, "holds Stable Diffusion 3"),
    "lora": ({"lora_unet_down_blocks_0.lora_down.weight": (4, 4)}, "holds a LoRA, which --lora takes"),
    "controlnet": ({"control_model.time_embed.0.weight": (4, 4)}, "holds a ControlNet"),
    "vae": ({"encoder.conv_in.weight": (4, 3, 3, 3)}, "holds a VAE alone"),
    "unet": ({"down_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3)}, "holds the UNet alone"),
    "embedding": ({"emb_params": (1, 768)}, "textual inversion"),
    "anything": ({"weight": (1,)}, r"no model that is known here \(it holds weight\)"),
    "nothing": ({}, "no model that is known here"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    shapes, message = OTHERS[kind]
    path = tmp_path / "a file.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(ModelError, match=message):
        open_model(path)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"new_idea.weight": torch.zeros(1)}, "holds SDXL and 1 unknown tensors, new_idea.weight first"),
    "unknown inside": (
        {f"{UNET}input_blocks.1.0.extra.weight": torch.zeros(1)}, "its unet is no SDXL's: it has unknown"),
    "unknown in the encoder": (
        {"conditioner.embedders.1.model.extra": torch.zeros(1)}, "its text_encoder_2 is no SDXL's: it has unknown"),
    "too little": ({f"{UNET}out.2.bias": None}, r"its unet is no SDXL's: it lacks 1 tensors, conv_out\.bias first"),
    "inpainting": ({f"{UNET}input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}, "an inpainting model"),
    "another width": ({f"{UNET}out.2.bias": torch.zeros(5)}, r"conv_out\.bias is \[5\], expected \[4\]"),
    "no vae": ({"first_stage_model.": None}, "holds SDXL without its vae"),
    "scaled": ({f"{UNET}out.2.scale_weight": torch.ones(1)}, "holds a quantised model"),
    "zero snr": ({"ztsnr": torch.ones(1)}, "zero terminal SNR"),
    "bytes": ({f"{UNET}out.2.bias": torch.zeros(4, dtype=torch.uint8)}, "numbers of type U8, expected float32"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_a_model_with_something_else_in_it_is_refused_by_name(
    kind: str, files: dict[str, Path], tmp_path: Path
) -> None:
    changes, message = CHANGES[kind]
    tensors = copy.copy(load_file(files["sdxl"]))
    for name, tensor in changes.items():
        if tensor is None:
            tensors = {n: t for n, t in tensors.items() if not n.startswith(name)}
        else:
            tensors[name] = tensor
    path = tmp_path / "changed.safetensors"
    save_file(tensors, path)
    with pytest.raises(ModelError, match=message):
        open_model(path)


def test_pickles_and_damaged_files_are_refused(tmp_path: Path) -> None:
    for name, message in (
        ("model.ckpt", "can run code when opened"),
        ("model.safetensors", "truncated or damaged"),
    ):
        (tmp_path / name).write_bytes(b"\x80\x04junk")
        with pytest.raises(ModelError, match=message):
            open_model(tmp_path / name)
