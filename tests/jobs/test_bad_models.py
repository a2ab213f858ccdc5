"""Priors that are missing, damaged, dangerous or do not fit, as the command line meets them."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamflow_blender.contract.protocol import Failed, Progress
from tests.tools.command import ask, old_job, tiny, tree
from tests.tools.events import read_events
from tests.tools.oracle import Oracle
from tests.tools.tiny_models import build

WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "sd21-base", "sd21-base")


@pytest.fixture
def model(pristine, tmp_path, monkeypatch) -> Path:
    """A tiny Stable Diffusion to damage; the working directory is an empty one beside it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return shutil.copytree(pristine, tmp_path / "model")


def refused(capfd, prior: Path | str, **settings: object) -> str:
    """What is said of this prior; nothing is made, and an older job stays as it is."""
    here = Path.cwd()
    before = tree(old_job(here / "old")) if not (here / "old").exists() else tree(here / "old")
    answer = ask(
        capfd, "a red mug", "--prior", str(prior), "--out", "old", "--overwrite", run=tiny(**settings)
    )
    expected = (2, "input") if settings else (1, "model")
    assert (answer.code, answer.kind) == expected, answer
    assert tree(here / "old") == before
    return f"{answer.message} {answer.todo}"


def test_a_prior_that_is_not_there(model, capfd):
    for name in (
        str(model / "none"),
        "stabilityai/no-such-model",
        "~nobody-of-that-name/model",
        "x" * 10_000,
    ):
        said = refused(capfd, name)
        assert "diffusers' layout" in said and len(said) < 12_000
    answer = ask(capfd, "a red mug", "--prior", str(model / "none"))
    assert answer.code == 1 and sorted(p.name for p in Path.cwd().iterdir()) == ["old"]
    assert "single file, expected a folder" in refused(capfd, model / "model_index.json")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("end", [".bin", ".ckpt", ".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("component", WEIGHTS)
def test_pickles_are_refused_unopened(model, tmp_path, capfd, component, end):
    marker = tmp_path / "opened"
    trap = pickle.dumps(Trap(marker))
    pickle.loads(trap)
    assert marker.exists()  # the trap works
    marker.unlink()
    weights = model / WEIGHTS[component]
    weights.unlink()
    weights.with_suffix(end).write_bytes(trap)
    said = refused(capfd, model)
    if end == ".safetensors":  # in disguise
        assert f"{weights.name} is missing, truncated or damaged" in said
    else:
        assert f"only as {weights.stem}{end}" in said and "safetensors" in said
    assert not marker.exists()


def test_a_checkpoint_instead_of_a_folder(model, tmp_path, capfd):
    marker = tmp_path / "opened"
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "v2-1_512-ema-pruned.CKPT").write_bytes(pickle.dumps(Trap(marker)))
    for path in (alone, alone / "v2-1_512-ema-pruned.CKPT"):
        assert "only as v2-1_512-ema-pruned.CKPT, which can run code" in refused(capfd, path)
    (model / WEIGHTS["unet"]).unlink()
    (model / "unet" / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(marker)))
    shards = {"weight_map": {"conv_in.weight": "pytorch_model.bin"}}
    (model / (WEIGHTS["unet"] + ".index.json")).write_text(json.dumps(shards))
    assert "pytorch_model.bin is missing, truncated or damaged" in refused(capfd, model)
    assert not marker.exists()


