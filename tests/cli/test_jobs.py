"""`jobs`, `settings` and --continue on folders as jobs leave them, and as strangers make them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from backend import __main__ as cli
from backend.jobs.folder import job_so_far
from backend.jobs.listing import list_jobs
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.contract.jobfolder import JobFolder
from tests.cli.test_display import here as here
from tests.cli.test_display import script


def a_job(folder: Path, *events: p.Event, **changes: object) -> Path:
    """A job's folder with these events."""
    folder.mkdir(parents=True)
    fields = asdict(p.Job(folder.name, "generate", "a red mug", str(folder))) | changes
    (folder / "job.json").write_text(json.dumps({"job": fields}), encoding="utf-8")
    lines = "".join(p.encode(event) + "\n" for event in events)
    (folder / "events.jsonl").write_text(lines, encoding="utf-8")
    return folder


def said(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = cli.main(list(arguments), script)
    out, err = capfd.readouterr()  # with --json the second is both
    assert "Traceback" not in out + err
    return code, out + err


STEP = p.Progress("texture", 3, 4, 15, 20)


def test_jobs_are_listed_shown_and_removed(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stopped = a_job(here / "out" / "a b", STEP, p.Cancelled({}), seed=7, overrides={"nerf.levels": 3})
    a_job(here / "out" / "done", p.Finished({}, {}))
    (stopped / "notes.txt").write_text("mine")
    (stopped / "checkpoints" / "000001-nerf-1").mkdir(parents=True)
    rows = said(capfd, "jobs")[1].splitlines()
    assert [row.split()[0] for row in rows] == ["cancelled", "finished"] and "texture 15/20" in rows[0]
    shown = said(capfd, "jobs", "show", str(stopped))[1]
    assert (
        "seed         7" in shown
        and "nerf.levels=3" in shown
        and "To go on: python -m backend resume" in shown
    )
    assert "To go on" not in said(capfd, "jobs", "show", str(here / "out" / "done"))[1]
    assert cli.main(["resume", str(here / "out" / "done")]) == 2
    out, err = capfd.readouterr()
    assert "is finished" in err and "To go on" not in out
    code, removed = said(capfd, "jobs", "rm", str(stopped))
    assert code == 0 and "notes.txt" in removed and [path.name for path in stopped.iterdir()] == ["notes.txt"]
    assert (
        said(capfd, "jobs", "rm", str(here / "out" / "done"))[0] == 0 and not (here / "out" / "done").exists()
    )
    for wrong in (["rm"], ["show"], ["list", "x"], ["rm", str(stopped)], ["show", "x" * 300]):
        assert said(capfd, "jobs", *wrong)[0] in (1, 2)


@pytest.mark.skipif(os.name == "nt", reason="makes links and pipes")
def test_an_odd_folder_is_one_line(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A pipe hung the list, /dev/zero filled the memory, and a name coloured the terminal."""
    good = a_job(here / "out" / "good", STEP)
    folders = [here / "out" / f"odd{n}" for n in range(8)]
    for folder in folders:
        folder.mkdir()
    os.mkfifo(folders[0] / "job.json")
    (folders[1] / "job.json").symlink_to("/dev/zero")
    (folders[2] / "job.json").write_text("[" * 100_000)
    (folders[3] / "job.json").mkdir()
    with (folders[4] / "job.json").open("wb") as large:
        large.truncate(1 << 40)
    (folders[5] / "job.json").write_text('{"job": {"id": Infinity}}')
    (folders[6] / "job.json").symlink_to(good / "job.json")
    os.mkfifo(folders[7] / "job.json")
    evil = a_job(here / "out" / "x\x1b[31m\u202e\nforged", STEP, prompt="a red\u202emug\x1b[2J")
    staged = a_job(here / "out" / "stage", replace(STEP, stage="\x1b]52;c;x\x07"))
    odd_events = [a_job(here / "out" / name) for name in ("pipe", "zero", "dead")]
    for folder in odd_events:
        (folder / "events.jsonl").unlink()
    os.mkfifo(odd_events[0] / "events.jsonl")
    (odd_events[1] / "events.jsonl").symlink_to("/dev/zero")
    (odd_events[2] / "events.jsonl").symlink_to("nowhere")
    code, out = said(capfd, "jobs")
    rows = out.splitlines()
    assert code == 0 and len(rows) == 14
    assert sum(row.startswith("unreadable") for row in rows) == 9  # the evil prompt is none
    assert all(c == "\n" or c.isprintable() for c in out) and "\u202e" not in out
    assert all(c == "\n" or c.isprintable() for c in said(capfd, "jobs", "show", str(staged))[1])
    assert "x\\x1b[31m\\u202e\\nforged" in out and evil.is_dir()
    assert len(said(capfd, "jobs", "--json")[1].splitlines()) == 14
    assert said(capfd, "jobs", "clean")[0] == 0
    assert said(capfd, "resume", str(folders[1]))[0] == 1


@pytest.mark.skipif(os.name == "nt", reason="makes links and pipes")
def test_a_lock_that_is_a_link_leads_nowhere(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It was followed, and the file that it led to emptied; a pipe was waited for."""
    victim = here / "victim"
    victim.write_text("Another's.")
    for name in ("link", "pipe"):
        folder = a_job(here / name, STEP)
        if name == "link":
            (folder / "lock").symlink_to(victim)
        else:
            os.mkfifo(folder / "lock")
        code, out = said(capfd, "jobs", "rm", str(folder))
        assert code == 1 and "lock" in out and (folder / "job.json").exists()
    assert victim.read_text() == "Another's."


def test_continue_begins_goes_on_or_does_nothing(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "a red mug", "--continue"]
    assert said(capfd, *arguments)[0] == 0  # nothing there: it begins
    folder = here / "out" / "a-red-mug-42"
    job = p.Job("1", "generate", "a red mug", str(folder))
    (folder / "job.json").write_text(json.dumps({"job": asdict(job)}))
    code, out = said(capfd, *arguments)
    assert code == 0 and "done already" in out and "mesh.glb" in out
    assert said(capfd, *arguments, "--json")[1].count('"event": "finished"') == 1
    (folder / "events.jsonl").write_text(p.encode(STEP) + "\n")
    assert job_so_far(job) == p.Resume(str(folder))
    code, out = said(capfd, *arguments, "--set", "nerf.levels=3")
    assert code == 2 and "holds another job" in out
    assert said(capfd, *arguments, "--overwrite")[0] == 2  # one of the two


def test_an_objects_job_goes_on_where_its_grey_was_to_be_made_from_nothing(tmp_path: Path) -> None:
    made = p.Job("1", "refine", "a mug", str(tmp_path), mesh="mug.glb", stages=("texture", "refine"))
    (tmp_path / "job.json").write_text(json.dumps({"job": asdict(made)}))
    assert job_so_far(replace(made, id="2", stages=("refine",))) == p.Resume(str(tmp_path))


def test_every_setting_is_listed_as_set_takes_it(capfd: pytest.CaptureFixture[str]) -> None:
    code, table = said(capfd, "settings")
    assert code == 0 and table.splitlines()[0].split() == ["paper", "fast", "draft"]
    assert ["nerf.levels", "800", "300", "300"] in [row.split() for row in table.splitlines()]
    assert [
        " ".join(row.split()) for row in table.splitlines() if row.startswith(("--deliver", "faces"))
    ] == [
        "--deliver game",
        "faces 1500",
        "--deliver quads",
        "faces 8000",
        "--deliver print",
    ]
    assert json.loads(said(capfd, "settings", "--json")[1])["profiles"]["print"]["flat_base"] is False
    lines = said(capfd, "settings", "--preset", "draft")[1].splitlines()
    given = [word for line in lines for word in line.split(" ", 1)]
    assert "nerf.levels=300" in given
    args = cli.parser().parse_args(["generate", "a red mug", *given])
    from backend.config import DRAFT, resolve

    assert resolve("draft", {"job": dict(args.set)}).preset == DRAFT
    assert json.loads(said(capfd, "settings", "--json")[1])["fast"]["nerf"]["levels"] == 300
    assert said(capfd, "settings", "--preset", "best")[0] == 2


def test_a_wrong_setting_is_told_the_nearest() -> None:
    from backend.config import resolve
    from backend.errors import InputError

    for wrong, near in (("nerf.level", "nerf.levels"), ("textur.size", "texture.size")):
        with pytest.raises(InputError, match=f"Did you mean .*{near}"):
            resolve("draft", {"job": {wrong: 1}})


def test_a_list_makes_a_jobs_names_twice_at_most(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files lie beside them: they were made for each of these, which was half of the time."""
    folder = here / "out" / "a"
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(
        json.dumps({"job": asdict(p.Job("1", "generate", "a mug", str(folder)))})
    )
    for number in range(20):
        (folder / f"{number}.png").touch()
    made: list[object] = []
    real = JobFolder.__init__

    def counted(self: JobFolder, path: Path | str) -> None:
        made.append(path)
        real(self, path)

    monkeypatch.setattr(JobFolder, "__init__", counted)
    assert [job.state for job in list_jobs(here / "out")] == ["interrupted"]
    assert len(made) <= 2
