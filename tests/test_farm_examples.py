"""What lies in examples/farm is what schedulers take, and runs the commands that there are."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from backend.cli.arguments import parser
from backend.config import PRESETS
from dreamflow_blender.contract.prompts import read_shard, shard_of_array
from tests.tools.published_plan import Published, plan_of

ROOT = Path(__file__).parents[1]
FARM = ROOT / "examples" / "farm"
needs_bash = pytest.mark.skipif(
    os.name == "nt" or not shutil.which("bash"), reason="a script for Linux's bash"
)


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """Stands in for the backend's Python: adds its arguments to calls.txt, a JSON list a line."""
    program = tmp_path / "python"
    code = f"import json, sys; open({str(tmp_path / 'calls.txt')!r}, 'a').write(json.dumps(sys.argv[1:]) + chr(10))"
    program.write_text(f'#!/bin/sh\nexec \'{sys.executable}\' -c "{code}" "$@"\n')
    program.chmod(0o755)
    return program


def calls(recorder: Path) -> list[Any]:
    lines = recorder.with_name("calls.txt").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert all(call[:2] == ["-m", "backend"] for call in found)
    return [parser().parse_args(call[2:]) for call in found]


@needs_bash
def test_the_sbatch_script_runs_batch_with_whole_paths(tmp_path: Path, recorder: Path) -> None:
    (tmp_path / "my prompts.txt").write_text("a red mug\n")
    assert (
        "#SBATCH --signal=B:TERM@" in (FARM / "batch.sbatch").read_text()
    )  # without B: only srun's steps hear it
    ran = subprocess.run(
        ["bash", FARM / "batch.sbatch", "my prompts.txt", "mesh es", "--preset", "fast"], cwd=tmp_path,
        env=os.environ | {"DREAMFLOW": str(ROOT), "DREAMFLOW_PYTHON": str(recorder)}, check=False,
    )  # fmt: skip
    (call,) = calls(recorder)
    assert ran.returncode == 0 and call.command == "batch" and call.preset == "fast"
    assert (call.list, call.out) == (tmp_path / "my prompts.txt", tmp_path / "mesh es")


def test_the_kubernetes_job_has_a_shard_for_each_completion() -> None:
    job = yaml.safe_load((FARM / "kubernetes.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed"  # else there is no JOB_COMPLETION_INDEX
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["restartPolicy"] in ("OnFailure", "Never")  # all that a Job takes
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    typed = container["command"]
    assert typed[1:3] == ["-m", "backend"]
    last = {"JOB_COMPLETION_INDEX": str(spec["completions"] - 1)}
    shard = typed[typed.index("--shard") + 1]
    assert read_shard(shard, last) == (spec["completions"], spec["completions"])


def test_kubernetes_s_schema_takes_the_job() -> None:
    kubernetes = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not here: .ci/farm"
    )
    job = yaml.safe_load((FARM / "kubernetes.yaml").read_text())
    kubernetes.validate(job, kubernetes.latest_version(), strict=True)
    job["spec"]["completionmode"] = job["spec"].pop("completionMode")
    with pytest.raises(kubernetes.ValidationError, match="'completionmode' was unexpected"):
        kubernetes.validate(job, kubernetes.latest_version(), strict=True)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"ID": "0", "COUNT": "4", "MIN": "0"}, (1, 4)),
        ({"ID": "4", "COUNT": "4", "MIN": "1"}, (4, 4)),
        ({"ID": "6", "COUNT": "4", "MIN": "0", "STEP": "2"}, (4, 4)),
        ({"ID": "6"}, None),
        ({}, None),
    ],
)
def test_slurm_s_array_is_a_shard_whatever_it_counts_from(said: dict[str, str], expected: Any) -> None:
    assert shard_of_array({f"SLURM_ARRAY_TASK_{name}": value for name, value in said.items()}) == expected


def test_an_array_with_gaps_is_refused_rather_than_left_out() -> None:
    with pytest.raises(ValueError, match="I from 1 to N"):
        shard_of_array({f"SLURM_ARRAY_TASK_{k}": v for k, v in {"ID": "5", "MIN": "3", "COUNT": "2"}.items()})


