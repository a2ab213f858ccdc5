"""One list, any number of processes: each job once, what is done skipped, what was stopped resumed."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from backend import __main__ as cli
from backend.batch import commands
from backend.batch.share import Share
from backend.cli.arguments import parser
from backend.cli.batch import read_jobs
from backend.errors import DiskError, InputError, NumericsError
from backend.interrupts import STOPS
from backend.jobs.drive import Control, Events
from backend.jobs.folder import EventLog, read_job
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Finished, Generate, Progress, Resume, Started

ROOT = Path(__file__).parents[2]


class Jobs:
    """Stands in for the stages alone: what runs is written down, with the folder's real lock and job.json."""

    def __init__(self) -> None:
        self.began: list[tuple[str, str]] = []  # the request's name and the prompt
        self.during: Callable[[str], None] = lambda _prompt: None

    def __call__(self, request: Generate | Resume, _control: Control) -> Events:
        job = read_job(Path(request.folder)) if isinstance(request, Resume) else request.job
        files = JobFolder(job.folder)
        self.began.append((type(request).__name__, job.prompt))
        files.job.write_text(json.dumps({"job": asdict(job)}))
        yield Started("nerf", 2)
        self.during(job.prompt)
        yield Progress("nerf", 1, 2, 1, 2)
        files.mesh_glb.write_bytes(b"glTF")
        files.preview.write_bytes(b"PNG")
        yield Finished(files.result_files(), {"seconds": 1.0})


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def batch(tmp_path: Path, jobs: Jobs) -> Callable[..., int]:
    """`batch` on this list, as often as wanted; the exit code."""

    def run(text: str, *more: str, name: str = "list.txt") -> int:
        (tmp_path / name).write_text(text, encoding="utf-8")
        typed = ["batch", str(tmp_path / name), "--out", str(tmp_path / "out"), *more]
        args = parser().parse_args(typed)
        return commands.run(args, read_jobs(args), typed, io.StringIO(), lambda *_: lambda _event: None, jobs)

    return run


def states(tmp_path: Path) -> list[str]:
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["prompts"]
    return [row["state"] for row in rows]


def test_the_same_command_again_skips_what_is_done(
    batch: Callable[..., int], jobs: Jobs, tmp_path: Path
) -> None:
    assert batch("a red mug\n# no\na blue duck\na red mug\n") == 0
    assert states(tmp_path) == ["done", "done"]
    assert batch("a red mug\na green tree\na blue duck\n") == 0
    assert states(tmp_path) == ["skipped", "done", "skipped"]
    assert [prompt for _, prompt in jobs.began] == ["a red mug", "a blue duck", "a green tree"]


def test_a_line_s_cells_are_its_job_s(batch: Callable[..., int], jobs: Jobs, tmp_path: Path) -> None:
    table = "prompt,seed,faces,height,nerf.levels\na red mug,7,900,0.2,40\na red mug,7,,,\n"
    assert batch(table, "--preset", "fast", name="list.csv") == 0
    rows = json.loads((tmp_path / "out" / "report.json").read_text())["prompts"]
    made = [read_job(tmp_path / "out" / row["folder"]) for row in rows]
    assert [(job.seed, job.preset, job.overrides) for job in made] == [
        (7, "fast", {"nerf.levels": 40, "delivery.max_faces": 900}),
        (7, "fast", {}),
    ]


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_stops_after_the_iteration_and_the_job_is_resumed(
    batch: Callable[..., int], jobs: Jobs, tmp_path: Path, number: int
) -> None:
    jobs.during = lambda prompt: signal.raise_signal(number) if prompt == "a blue duck" else None
    text = "a red mug\na blue duck\na green tree\n"
    assert batch(text) == 128 + number
    assert states(tmp_path) == ["done", "stopped", "waiting"]
    jobs.during = lambda _prompt: None
    assert batch(text) == 0
    assert jobs.began[2:] == [("Resume", "a blue duck"), ("Generate", "a green tree")]


def test_a_signal_that_a_library_makes_an_error_of_marks_no_job_as_failed(
    batch: Callable[..., int], tmp_path: Path
) -> None:
    """diffusers does, while it is imported: "Failed to import ... because of the following error"."""

    def importing(*_: object) -> Events:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise RuntimeError("Failed to import") from error
        yield Started("nerf", 1)

    (tmp_path / "list.txt").write_text("a red mug\n")
    typed = ["batch", str(tmp_path / "list.txt"), "--out", str(tmp_path / "out")]
    args = parser().parse_args(typed)
    show = lambda *_: lambda _event: None  # noqa: E731
    assert commands.run(args, read_jobs(args), typed, io.StringIO(), show, importing) == 143
    assert batch("a red mug\n") == 0 and states(tmp_path) == ["done"]


