"""The list over a Ray cluster: each job once, whatever is lost. Ray listens, so all is in a network of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backend import __main__ as cli
from dreamflow_blender.contract.jobfolder import JobFolder
from tests.tools.network_alone import allowed
from tests.tools.pretend_worker import ALL, result

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROMPTS = [f"thing number {n}" for n in range(12)]


def alone(*command: object) -> subprocess.CompletedProcess[str]:
    """A script in a network namespace."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: requirements-ray.txt")
    if not allowed():
        pytest.skip("this user may make no network namespace, and Ray listens beyond loopback")
    words = [sys.executable, ROOT / "tests" / "tools" / "network_alone.py", sys.executable, *command]
    return subprocess.run(
        [*map(str, words)], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip


def log_of(root: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (root / "log").read_text().splitlines()]


def check_all_done(root: Path) -> None:
    """Each once, none twice, with the bytes of an undisturbed run."""
    rows = json.loads((root / "out" / "report.json").read_text())["prompts"]
    assert [row["state"] in ("done", "skipped") for row in rows] == [True] * len(PROMPTS), rows
    for row in rows:
        made = JobFolder(root / "out" / row["folder"]).mesh_glb.read_bytes()
        assert made == result(row["prompt"], row["seed"], ALL)
    began = Counter(prompt for what, prompt, *_ in log_of(root) if what == "Finished")
    assert began == Counter(PROMPTS)


def test_a_missing_ray_is_one_sentence_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "l.txt").write_text("a red mug\n")
    assert cli.main(["batch", str(tmp_path / "l.txt"), "--out", str(tmp_path / "out"), "--ray"]) == 2
    said = capsys.readouterr().err
    assert "needs the package ray" in said and "pip install -r requirements-ray.txt" in said
    assert (ROOT / "requirements-ray.txt").read_text().count("\nray==") == 1


@pytest.mark.slow
def test_a_cluster_whose_token_is_not_here_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "l.txt").write_text("a red mug\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    words = ["batch", tmp_path / "l.txt", "--out", tmp_path / "out", "--ray", "127.0.0.1:6399"]
    ran = alone("-m", "backend", *words)
    assert ran.returncode == 2 and "Traceback" not in ran.stderr
    assert "cannot be joined" in ran.stderr and "ray get-auth-token" in ran.stderr


@pytest.mark.slow
def test_a_list_over_two_actors(tmp_path: Path) -> None:
    store = tmp_path / "the store"
    (tmp_path / "l.txt").write_text("a red mug\na blue duck\na crash tree\nit fails\na green tree\n")
    ran = alone(HERE / "ray_child.py", tmp_path, "0.5", "--ray", "--workers", 2, "--store", f"file://{store}")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    counts = Counter((what, prompt) for what, prompt, *_ in log_of(tmp_path))
    assert counts == Counter(
        [("Generate", "it fails"), ("Resume", "a crash tree")]
        + [
            (what, f"a {x}")
            for x in ("red mug", "blue duck", "crash tree", "green tree")
            for what in ("Generate", "Finished")
        ]
    )
    pids = {pid for _, _, pid, _ in log_of(tmp_path)}
    assert len(pids) == 3  # two actors' workers, and the one after the crash
    (failed,) = (line for line in ran.stdout.splitlines() if "Failed on" in line)
    assert "it fails" in failed and "127.0.0.1" in failed
    assert "ValueError: a step that fails" in ran.stdout.split(failed)[1]
    assert re.search(r"\] (nerf|geometry|texture|refine) [1-4] / 4 on ", ran.stdout)
    assert sorted(path.parent.name[:6] for path in store.glob("*/mesh.glb")) == [
        "a-blue",
        "a-cras",
        "a-gree",
        "a-red-",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "times"), [("worker", 12), ("actor", 3), ("raylet", 1), ("driver", 2), ("term", 2), ("disk", 0)]
)
def test_nothing_is_lost_and_nothing_done_twice(tmp_path: Path, fault: str, times: int) -> None:
    (tmp_path / "l.txt").write_text("\n".join(PROMPTS))
    ran = alone(HERE / "ray_faults.py", tmp_path, fault, times)
    said = (tmp_path / "said").read_text() if (tmp_path / "said").exists() else ""
    assert ran.returncode == 0, ran.stdout + ran.stderr
    counted = json.loads(ran.stdout.splitlines()[-1])
    print(counted)
    assert counted["times"] == times, said
    assert counted["codes"] == [{"driver": -9, "term": 143}.get(fault)] * (
        times if fault in ("driver", "term") else 0
    ) + [0], said
    check_all_done(tmp_path)
    assert ("is given no other job" in said) == (fault == "disk")