@needs_bash
@pytest.mark.slow
def test_openjd_runs_every_shard_once(tmp_path: Path, recorder: Path) -> None:
    pytest.importorskip("openjd.model", reason="openjd-cli is not installed")
    (tmp_path / "list.txt").write_text("a red mug\n")
    given = {
        "List": tmp_path / "list.txt",
        "Out": tmp_path / "out",
        "Dreamflow": ROOT,
        "Python": recorder,
        "Shards": 3,
    }
    ran = subprocess.run(
        [Path(sys.executable).with_name("openjd"), "run", FARM / "openjd.yaml",
         *(word for name, value in given.items() for word in ("-p", f"{name}={value}"))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert [(call.shard, call.list) for call in calls(recorder)] == [
        ((n, 3), tmp_path / "list.txt") for n in (1, 2, 3)
    ]


def test_openjd_asks_for_the_least_card_that_the_plan_fits_into() -> None:
    def fits(preset: str, mebibytes: int) -> bool:
        sd, refiner = Published("sd21-base", "sd21"), Published("refiner")
        return plan_of(preset, mebibytes * 2**20 / 1e9, sd, {"refine": refiner}).fits

    for name in ("openjd.yaml", "openjd-prompts.yaml"):
        text = (FARM / name).read_text()
        (step,) = yaml.safe_load(text)["steps"]
        asked = {one["name"]: one["min"] for one in step["hostRequirements"]["amounts"]}
        mebibytes = asked["amount.worker.gpu.memory"]
        assert (asked["amount.worker.gpu"], mebibytes % 1024) == (1, 0)
        assert all(fits(preset, mebibytes) for preset in PRESETS)
        assert not fits("paper", mebibytes - 1024)
        (draft,) = re.findall(r"(\d+) for --preset draft", text)
        assert fits("draft", int(draft)) and not fits("draft", int(draft) - 1024)


SEEDS = (
    3 if int(os.environ.get("KILLS", "6")) >= 60 else 1
)  # three every night: see tests/faults/test_killed.py
TINY = (
    "--prior exact --threads 1 --set nerf.levels=8 --set nerf.views=2 --set nerf.size=24 --set nerf.samples=16"
    " --set geometry.levels=2 --set geometry.views=2 --set geometry.cells=10 --set geometry.size=32"
    " --set texture.levels=2 --set texture.size=32 --set refine.levels=2 --set refine.views=1 --set refine.size=64"
    " --set delivery.texture_size=64 --set delivery.max_faces=200"
)


def run_prompts(out: Path, kill: Callable[[psutil.Process, Path], None] | None = None) -> tuple[int, str]:
    """The template of 2 prompts x SEEDS seeds, by openjd; `kill` is shown each backend that runs, and its folder."""
    given = {"Out": out, "Dreamflow": ROOT, "Python": sys.executable, "Seeds": f"1-{SEEDS}", "Options": TINY}
    with (out.parent / "openjd.log").open("w+") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("openjd"), "run", FARM / "openjd-prompts.yaml",
             *(word for name, value in given.items() for word in ("-p", f"{name}={value}"))],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        while process.poll() is None:
            time.sleep(0.05)
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True) if kill else []:
                    typed = child.cmdline()
                    if kill and typed[1:4] == ["-m", "backend", "generate"]:
                        kill(child, Path(typed[typed.index("--out") + 1]))
        log.seek(0)
        return process.returncode, log.read()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.name == "nt", reason="its signals are POSIX's")
def test_prompts_by_openjd_that_are_killed_once_each_have_the_undisturbed_bytes(tmp_path: Path) -> None:
    pytest.importorskip("openjd.model", reason="openjd-cli is not installed")
    code, said = run_prompts(tmp_path / "undisturbed")
    assert code == 0, said[-3000:]
    shares = [float(share) for share in re.findall(r"openjd_progress: ([\d.]+)", said)]
    assert max(shares) == 100.0 and all(0 < share <= 100 for share in shares)
    killed: dict[str, int] = {}
    draw = random.Random(24)

    def kill(process: psutil.Process, folder: Path) -> None:
        if folder.name not in killed and (folder / "events.jsonl").exists() and draw.random() < 0.2:
            killed[folder.name] = (signal.SIGTERM, signal.SIGKILL)[len(killed) % 2]
            process.send_signal(killed[folder.name])

    codes = []
    while not codes or codes[-1] != 0:
        codes.append(run_prompts(tmp_path / "killed", kill)[0])
        assert len(codes) <= 7
    print(killed, codes)
    names = sorted(path.name for path in (tmp_path / "undisturbed").iterdir())
    assert len(names) == 2 * SEEDS and sorted(killed) == names
    for name in names:
        for file in ("mesh.glb", "albedo.png", "mesh.npz"):
            one, other = (tmp_path / way / name / file for way in ("undisturbed", "killed"))
            assert one.read_bytes() == other.read_bytes(), (name, file)


