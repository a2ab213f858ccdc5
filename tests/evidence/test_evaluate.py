"""R-precision on cases that are known and beside a direct computation, and `evaluate` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from backend import __main__ as cli
from backend.errors import InputError, ModelError
from backend.evidence import clip, gpteval3d, recovery
from backend.evidence.clip import Clip, bootstrap, pixel_statistics, r_precision, render_views
from backend.meshes.write import write_result
from backend.objects.shapes import KINDS
from backend.scene.mesh import Mesh
from dreamflow_blender.contract.protocol import Job
from tests.tools.tiny_models import save_tokenizer

PROMPTS = ["a ball", "a red mug", "a blue teapot"]
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = TEXT | {"image_size": 32, "patch_size": 8}


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tïny clip"
    save_tokenizer(folder)
    torch.manual_seed(0)
    text = TEXT | {"vocab_size": 514, "eos_token_id": 513, "max_position_embeddings": 40}
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job: a tetrahedron."""
    folder = tmp_path_factory.mktemp("jobs") / "ball"
    folder.mkdir()
    corners = torch.tensor([(1.0, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) * 0.28
    faces = torch.tensor([(0, 1, 2), (0, 2, 3), (0, 3, 1), (1, 3, 2)])
    mesh = Mesh(
        corners, faces, torch.tensor([(0.1, 0.1), (0.9, 0.1), (0.5, 0.9)]), torch.tensor([(0, 1, 2)] * 4)
    )
    albedo = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0))
    write_result(folder, mesh, albedo, {"prompt": "a ball"})
    record = {"job": vars(Job("one", "generate", "a ball", str(folder)))}
    (folder / "job.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_r_precision_by_hand() -> None:
    texts = torch.eye(3)
    images = torch.tensor([(1.0, 0, 0), (0.8, 0.6, 0), (0, 1, 0), (0.6, 0, 0.8)])
    assert [r_precision(images, texts, own) for own in range(3)] == [0.5, 0.25, 0.25]


def test_the_intervals_are_those_of_the_mean() -> None:
    assert bootstrap([0.5] * 7) == (0.5, 0.5)
    low, high = bootstrap([0.0] * 50 + [1.0] * 50)
    assert low == pytest.approx(0.4, abs=0.02) and high == pytest.approx(0.6, abs=0.02)  # 0.5 -+ 1.96 * 0.05
    assert bootstrap([0.1, 0.9, 0.4]) == bootstrap([0.1, 0.9, 0.4])


def test_embeddings_are_those_of_the_model_itself(tiny_clip: Path) -> None:
    ours, model = Clip(str(tiny_clip)), CLIPModel.from_pretrained(tiny_clip).eval()
    images = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    pixels = torch.from_numpy((images.numpy() - np.array(clip.MEAN)) / np.array(clip.STD)).float()
    tokens = [ours._tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in PROMPTS]
    with torch.no_grad():
        direct = [model(input_ids=ids, pixel_values=pixels.permute(0, 3, 1, 2)) for ids in tokens]
    logits = torch.cat([one.logits_per_image for one in direct], 1) / model.logit_scale.exp()
    cosines = ours.images(images) @ ours.texts(PROMPTS).T
    assert torch.allclose(cosines, logits, atol=1e-5)
    assert r_precision(ours.images(images), ours.texts(PROMPTS), 1) == float(
        (logits.argmax(1) == 1).float().mean()
    )


def test_an_unfit_model_or_prompt_is_met_with_a_clear_word(tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no CLIP model") as caught:
        Clip(str(tmp_path))
    assert caught.value.todo
    with pytest.raises(ModelError, match="There is no folder a/b/c"):
        Clip("a/b/c")
    with pytest.raises(InputError, match="too long: CLIP reads 40"):
        Clip(str(tiny_clip)).texts(["a very long prompt" * 9])


def test_a_models_own_pixel_statistics_are_used(tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    assert pixel_statistics(path)[0].flatten().tolist() == pytest.approx(clip.MEAN)
    path.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}), encoding="utf-8")
    mean, std = pixel_statistics(path)
    assert mean.shape == (3, 1, 1) and std.flatten().tolist() == [1, 2, 3]


