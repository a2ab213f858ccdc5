"""Folders as they are on the hub, down to tensor names and token ids: opened, read, fetched; and those that would load
but not fit are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from backend import __main__ as cli
from backend.errors import ModelError
from backend.jobs.priors import default_refiner, open_prior
from backend.models.load import load_network, load_text, load_tokenizer, load_vae
from backend.models.model_folder import open_folder
from backend.models.text import tokenize
from backend.weights import sources
from backend.weights.catalogue import Model
from backend.weights.fetch import fetch, make_plan
from backend.weights.sources import RECORD, Record, find, home_of, model_named, read_record
from tests.tools import published_configs as published
from tests.tools.hub_server import HubServer
from tests.tools.real_folders import build, old_name, published_name, reduced

CPU = torch.device("cpu")
MUG = [49406, 320, 736, 9722, 267, 2184, 1093, 49407]  # "a red mug, front view", by the published vocabulary
EXTRA = "tokenizer/special_tokens_map.json"
UNET = "unet/diffusion_pytorch_model"
HUB_NAMES = {"sd": "sd21-base", "sd-phi": "sd21", "sdxl-refiner": "refiner"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every model in both precisions, with pickles and single files beside."""
    root = tmp_path_factory.mktemp("published")
    return {kind: build(root / kind, kind, seed=i) for i, kind in enumerate(published.MODELS)}