def test_where_the_reader_has_gone_the_work_is_kept_and_goes_no_further(tmp_path, jobs) -> None:
    """As in `batch ... | head -1`: no traceback, no other job; the same command goes on."""
    (tmp_path / "l.txt").write_text("a red mug\na blue mug\n")
    typed = ["batch", str(tmp_path / "l.txt"), "--out", str(tmp_path / "out"), "--prior", "sd"]
    args = parser().parse_args(typed)
    reader, writer = os.pipe()
    out = os.fdopen(writer, "w")
    jobs.during = lambda _prompt: os.close(reader)

    def show(event: object) -> None:
        print(event, file=out, flush=True)

    assert commands.run(args, read_jobs(args), typed, out, lambda *_: show, jobs) == commands.SOME_FAILED
    assert [prompt for _, prompt in jobs.began] == ["a red mug"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["state"] for row in report["prompts"]] == ["stopped", "waiting"]
    jobs.during = lambda _prompt: None
    assert (
        commands.run(args, read_jobs(args), typed, io.StringIO(), lambda *_: lambda _event: None, jobs) == 0
    )
    assert [name for name, _ in jobs.began] == ["Generate", "Resume", "Generate"]


def test_a_failed_job_stops_nothing_and_is_tried_again_with_retry(
    batch: Callable[..., int], jobs: Jobs, tmp_path: Path
) -> None:
    def fail(prompt: str) -> None:
        if prompt == "a red mug":
            raise NumericsError("A NaN in stage nerf.", "Lower the rate.")

    jobs.during = fail
    assert batch("a red mug\na blue duck\n") == 1
    assert states(tmp_path) == ["failed", "done"]
    assert batch("a red mug\na blue duck\n") == 1 and len(jobs.began) == 2
    row = json.loads((tmp_path / "out" / "report.json").read_text())["prompts"][0]
    assert row["error"]["message"] == "A NaN in stage nerf."
    jobs.during = lambda _prompt: None
    assert batch("a red mug\na blue duck\n", "--retry") == 0
    assert jobs.began[2:] == [("Resume", "a red mug")]


def test_a_full_disk_ends_the_process_and_marks_no_job_as_failed(
    batch: Callable[..., int], jobs: Jobs, tmp_path: Path
) -> None:
    def fail(_prompt: str) -> None:
        raise DiskError("The disk is full.", "Free some space.")

    jobs.during = fail
    assert batch("a red mug\na blue duck\n") == 1 and len(jobs.began) == 1
    jobs.during = lambda _prompt: None
    assert batch("a red mug\na blue duck\n") == 0
    assert states(tmp_path) == ["done", "done"]


def test_a_job_that_another_process_runs_is_left_to_it(
    batch: Callable[..., int], jobs: Jobs, tmp_path: Path
) -> None:
    """The second begins while the first is in its first job: it does the other one, and nothing twice."""
    second: list[int] = []

    def meanwhile(prompt: str) -> None:
        if prompt == "a red mug":
            second.append(batch("a red mug\na blue duck\n"))
            assert states(tmp_path) == ["running", "done"]

    jobs.during = meanwhile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda *_: None)
        assert batch("a red mug\na blue duck\n") == 0
    assert second == [0]
    assert [prompt for _, prompt in jobs.began] == ["a red mug", "a blue duck"]
    assert states(tmp_path)[0] == "done"


