"""Another program's folder of models: each is told by its header, and which option takes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend import __main__ as cli
from backend.errors import InputError
from backend.weights.checkpoint_kind import UNET, families
from backend.weights.find import find_models


def header(path: Path, *names: str) -> Path:
    """A .safetensors file of these tensors, without numbers; the UNet's first layer reads four channels."""
    shapes = {name: [0, 4, 3, 3] if name.startswith(UNET) else [0] for name in names}
    stated = {
        name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()
    }
    text = json.dumps(stated).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return path


@pytest.fixture
def comfy(tmp_path: Path) -> Path:
    for family in families():
        starts = [prefix + "x" for part, prefix in family.prefixes.items() if part != "unet"]
        header(
            tmp_path / "checkpoints" / f"{family.name}.safetensors", f"{UNET}input_blocks.0.0.weight", *starts
        )
    header(tmp_path / "loras" / "glaze.safetensors", "lora_unet_mid_block.lora_down.weight")
    header(tmp_path / "ipadapter" / "ip-adapter_sd15.safetensors", "image_proj.proj.weight")
    header(tmp_path / "mv" / "six.safetensors", "down_blocks.1.attentions.0.attn1.processor.to_q_mv.weight")
    header(tmp_path / "vae" / "vae.safetensors", "encoder.conv_in.weight")
    (tmp_path / "checkpoints" / "old.ckpt").write_bytes(b"")
    (tmp_path / "checkpoints" / "broken.safetensors").write_bytes(b"no")
    for folder, stated in (
        ("controlnet/depth", {"config.json": {"_class_name": "ControlNetModel"}}),
        ("diffusers/xl", {"model_index.json": {"_class_name": "StableDiffusionXLPipeline"}}),
        ("diffusers/flux", {"model_index.json": {"_class_name": "FluxPipeline"}}),
    ):
        (tmp_path / folder).mkdir(parents=True)
        for name, value in stated.items():
            (tmp_path / folder / name).write_text(json.dumps(value))
    header(tmp_path / "diffusers" / "xl" / "unet" / "part_of_it.safetensors", "conv_in.weight")
    return tmp_path


def test_each_is_told_and_its_option_named(comfy: Path) -> None:
    found = {one.path.relative_to(comfy).as_posix(): one for one in find_models(comfy)}
    for family in families():
        one = found[f"checkpoints/{family.name}.safetensors"]
        assert one.what.startswith(family.name)
        assert one.option == ("--refiner" if family.pipeline.endswith("Img2ImgPipeline") else "--prior")
    assert {path: one.option for path, one in found.items() if not path.startswith("checkpoints")} == {
        "loras/glaze.safetensors": "--lora", "ipadapter/ip-adapter_sd15.safetensors": "--image-adapter",
        "mv/six.safetensors": "--control", "vae/vae.safetensors": "",
        "controlnet/depth": "--control", "diffusers/xl": "--prior", "diffusers/flux": "",
    }  # fmt: skip
    assert "pickle" in found["checkpoints/old.ckpt"].what
    assert "truncated or damaged" in found["checkpoints/broken.safetensors"].what


def test_the_command_says_it(
    comfy: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["models", "find", str(comfy)]) == 0
    assert f"--control       {comfy / 'controlnet/depth'}\n" in capsys.readouterr().out
    assert cli.main(["models", "find", str(tmp_path_factory.mktemp("empty"))]) == 1
    assert "holds no model that can be used" in capsys.readouterr().out
    with pytest.raises(InputError, match="There is no folder"):
        next(find_models(comfy / "none"))