FLAMENCO = """
const job = {settings: %s, tasks: [], addTask(task) { this.tasks.push(task); }};
const author = {
    Task: (name, type) => ({name, type, commands: [], addCommand(command) { this.commands.push(command); }}),
    Command: (name, parameters) => ({name, parameters}),
};
%s
compileJob(job);
console.log(JSON.stringify({settings: JOB_TYPE.settings, tasks: job.tasks}));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")
def test_the_flamenco_job_has_a_task_for_each_shard() -> None:
    given = {"batch_py": "/x/batch.py", "list": "/s/my list.txt", "out": "/s/out", "shards": 3, "preset": "fast",
             "prior": "mini", "python": ""}  # fmt: skip
    script = FLAMENCO % (json.dumps(given), (FARM / "dreamflow.js").read_text())
    ran = subprocess.run(["node", "-e", script], capture_output=True, text=True, check=True)
    made = json.loads(ran.stdout)
    assert {one["key"] for one in made["settings"]} == set(given)
    assert [task["name"] for task in made["tasks"]] == [f"shard-{n}-of-3" for n in (1, 2, 3)]
    source = (ROOT / "dreamflow_blender" / "batch.py").read_text()
    for number, task in enumerate(made["tasks"], 1):
        ((command),) = task["commands"]
        assert (task["type"], command["name"], command["parameters"]["exe"]) == (
            "blender",
            "exec",
            "{blender}",
        )
        args = command["parameters"]["args"]
        own = args[args.index("--") + 1 :]
        assert own == ["--prompts", "/s/my list.txt", "--out", "/s/out", "--preset", "fast", "--prior", "mini",
                       "--shard", f"{number}/3"]  # fmt: skip
        assert f'"{own[0]}"' in source and '"--shard"' in source


BLENDER = """
import runpy, sys
import bpy
given = sys.argv[1:]
assert given[:4] == ["-b", "--python-exit-code", "1", "-P"] and given[5] == "--", given
sys.argv = ["blender", *given]
runpy.run_path(given[4], run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")
@pytest.mark.skipif("DREAMFLOW_BPY_PYTHON" not in os.environ, reason="no bpy here: set DREAMFLOW_BPY_PYTHON")
def test_the_flamenco_tasks_make_every_mesh_once(tmp_path: Path) -> None:
    """As Flamenco's worker runs them: Blender's batch, a shard a task, on the embedded prior; then once more."""
    settings = {"nerf.levels": 6, "nerf.views": 1, "nerf.samples": 16, "geometry.levels": 2, "geometry.views": 1,
                "geometry.cells": 10, "texture.levels": 2, "texture.views": 1, "refine.levels": 2, "refine.views": 1,
                "delivery.texture_size": 64, "delivery.max_faces": 300}  # fmt: skip
    rows = [",".join(["prompt", "seed", *settings])]
    rows += [",".join(["a red mug", str(seed), *map(str, settings.values())]) for seed in (1, 2, 3)]
    (tmp_path / "my list.csv").write_text("\n".join(rows))
    (tmp_path / "blender.py").write_text(BLENDER)
    given = {"batch_py": str(ROOT / "dreamflow_blender" / "batch.py"), "list": str(tmp_path / "my list.csv"),
             "out": str(tmp_path / "out"), "shards": 2, "preset": "draft", "prior": "mini",
             "python": sys.executable}  # fmt: skip
    script = FLAMENCO % (json.dumps(given), (FARM / "dreamflow.js").read_text())
    made = json.loads(subprocess.run(["node", "-e", script], capture_output=True, check=True).stdout)
    environment = os.environ | {"BLENDER_USER_RESOURCES": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    states: list[list[str]] = []
    for _ in range(2):
        for task in made["tasks"]:
            typed = task["commands"][0]["parameters"]["args"]
            ran = subprocess.run(
                [os.environ["DREAMFLOW_BPY_PYTHON"], tmp_path / "blender.py", *typed], env=environment, check=False,
                capture_output=True, text=True,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
        reports = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("report*.json"))]
        states.append([row["state"] for report in reports for row in report["prompts"]])
    assert states == [["done"] * 3, ["skipped"] * 3]
    assert len(list((tmp_path / "out").glob("*/mesh.glb"))) == 3
