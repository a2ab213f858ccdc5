"""The list over a Ray cluster. Ray listens, so all is in a network of its own."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from backend import __main__ as cli
from backend.batch.ray_driver import at_once
from backend.errors import DeviceError
from tests.tools.ray_alone import alone, log_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_a_missing_ray_is_one_sentence_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "l.txt").write_text("a red mug\n")
    assert cli.main(["batch", str(tmp_path / "l.txt"), "--out", str(tmp_path / "out"), "--ray"]) == 2
    said = capsys.readouterr().err
    assert "needs the package ray" in said and "pip install -r requirements-ray.txt" in said
    assert (ROOT / "requirements-ray.txt").read_text().count("\nray[default]==") == 1


@pytest.mark.parametrize(
    ("cards", "device", "gpus", "workers", "expected"),
    [
        (8, "auto", 1, 1, (8, 1)),
        (8, "cuda", 0.5, 1, (16, 0.5)),
        (8, "auto", 2, 3, (3, 2)),
        (8, "cpu", 1, 4, (4, 0)),
        (0, "auto", 1, 4, (4, 0)),
        (1, "auto", 2, 4, "has 1 cards, and a job takes 2"),
        (0, "cuda", 1, 4, "has 0 cards, and a job takes 1"),
    ],
)
def test_a_job_a_card_and_no_card_that_is_not_there(
    cards: float, device: str, gpus: float, workers: int, expected: tuple[int, float] | str
) -> None:
    there = {"CPU": 16.0} | ({"GPU": float(cards)} if cards else {})
    if isinstance(expected, str):
        with pytest.raises(DeviceError, match=expected):
            at_once(there, device, gpus, workers)
    else:
        assert at_once(there, device, gpus, workers) == expected


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
def test_a_list_over_two_actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "RAY_ADDRESS", "127.0.0.1:1"
    )  # another cluster, which --ray without an address is not to join
    store = tmp_path / "the store"
    (tmp_path / "l.txt").write_text("a red mug\na blue duck\na crash tree\nit fails\na green tree\n")
    (tmp_path / "metrics").touch()  # to be written over with what Ray's endpoint says
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
    check_metrics((tmp_path / "metrics").read_text())


def check_metrics(text: str) -> None:
    """Prometheus's lines of Ray's endpoint."""
    found: dict[str, list[float]] = {}
    for name, labels, value in re.findall(r"^ray_(dreamflow_\w+){(.*)} (\S+)$", text, re.MULTILINE):
        label = re.findall(r'(?:state|stage)="(\w+)"', labels)
        found.setdefault(" ".join([name, *label]), []).append(float(value))
    print(found)
    assert sum(found["dreamflow_jobs_total done"]) == 4 and sum(found["dreamflow_jobs_total failed"]) == 1
    assert set(found["dreamflow_job_seconds"]) == {0.5}
    for stage in ("nerf", "geometry", "texture", "refine"):
        assert set(found[f"dreamflow_stage_done {stage}"]) == {1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "store", "said"),
    [
        (
            "xatlas-9.9.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: xatlas\nVersion: 9.9\n",
            "file:///x",
            r"Node \S+ \(127\.0\.0\.1\) has xatlas 0\.0\.11 \(here 9\.9\)\. Install the same versions on all nodes\.",
        ),
        (
            "s3fs.py",
            "from fsspec.implementations.local import LocalFileSystem as S3FileSystem\n__version__ = '2026.9.0'\n",
            "s3://x/y",
            r"A node's process did not start: .*--store s3://x/y cannot be used.*\. All nodes need this project .*",
        ),
    ],
    ids=["another version", "a package less"],
)
def test_a_node_that_is_not_as_the_driver_is_refused_before_the_first_job(
    tmp_path: Path, name: str, text: str, store: str, said: str
) -> None:
    """The driver finds one package more than Ray's processes, which have the project's folder alone."""
    (tmp_path / "path" / name).parent.mkdir(parents=True)
    (tmp_path / "path" / name).write_text(text)
    (tmp_path / "l.txt").write_text("a red mug\n")
    words = [
        "batch",
        tmp_path / "l.txt",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
        "--store",
        store,
        "--ray",
    ]
    ran = alone("-m", "backend", *words, path=tmp_path / "path")
    assert ran.returncode == 2 and "Traceback" not in ran.stderr, ran.stdout + ran.stderr
    assert re.search(f"^{said}$", ran.stderr, re.MULTILINE), ran.stderr
    assert not list(tmp_path.glob("out/*/job.json"))


def test_a_store_that_is_each_process_s_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a ray that would be there."""
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    (tmp_path / "l.txt").write_text("a red mug\n")
    words = ["--out", str(tmp_path / "out"), "--ray", "--store", "memory://x"]
    assert cli.main(["batch", str(tmp_path / "l.txt"), *words]) == 2
    assert "memory://x is kept by each process for itself" in capsys.readouterr().err