@pytest.mark.parametrize("component", WEIGHTS)
def test_truncated_weights(model, capfd, component):
    weights = model / WEIGHTS[component]
    whole = weights.read_bytes()
    for kept in (len(whole) - 1, len(whole) // 2, 100, 0):
        weights.write_bytes(whole[:kept])
        assert f"{weights.name} is missing, truncated or damaged" in refused(capfd, model)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("unet/config.json", {"in_channels": 9}, "in_channels 9, expected 4"),
        ("unet/config.json", {"cross_attention_dim": 768}, "cross_attention_dim 768, expected 16"),
        ("unet/config.json", {"sample_size": 0}, "sample_size"),
        ("vae/config.json", {"latent_channels": 16}, "in_channels 4, expected 16"),
        ("vae/config.json", {"block_out_channels": []}, "block_out_channels"),
        ("text_encoder/config.json", {"hidden_size": 1024}, "cross_attention_dim 16, expected 1024"),
        ("scheduler/scheduler_config.json", {"beta_end": 0.02}, "beta_end is 0.02, expected 0.012"),
        (
            "model_index.json",
            {"_class_name": "FluxPipeline"},
            "FluxPipeline (a flow model has other noise levels)",
        ),
        ("model_index.json", {"unet": 5}, "unet is of class None"),
        ("unet/config.json", {"block_out_channels": [8, 16, 16, 24]}, "unet cannot be loaded"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_parts_that_do_not_fit(model, capfd, file, change, says):
    path = model / file
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    assert says in refused(capfd, model)


def test_text_of_another_width(model, capfd):
    """The configuration fits, the tensors do not."""
    path = model / WEIGHTS["unet"]
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("attn2.to_k.weight"))
    save_file(tensors | {name: torch.zeros(len(tensors[name]), 24)}, path)
    assert "unet cannot be loaded" in refused(capfd, model)


def test_a_folder_that_cannot_be_read(model, capfd):
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("everything can be read here")
    model.chmod(0)
    try:
        assert "cannot be read" in refused(capfd, model)
    finally:
        model.chmod(0o700)


@pytest.mark.parametrize("stage", ["nerf", "geometry", "texture", "refine"])
def test_a_size_that_the_vae_cannot_take(model, capfd, stage):
    """Said before the first stage, not hours later in the one that it belongs to."""
    says = "cannot take an image of 68 x 68 pixels (fed as 68 x 68). Render at a size whose sides are multiples of 8"
    assert says in refused(capfd, model, **{f"{stage}__size": 68})


def test_a_prompt_longer_than_the_text_encoder_takes(model, capfd):
    answer = ask(capfd, "mug " * 240, "--prior", str(model), run=tiny())
    assert (answer.code, answer.kind) == (2, "input")
    assert "the model takes 300" in answer.message and "Shorten" in answer.todo
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("component", "tensor"), [("unet", "D_p"), ("vae", "render"), ("text_encoder", "D_p")]
)
def test_nan_in_the_weights(model, capfd, component, tensor):
    path = model / WEIGHTS[component]
    tensors = load_file(path)
    name = max((name for name in tensors if "decoder" not in name), key=lambda name: tensors[name].numel())
    tensors[name][:] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    answer = ask(capfd, "a mug", "--prior", str(model), "--out", "o", run=tiny())
    assert (answer.code, answer.kind) == (1, "numerics")
    assert answer.message == f"Stage nerf, iteration 0: {tensor} holds a NaN or an infinity."
    assert sorted(tree(Path("o"))) == ["events.jsonl", "job.json"]


class Failing(Oracle):
    """Answers with a NaN from the k-th call on."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def denoise(self, *args, **kwargs):
        right = super().denoise(*args, **kwargs)
        return right * torch.nan if self.calls > self.k else right


@pytest.mark.parametrize(
    ("k", "stage", "iteration"), [(7, "nerf", 7), (14, "geometry", 2), (17, "texture", 1), (23, "refine", 3)]
)
def test_nan_in_the_middle(tmp_path, monkeypatch, capfd, k, stage, iteration):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("backend.jobs.priors.open_prior", lambda *_: Failing(k))
    answer = ask(capfd, "a ball", "--prior", "exact", "--out", "o", "--threads", "1", run=tiny())
    assert (answer.code, answer.kind) == (1, "numerics")
    assert answer.message == f"Stage {stage}, iteration {iteration}: D_p holds a NaN or an infinity."
    assert "another seed" in answer.todo
    events = read_events(tmp_path / "o")
    assert events[-1] == Failed("numerics", answer.message, answer.todo)
    assert all(event.loss is not None for event in events if isinstance(event, Progress))
    left = {name for name in tree(tmp_path / "o") if not name.startswith("checkpoints")}
    left -= {"preview.png"}  # one is drawn where the run takes longer than five seconds
    assert left == {"events.jsonl", "job.json"}  # no mesh of a scene that went wrong
