"""Candidates: each stops where it should, is shown, and goes on as if it had never stopped."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from PIL import Image

from backend.__main__ import main
from backend.config import PRESETS
from backend.diffusion.prior import PriorSpec
from backend.jobs import generate, listing, resume
from backend.results.candidate import SIZE, VIEWS, read_views, score, without_haze
from backend.scene.scene import new_scene
from backend.stages.checkpoint_writer import newest
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import BadMessage, Cancelled, Finished, Job
from tests.tools.oracle import Oracle
from tests.tools.tiny import OVERRIDES, tiny_job

ITERATIONS = OVERRIDES["nerf.levels"] * OVERRIDES["nerf.views"]


@pytest.fixture(scope="module", autouse=True)
def ball():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.jobs.priors.open_prior", lambda *_: Oracle())
        yield


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    """Of a command with three candidates of one stage, whose folder is the last."""
    settings = [
        part for name, value in OVERRIDES.items() for part in ("--set", f"{name}={json.dumps(value)}")
    ]
    root = tmp_path_factory.mktemp("é candidates") / "out"
    return [
        "generate",
        "a ball",
        "--candidates",
        "3",
        "--threads",
        "1",
        *settings,
        "--stages",
        "nerf",
        "--out",
        str(root),
    ]


@pytest.fixture(scope="module")
def begun(options) -> Path:
    assert main([*options, "--until", "0.4"]) == 0
    return Path(options[-1])


@pytest.mark.slow
def test_a_candidate_goes_on_to_the_bytes_of_its_seed_alone(tmp_path) -> None:
    alone, candidate = tmp_path / "alone", tmp_path / "candidate"
    assert isinstance(list(generate.generate(tiny_job(alone, stages=("nerf",))))[-1], Finished)
    stopped = list(generate.generate(tiny_job(candidate, stages=("nerf",)), until=0.3))[-1]
    assert isinstance(stopped, Cancelled) and {"candidate.png", "candidate.json", "checkpoint"} <= set(
        stopped.paths
    )
    assert isinstance(list(resume.resume(candidate))[-1], Finished)
    for name in ("mesh.npz", "mesh.glb", "albedo.png"):
        assert (candidate / name).read_bytes() == (alone / name).read_bytes(), name


def test_more_like_this_is_the_same_to_half_of_stage_1_and_another_after_it(begun, tmp_path) -> None:
    """Of a candidate, which has come to 0.4 of it; the half is 12 of 24 iterations."""
    source = begun / "a-ball-43"
    new = tmp_path / "new"
    assert main(["like", str(source), "--seed", "7", "--out", str(new)]) == 0
    job = JobFolder(new).read_job()
    assert (job.seed, job.like, job.threads, job.overrides) == (
        7,
        43,
        1,
        JobFolder(source).read_job().overrides,
    )
    states = {}
    for name, changes in {
        "one": {"seed": 43},
        "other": {"seed": 7, "like": 43},
        "third": {"seed": 8, "like": 43},
    }.items():
        for until in (11.5 / ITERATIONS, 13.5 / ITERATIONS):
            made = tiny_job(tmp_path / f"{name}-{until:.2f}", stages=("nerf",), **changes)
            list(generate.generate(made, until=until))
            states[name, until > 0.5] = newest(Path(made.folder), made.id)[0]
    for name in ("other", "third"):
        half, past = ([states[other, late].tensors for other in ("one", name)] for late in (False, True))
        assert states[name, False].iteration == 12
        assert torch.equal(half[0]["field.table"], half[1]["field.table"])
        assert not torch.equal(past[0]["field.table"], past[1]["field.table"])
    assert not torch.equal(
        states["other", True].tensors["field.table"], states["third", True].tensors["field.table"]
    )


@pytest.mark.slow
def test_more_like_this_is_resumed_to_the_same_bytes(tmp_path) -> None:
    whole, parts = (
        tiny_job(tmp_path / name, stages=("nerf",), seed=7, like=43) for name in ("whole", "parts")
    )
    assert isinstance(list(generate.generate(whole))[-1], Finished)
    list(generate.generate(parts, until=11.5 / ITERATIONS))  # just where the seed is changed
    assert isinstance(list(resume.resume(Path(parts.folder)))[-1], Finished)
    assert (tmp_path / "parts" / "mesh.npz").read_bytes() == (tmp_path / "whole" / "mesh.npz").read_bytes()


def test_a_refined_object_has_nothing_to_begin_with(tmp_path, capfd) -> None:
    job = Job("1", "refine", "a mug", str(tmp_path), mesh="mug.glb", stages=("refine",))
    (tmp_path / "job.json").write_text(json.dumps({"job": asdict(job)}))
    assert main(["like", str(tmp_path)]) == 2
    assert "no stage 1" in capfd.readouterr().err
    with pytest.raises(BadMessage, match="no stage 1"):
        replace(job, like=3)


def test_each_seed_stops_at_its_share_and_all_are_on_the_sheet(begun) -> None:
    record = json.loads((begun / "candidates.json").read_text())
    assert sorted(one["seed"] for one in record["candidates"]) == [42, 43, 44]
    scores = [one["score"] for one in record["candidates"]]
    assert scores == sorted(scores), "the best is not the first"
    for one in record["candidates"]:
        files = JobFolder(begun / one["folder"])
        figures = json.loads(files.candidate.read_text())
        assert figures["iterations"] == 10 and figures["score"] == one["score"]  # 0.4 of 24, rounded up
        assert isinstance(files.last_event(), Cancelled)
        assert Image.open(files.candidate_png).size == (2 * SIZE, 2 * SIZE)
        assert read_views(files.candidate_png).shape == (VIEWS, SIZE, SIZE, 3)
    assert Image.open(begun / "candidates.png").size[1] > 3 * SIZE


def test_the_same_command_again_begins_nothing(begun, options, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in begun.glob("*/*")}
    assert main([*options, "--until", "0.4"]) == 0
    assert {path: path.stat().st_mtime_ns for path in begun.glob("*/*")} == before
    assert "python -m backend resume" in capsys.readouterr().out


def test_one_that_was_interrupted_is_begun_again(begun, options) -> None:
    worst = json.loads((begun / "candidates.json").read_text())["candidates"][-1]
    files = JobFolder(begun / worst["folder"])
    shown = files.candidate_png.read_bytes()
    files.candidate.unlink()  # as where it was killed before its end
    assert main([*options, "--until", "0.4"]) == 0
    assert files.candidate_png.read_bytes() == shown
    assert json.loads(files.candidate.read_text())["score"] == worst["score"]


def test_the_best_one_is_finished_where_nobody_chooses(begun, options) -> None:
    best, *others = json.loads((begun / "candidates.json").read_text())["candidates"]
    assert main([*options, "--pick", "best"]) == 0
    assert isinstance(JobFolder(begun / best["folder"]).last_event(), Finished)
    assert [listing.look(begun / one["folder"]).state for one in (best, *others)] == [
        "finished",
        "candidate",
        "candidate",
    ]
    other = tiny_job(begun / "another-choice", stages=("nerf",), seed=5)  # whose group nobody has chosen from
    list(generate.generate(other, until=0.1))
    assert listing.clean_jobs(begun) > 0
    assert not any(JobFolder(begun / one["folder"]).checkpoints.exists() for one in (best, *others))
    assert JobFolder(other.folder).checkpoints.exists(), "a choice that is still open lost its checkpoint"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--candidates", "1"], "expected 2 to 16"),
        (["--candidates", "4", "--until", "1"], "less than 1"),
        (["--pick", "best"], "Add --candidates N"),
        (["--candidates", "4", "--json"], "candidates.json"),
        (["--candidates", "3", "--seed", str(2**31 - 2)], "smaller --seed"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_made(given, said, tmp_path, capfd) -> None:
    assert main(["generate", "a ball", *given, "--out", str(tmp_path / "out")]) == 2
    captured = capfd.readouterr()
    assert said in captured.out + captured.err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_job_stops_all_before_the_first(options, tmp_path, capfd) -> None:
    other = tiny_job(tmp_path / "out" / "a-ball-43", stages=("nerf",), seed=7)
    list(generate.generate(other, until=0.1))
    assert main([*options[:-1], str(tmp_path / "out")]) == 2
    assert "holds another job" in capfd.readouterr().err
    assert not (tmp_path / "out" / "a-ball-42").exists()


class Halves:
    """Knows rings of two, and wants each view, by its camera, half or three halves as bright in all latents."""

    spec = PriorSpec(frames=2)
    asked: ClassVar[list[tuple[float, float]]] = []

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(image), 4, 2, 2)

    def denoise(self, z, level, camera, conditioning, guidance_scale) -> torch.Tensor:
        assert conditioning == "a ball" and guidance_scale == 1
        self.asked.append((float(camera.azimuth[0]), float((z - 1).std() / level.sigma)))
        return torch.where((camera.azimuth + 10) % 180 < 90, 0.5, 2.5)[:, None, None, None].expand(z.shape)


def test_the_score_is_of_the_same_views_under_the_same_noise() -> None:
    scene = new_scene(PRESETS["draft"].nerf, torch.device("cpu"), 1)
    once, again = (score(scene, Halves(), "a ball", 16) for _ in range(2))
    assert once == again
    assert [azimuth for azimuth, _ in Halves.asked] == [0.0, 45.0, 90.0, 135.0] * 2
    assert all(0.5 < noise < 1.5 for _, noise in Halves.asked)
    # Half of the views by 0.5, the others by 1.5: a mean of 1 and a deviation of a half.
    assert once == {"gap": pytest.approx(1.0), "spread": pytest.approx(0.5), "score": pytest.approx(1.5)}


def test_haze_goes_and_what_is_there_keeps_its_colour() -> None:
    background, red = torch.full((3,), 0.9), torch.tensor([0.8, 0.1, 0.1])
    opacity = torch.tensor([0.0, 0.5, 0.95, 1.0]).reshape(1, 1, 4, 1)
    image = red * opacity + background * (1 - opacity)
    shown = without_haze(image, opacity, background)
    torch.testing.assert_close(shown[0, 0], torch.stack([background, background, red, red]))


def test_where_the_reader_has_gone_what_there_is_is_kept(options, tmp_path, monkeypatch) -> None:
    """As in `generate ... --candidates 3 | head -1`."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr("sys.stdout", out)
        os.close(reader)
        assert main([*options[:-1], str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out" / "candidates.json").exists()