def test_jobs_are_judged_as_typed(
    job: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clip, "VIEWS", 3)
    monkeypatch.setattr(clip, "SIZE", 32)
    monkeypatch.setenv("XDG_CACHE_HOME", str(job.parent / "cache"))
    prompts = job.parent / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS), encoding="utf-8")
    assert cli.main(["evaluate", str(job), "--prompts", str(prompts), "--clip", str(tiny_clip)]) == 0
    said = capsys.readouterr().out
    judge = Clip(str(tiny_clip))
    expected = r_precision(judge.images(render_views(*recovery.read_result(job))), judge.texts(PROMPTS), 0)
    assert said.splitlines()[1].split() == ["ball", f"{expected:.3f}"]
    assert "R = 1 of 3 prompts" in said and "field of view 50 degrees, background 1." in said

    prompts.write_text("a red mug\n", encoding="utf-8")
    assert cli.main(["evaluate", str(job), "--prompts", str(prompts), "--clip", str(tiny_clip)]) == 2
    assert "which the prompts do not hold" in capsys.readouterr().err
    assert cli.main(["evaluate", str(job), "--prompts", str(prompts)]) == 2
    assert "nothing to judge by" in capsys.readouterr().err


def test_the_truth_of_a_tetrahedron_that_is_called_a_ball(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recovery, "CELLS", 16)
    monkeypatch.setattr(recovery, "KIND_VIEWS", 2)
    monkeypatch.setattr(recovery, "KIND_SIZE", 24)
    monkeypatch.setattr(recovery, "KINDS", {kind: KINDS[kind] for kind in ("cube", "ball", "mug")})
    prompts = job.parent / "balls.txt"
    prompts.write_text("a ball\n", encoding="utf-8")
    assert cli.main(["evaluate", str(job), "--prompts", str(prompts), "--truth"]) == 0
    heading, row, *_ = capsys.readouterr().out.splitlines()
    iou = float(row.split()[heading.split().index("IoU")])
    assert (
        0.3 < iou < 0.75
    )  # it lies inside the ball of radius 0.5, and its silhouettes fill half of the disc
    assert row.split()[-1] in ("cube", "ball", "mug") and heading.split()[-4:] == [
        "error",
        "chamfer",
        "normals",
        "nearest",
    ]


def test_a_network_is_asked_once_about_the_same_result(
    job: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clip, "VIEWS", 2)
    monkeypatch.setattr(clip, "SIZE", 32)
    monkeypatch.setattr(clip, "user_cache_path", lambda *_, **__: tmp_path)
    mesh, albedo = recovery.read_result(job)
    first = Clip(str(tiny_clip)).results(mesh, albedo)
    with monkeypatch.context() as nothing_is_rendered:
        nothing_is_rendered.setattr(clip, "render_views", lambda *_: pytest.fail("asked again"))
        assert torch.equal(Clip(str(tiny_clip)).results(mesh, albedo), first)
    assert not torch.equal(Clip(str(tiny_clip)).results(mesh, 1 - albedo), first)


def test_renders_in_the_layout_of_gpteval3d(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpteval3d, "VIEWS", 4)
    monkeypatch.setattr(gpteval3d, "SIZE", 33)
    prompts = job.parent / "prompts.json"
    prompts.write_text(json.dumps(["a red mug", "a ball"]), encoding="utf-8")
    method = job.parent / "ours"
    assert (
        cli.main(["evaluate", str(job), "--prompts", str(prompts), "--export", "gpteval3d", str(method)]) == 0
    )
    folder = method / "1" / "42"
    names = {f"{name}_{index}.png" for name in ("rgb", "normal") for index in range(4)}
    assert {path.name for path in folder.iterdir()} == names
    assert str(method) in capsys.readouterr().out
    # Azimuth 0 looks along +y at the tetrahedron's corner: what is seen faces the camera, so its normals point to -y
    normals = np.asarray(Image.open(folder / "normal_0.png").convert("RGB")).astype(float) / 255 * 2 - 1
    seen = np.linalg.norm(normals, axis=2) < 1.1
    assert 0.05 < seen.mean() < 0.9 and normals[seen][:, 1].mean() < -0.3
    assert np.linalg.norm(normals[seen], axis=1) == pytest.approx(1, abs=0.02)
    assert (
        cli.main(["evaluate", str(job), "--prompts", str(prompts), "--export", "t3bench", str(method)]) == 2
    )