def test_a_job_that_ends_between_the_look_and_the_lock_is_not_done_again(tmp_path: Path, jobs: Jobs) -> None:
    args = parser().parse_args(["batch", str(tmp_path / "l.txt"), "--out", str(tmp_path)])
    (tmp_path / "l.txt").write_text("a red mug\n" * 2 + "a blue duck\na green tree\n")
    listed = read_jobs(args)

    def drive(job: Any, request: Any) -> Any:
        end = None
        JobFolder(job.folder).path.mkdir(exist_ok=True)
        log = EventLog(Path(job.folder))
        for end in jobs(request, lambda: None):
            log.write(end)
        return end, []

    shares = [Share(tmp_path, listed, False, drive) for _ in range(8)]
    threads = [threading.Thread(target=share.work) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(prompt for _, prompt in jobs.began) == sorted(job.prompt for job in listed)


def test_what_a_killed_process_left_before_job_json_is_no_obstacle(
    batch: Callable[..., int], jobs: Jobs, tmp_path: Path
) -> None:
    assert batch("a red mug\n") == 0
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir() and path.name[0] != ".")
    for path in folder.iterdir():
        path.unlink()
    (folder / ".job-1a2b.part.json").write_text("{")
    (folder / "lock").touch()
    assert batch("a red mug\n") == 0 and len(jobs.began) == 2


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("", [], "no prompt"),
        ("a red mug\na corgi\n", [], "Line 2"),
        ("a red mug\na mug::2\n", ["--prior", "sd"], "Line 2: “mug::2” is a weight"),
        ("a red mug\n", ["--set", "nerf.level=3"], "Line 1"),
        ("a red mug\n", ["--seed", "-1"], "Line 1"),
        ("a red mug\n", ["--workers", "0"], "1 to 64"),
        ("a red mug\n", ["--shard", "5/4"], "1 to N"),
        ("a red mug\n", ["--shard", "4"], "I/N"),
    ],
)
def test_a_list_that_will_not_do_is_refused_whole(
    batch: Callable[..., int], jobs: Jobs, tmp_path: Path, text: str, more: list[str], said: str
) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        batch(text, *more)
    assert jobs.began == [] and not (tmp_path / "out").exists()


def test_shards_are_disjoint_and_whole_and_a_new_line_moves_nothing(tmp_path: Path) -> None:
    from dreamflow_blender.contract.prompts import in_shard

    def shards(lines: int) -> dict[str, int]:
        (tmp_path / "l.txt").write_text("".join(f"thing number {n}\n" for n in range(lines)))
        args = parser().parse_args(["batch", str(tmp_path / "l.txt"), "--out", "o", "--prior", "sd"])
        found = {}
        for job in read_jobs(args):
            (found[job.prompt],) = (n for n in range(1, 5) if in_shard(job, (n, 4)))
        return found

    few, more = shards(40), shards(41)
    assert {**more, **few} == more and set(few.values()) == {1, 2, 3, 4}
    assert few["thing number 0"] == FIRST  # the same on every machine and in every version


FIRST = 4


def test_cards_are_those_that_the_environment_allows_or_the_driver_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert commands.cards_of({"CUDA_VISIBLE_DEVICES": "2,5"}) == ["2", "5"]
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: H200 (UUID: GPU-1a)'\necho 'GPU 1: H200 (UUID: GPU-2b)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commands.cards_of({}) == ["GPU-1a", "GPU-2b"]
    program.unlink()
    assert commands.cards_of({}) == []


def test_a_bad_list_ends_with_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["batch", str(tmp_path / "nowhere.txt"), "--out", str(tmp_path / "o")]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="a script stands in for Python")
def test_workers_are_the_same_command_each_with_a_card_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES $@" >> {tmp_path}/calls\nexit ${{CODE:-0}}\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    typed = ["batch", "l.txt", "--out", "o", "--workers", "3"]
    out = io.StringIO()
    assert commands.in_workers(3, typed, "auto", out) == 0 and out.getvalue() == ""
    said = "-m backend batch l.txt --out o --workers 3 --workers 1"
    assert sorted((tmp_path / "calls").read_text().splitlines()) == [f"4 {said}", f"4 {said}", f"6 {said}"]
    for code, expected in ((1, 1), (2, 2), (9, 1)):
        monkeypatch.setenv("CODE", str(code))
        assert commands.in_workers(1, typed, "cpu", out) == expected
    assert "ended with code 9" in out.getvalue()


@pytest.mark.slow
def test_eight_processes_do_sixty_jobs_once_each(tmp_path: Path) -> None:
    prompts = [f"thing number {n}" for n in range(60)]
    (tmp_path / "l.txt").write_text("\n".join(prompts))
    child = Path(__file__).with_name("share_child.py")
    processes = [
        subprocess.Popen(
            [sys.executable, str(child), str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        for _ in range(8)
    ]  # fmt: skip
    ran = [json.loads(process.communicate()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert sorted(prompt for own in ran for prompt in own) == sorted(prompts)
    assert set(states(tmp_path)) <= {"done", "skipped"}