@pytest.fixture
def base(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of Stable Diffusion 2.1-base to change."""
    return shutil.copytree(folders["sd21-base"], tmp_path / "sd21-base")


@pytest.fixture
def hub(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that offers the three models, file by file as published; nothing is on this machine."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tmp_path / "models.toml").write_text("")
    monkeypatch.setenv("DREAMFLOW_MODELS_TOML", str(tmp_path / "models.toml"))
    with HubServer() as server:
        for name, kind in HUB_NAMES.items():
            server.repos[model_named(name).sources[0].id] = content(folders[kind])
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        yield server


def content(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def padded(ids: list[int], pad: int) -> list[int]:
    return ids + [pad] * (77 - len(ids))


def ids_of(folder: Path, sentence: str) -> list[int]:
    return [int(i) for i in tokenize(load_tokenizer(open_folder(folder)), [sentence])[0]]


def without(folder: Path, end: str) -> Path:
    """Leave one precision alone in a copy."""
    for file in folder.rglob("*.safetensors"):
        if (".fp16." in file.name) == (end == ".fp16"):
            file.unlink()
    return folder


@pytest.mark.parametrize("lacking", ["", ".fp16", "full"], ids=["both", "full", "fp16"])
@pytest.mark.parametrize(
    ("kind", "prediction", "native", "scaling"),
    [
        ("sd21-base", "epsilon", 64, 0.18215),
        ("sd21", "v_prediction", 96, 0.18215),
        ("refiner", "epsilon", 64, 0.13025),
        ("sd15", "epsilon", 64, 0.18215),
        ("sdxl", "epsilon", 64, 0.13025),
    ],
)
def test_every_tensor_of_a_published_folder_arrives(
    kind: str,
    prediction: str,
    native: int,
    scaling: float,
    lacking: str,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = folders[kind]
    if lacking:
        folder = without(shutil.copytree(folder, tmp_path / kind), lacking)
    model = open_folder(folder)
    assert (model.prediction, model.spec.native_size, model.factor) == (prediction, native, 8)
    vae = load_vae(model, CPU)
    assert vae.config.scaling_factor == scaling
    unet: Any = load_network(model, CPU).unet
    text = next(name for name in model.weights if name.startswith("text_encoder"))
    modules = {"unet": unet, "vae": vae, text: load_text(model, CPU)[1]}
    rename: dict[str, Callable[[str], str]] = {"vae": old_name, text: published_name}
    for component, module in modules.items():
        (file,) = model.weights[component]
        assert (".fp16." in file.name) == (lacking == "full")
        stored = load_file(file)
        stored.pop("text_model.embeddings.position_ids", None)  # a fact, not a weight
        held = {rename.get(component, str)(name): t for name, t in module.state_dict().items()}
        assert set(stored) == set(held)
        assert all(torch.equal(stored[name].float(), held[name]) for name in stored)


@pytest.mark.parametrize(
    ("kind", "pad"),
    [("sd21-base", 0), ("sd21", 0), ("refiner", 0), ("sd15", 49407), ("sdxl", 49407)],
    ids=str,
)
def test_sentences_are_filled_up_as_the_encoders_were_trained(
    kind: str, pad: int, folders: dict[str, Path]
) -> None:
    assert ids_of(folders[kind], "a red mug, front view") == padded(MUG, pad)
    assert ids_of(folders[kind], "") == padded([49406, 49407], pad)


def test_a_tokenizer_written_again_is_read_without_the_extra_file(base: Path) -> None:
    """transformers since 2023 writes the pad token into tokenizer_config.json, and reads it there."""
    config = base / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps(published.rewritten_tokenizer("!")), "utf-8")
    assert ids_of(base, "") == padded([49406, 49407], 0)
    (base / EXTRA).write_text(
        json.dumps(published.special_tokens(published.END)), "utf-8"
    )  # not asked any more
    assert ids_of(base, "") == padded([49406, 49407], 0)
    (base / EXTRA).unlink()
    assert ids_of(base, "") == padded([49406, 49407], 0)


@pytest.mark.parametrize("change", ["no extra file", "another pad token", "written again wrongly"])
def test_a_tokenizer_that_fills_up_otherwise_is_refused(
    base: Path, folders: dict[str, Path], change: str
) -> None:
    if change == "no extra file":
        (base / EXTRA).unlink()
    elif change == "another pad token":
        edit(base / EXTRA, pad_token=published.END)
    else:
        config = base / "tokenizer" / "tokenizer_config.json"
        config.write_text(json.dumps(published.rewritten_tokenizer(published.END)), "utf-8")
    with pytest.raises(ModelError, match=r"fills sentences up with '<\|endoftext\|>'.*trained with '!'"):
        open_folder(base)
    with pytest.raises(ModelError, match="fills sentences up"):  # D_phi's own model too
        open_prior(folders["sd21-base"], "cpu", base)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_tokenizer_without_its_vocabulary_is_refused(base: Path, name: str) -> None:
    """transformers would make up three tokens, or spell every word, without an error."""
    (base / "tokenizer" / name).unlink()
    with pytest.raises(ModelError, match=rf"tokenizer lacks {name}"):
        open_folder(base)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("vocab.json", "[]", r"vocab\.json is not a JSON object"),
        ("vocab.json", '{"!": 0', r"vocab\.json cannot be read"),
        ("vocab.json", '{"!": 0}', r"merges\.txt, line 2: 'r e' does not join two tokens"),
        ("merges.txt", "#version: 0.2\nmu g</w>\nx y\n", r"line 3: 'x y' does not join"),
        ("merges.txt", "<html>Please log in</html>\n", "line 1: '<html>Please log in</html>' does not join"),
        ("special_tokens_map.json", "[]", r"special_tokens_map\.json is not a JSON object"),
    ],
)
def test_a_damaged_vocabulary_is_refused(base: Path, name: str, text: str, message: str) -> None:
    (base / "tokenizer" / name).write_text(text, "utf-8")
    with pytest.raises(ModelError, match=message):
        open_prior(base, "cpu").check("a red mug", "", "colour", 64)


def test_a_tokenizer_is_read_again_only_when_its_files_change(base: Path) -> None:
    model = open_folder(base)
    assert load_tokenizer(model) is load_tokenizer(open_folder(base))
    (base / "tokenizer" / "merges.txt").write_text("x y\n", "utf-8")
    with pytest.raises(ModelError, match="line 1: 'x y' does not join"):
        load_tokenizer(model)


@pytest.mark.parametrize(("name", "kind"), HUB_NAMES.items())
def test_what_is_fetched_reads_as_what_is_published(
    name: str, kind: str, hub: HubServer, folders: dict[str, Path]
) -> None:
    """The small files that a fetch leaves out change nothing: neither tokens nor configurations."""
    model = model_named(name)
    list(fetch(make_plan(model)))
    fetched = find(model)
    assert fetched is not None
    whole, part = open_folder(folders[kind]), open_folder(fetched)
    assert (part.configs, part.prediction, part.spec) == (
        whole.configs,
        whole.prediction,
        whole.spec,
    )
    for sentence in ("a red mug, front view", ""):
        assert ids_of(fetched, sentence) == ids_of(folders[kind], sentence)
    left_out = set(content(folders[kind])) - set(content(fetched))
    assert {f for f in left_out if not f.endswith((".bin", ".safetensors", ".ckpt"))} == {
        "feature_extractor/preprocessor_config.json",
        "README.md",
        ".gitattributes",
    }
    assert all(".fp16." in file.name for files in part.weights.values() for file in files)


def fetched_by_an_older_version(model: Model) -> Path:
    """Which left tokenizer/special_tokens_map.json out."""
    list(fetch(make_plan(model)))
    folder = find(model)
    assert folder is not None
    (folder / EXTRA).unlink()
    record = read_record(folder)
    assert record is not None
    rest = [
        {name: value for name, value in part.items() if name != EXTRA}
        for part in (record.sizes, record.sha256)
    ]
    Record(record.id, record.revision, record.commit, *rest).write(folder)
    return folder


def test_what_an_older_version_fetched_is_told_and_mended_by_one_file(
    hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    sd = model_named("sd")
    folder = fetched_by_an_older_version(sd)
    assert find(sd) is None
    with pytest.raises(ModelError, match=r"cannot be used: .*trained with '!'.*models fetch sd$"):
        open_prior("sd", "cpu")
    with pytest.raises(ModelError, match=r"special_tokens_map\.json.* is missing"):
        open_folder(folder)
    assert cli.main(["models", "verify", "sd"]) == 1
    said = capsys.readouterr().out
    assert "trained with '!'" in said and "models fetch sd" in said and "Removed" not in said
    assert cli.main(["models"]) == 0
    assert "not whole: " in capsys.readouterr().out
    before = len(hub.seen)
    list(fetch(make_plan(sd)))
    assert [url.split("/")[-1] for url, _ in hub.seen[before + 1 :]] == ["special_tokens_map.json"]
    assert find(sd) == folder and ids_of(folder, "") == padded([49406, 49407], 0)
    assert cli.main(["models", "verify", "sd"]) == 0


def test_a_model_that_was_fetched_but_is_not_whole_is_not_silently_done_without(hub: HubServer) -> None:
    """D_phi's own model, and the refiner, which a job takes by itself where they are there."""
    list(fetch(make_plan(model_named("sd"))))
    assert open_prior("sd", "cpu").describe()["phi"] == "shared"
    fetched_by_an_older_version(model_named("sd-phi"))
    with pytest.raises(ModelError, match=r"models fetch sd-phi$"):
        open_prior("sd", "cpu")
    assert open_prior("sd", "cpu", "shared").describe()["phi"] == "shared"
    refiner = model_named("sdxl-refiner")
    assert default_refiner("sd") == ""
    list(fetch(make_plan(refiner)))
    assert default_refiner("sd") == "sdxl-refiner"
    (home_of(refiner.sources[0]) / f"{UNET}.fp16.safetensors").unlink()
    with pytest.raises(ModelError, match=r"is missing.*models fetch sdxl-refiner$"):
        default_refiner("sd")


def test_a_source_with_another_pad_token_is_refused_before_its_weights(hub: HubServer) -> None:
    sd = model_named("sd")
    del hub.repos[sd.sources[0].id][EXTRA]
    with pytest.raises(ModelError, match=r"sd2-community.* cannot be used: .*trained with '!'"):
        list(fetch(make_plan(sd)))
    assert not [url for url, _ in hub.seen if url.endswith(".safetensors")]
    assert not (home_of(sd.sources[0]) / RECORD).exists() and find(sd) is None


def test_the_hubs_cache_counts_only_with_the_right_pad_token(hub: HubServer, base: Path) -> None:
    sd = model_named("sd")
    cache = Path(constants.HF_HUB_CACHE) / "models--sd2-community--stable-diffusion-2-1-base"
    snapshot = cache / "snapshots" / ("a" * 40)
    shutil.copytree(base, snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    assert sources.find(sd) == snapshot
    (snapshot / EXTRA).unlink()
    assert sources.find(sd) is None


def test_a_distilled_model_is_taken_without_guidance_and_says_so(base: Path) -> None:
    for sign in ({"timestep_spacing": "trailing"}, {"_class_name": "LCMScheduler"}):
        edit(base / "scheduler/scheduler_config.json", **sign)
        prior = open_prior(base, "cpu")
        assert prior.spec.guidance == 1
        assert (
            next(iter(sign.values())) in prior.take_notes()[0]
            and "guidance is set to 1" in prior.take_notes()[0]
        )
        edit(base / "scheduler/scheduler_config.json", timestep_spacing="leading")


def test_a_distilled_model_is_taken_with_a_guidance_stated(folders: dict[str, Path], tmp_path: Path) -> None:
    turbo = shutil.copytree(folders["sd-turbo"], tmp_path / "sd-turbo")
    (turbo / "dreamflow.json").write_text('{"guidance": 1}', "utf-8")
    assert open_prior(turbo, "cpu").spec.guidance == 1 and open_prior(turbo, "cpu").take_notes() == []
    assert ids_of(turbo, "") == padded([49406, 49407], 0)


@pytest.mark.parametrize("place", [".", "text_encoder"])
def test_an_adapter_beside_the_weights_is_refused(base: Path, place: str) -> None:
    (base / place / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}', "utf-8")
    with pytest.raises(ModelError, match=r"holds an adapter \(adapter_config\.json\)"):
        open_folder(base)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.uint8], ids=str)
def test_quantised_weights_without_a_word_in_the_configuration_are_refused(
    base: Path, dtype: torch.dtype
) -> None:
    file = base / f"{UNET}.safetensors"
    tensors = load_file(file)
    save_file(
        tensors | {"conv_in.weight": tensors["conv_in.weight"].to(dtype)}, file, metadata={"format": "pt"}
    )
    with pytest.raises(ModelError, match=r"holds numbers of type .*8.*, expected float16"):
        open_folder(base)


@pytest.mark.parametrize("name", ["v2-1_512-ema-pruned.safetensors", "pytorch_lora_weights.safetensors"])
def test_a_checkpoint_or_lora_alone_is_told_what_is_expected(tmp_path: Path, name: str) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(ModelError, match=rf"holds {name} without model_index\.json.*diffusers' layout"):
        open_folder(tmp_path)


def test_what_is_checked_and_hashed_is_what_is_loaded(base: Path) -> None:
    """Shards beside one file: diffusers takes the shards."""
    whole = base / f"{UNET}.safetensors"
    tensors = load_file(whole)
    save_file(
        {name: t + 1 for name, t in tensors.items()}, base / "unet" / "shard.safetensors", {"format": "pt"}
    )
    weight_map = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "shard.safetensors")}
    (base / f"{UNET}.safetensors.index.json").write_text(json.dumps(weight_map), "utf-8")
    model = open_folder(base)
    unet: Any = load_network(model, CPU).unet
    (used,) = model.weights["unet"]
    assert torch.equal(unet.state_dict()["conv_in.weight"], load_file(used)["conv_in.weight"])


def test_only_widths_differ_from_the_published_files() -> None:
    """The folders of these tests have every key of the published ones, and nothing else."""
    for files in published.MODELS.values():
        small = reduced(files)
        assert {name: list(value) for name, value in small.items()} == {
            name: list(value) for name, value in files.items()
        }
        for name in files:
            if name.split("/")[0] not in ("unet", "vae", "text_encoder", "text_encoder_2"):
                assert small[name] == files[name]
