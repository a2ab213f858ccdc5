"""The command line with a pipeline that is a script: what people read, what programs read, how it ends."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from backend import __main__ as cli
from backend import interrupts
from backend.cli import arguments as cli_arguments
from backend.cli import display as cli_display
from backend.errors import DiskError, InputError, ModelError
from dreamflow_blender.contract import protocol as p
from tests.tools.events import read_events

ROOT = Path(__file__).parents[2]
JOB = p.Job("1", "generate", "a red mug", "out/a-red-mug-42")
READY = p.Ready({"torch": "2.13"}, ("cpu",), {"hash grid": "warp", "rasteriser": "warp"}, 2)
FIGURES = {
    "seconds_nerf": 62.4,
    "seconds_refine": 4.25,
    "faces": 11204.0,
    "texture_px": 1024.0,
    "seconds": 192.0,
}


def script(job, stop=None):
    """What the pipeline says of a small job; raises `stop` in its middle."""
    folder = Path(job.folder)
    (folder / "job.json").write_text("{}")
    try:
        yield READY
        yield p.Started("nerf", 4)
        for i in range(1, 5):
            yield p.Progress("nerf", i, 4, i, 4, 0.5 * (4 - i), 0.125 / i, 0.41 / i)
            if stop and i == 2:
                raise stop
    except (GeneratorExit, KeyboardInterrupt):
        (folder / "mesh.glb").write_text("so far")
        raise
    yield p.Preview(str(folder / "preview.png"))
    yield p.Warning("It was a fake.")
    yield p.Started("deliver", 1)
    (folder / "mesh.glb").write_text("whole")
    yield p.Finished({"mesh.glb": str(folder / "mesh.glb"), "views.png": "x"}, FIGURES)


def stopped_by(error):
    return lambda job: script(job, error)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_plain_output_says_what_where_and_how_long(here, capsys):
    assert cli.main(["generate", "a red mug"], script) == 0
    out = capsys.readouterr().out.splitlines()
    path = str(Path("out/a-red-mug-42/mesh.glb"))
    assert out == [
        "Loading the models: some seconds, with large ones minutes.",
        "a red mug   draft   mini prior   seed 42   CPU (2 threads, warp kernels)",
        "nerf: 4 iterations",
        "  nerf   100 %   4 / 4   done   loss 0.0312   gap 0.102",
        "Note: It was a fake.",
        "deliver: unwrap, bake, export",
        f"Done in 3 min 12 s: {path}   (11,204 faces, 1,024 px albedo)",
        "  nerf 1 min 2 s   refine 4.2 s",
        "  views.png",
    ]
    assert (here / path).read_text() == "whole"
    assert len(read_events(here / "out" / "a-red-mug-42")) == 10


def test_plain_progress_comes_every_few_seconds():
    out, now = io.StringIO(), iter(range(100))
    display = cli_display.Plain(JOB, out, out, now=lambda: next(now))
    display.show(p.Started("nerf", 100))
    for i in range(40):
        display.show(p.Progress("nerf", 0, 9, i, 100, 31.0))
    lines = out.getvalue().splitlines()[1:]
    assert 5 <= len(lines) <= 8 and lines[0].endswith("0:31 left")


@pytest.mark.parametrize(
    ("error", "kind", "words", "code"),
    [
        (ModelError("No such prior.", "Choose another."), "model", "No such prior.\nChoose another.", 1),
        (InputError("What is a mog?", "Did you mean mug?"), "input", "Did you mean mug?", 2),
        (DiskError("The disk is full."), "disk", "The disk is full.", 1),
        (MemoryError(), "memory", "not enough memory", 1),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "memory",
            "not enough memory",
            1,
        ),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "internal", "build.py setup", 1),
        (ZeroDivisionError("oh"), "internal", "ZeroDivisionError: oh\nThis is a bug", 1),
    ],
    ids=lambda v: type(v).__name__,
)
def test_failures_are_told_and_recorded(here, capsys, error, kind, words, code):
    assert cli.main(["generate", "a red mug", "--out", "o"], stopped_by(error)) == code
    assert words in capsys.readouterr().err
    last = read_events(here / "o")[-1]
    assert isinstance(last, p.Failed) and last.kind == kind
    logged = (here / "o" / "log.txt").exists()
    assert logged == isinstance(error, ZeroDivisionError)
    if logged:
        assert "in script" in (here / "o" / "log.txt").read_text()


def test_failures_in_json(here, capfd):
    assert cli.main(["generate", "a red mug", "--json"], stopped_by(ModelError("No."))) == 1
    assert p.decode(capfd.readouterr().out.splitlines()[-1]) == p.Failed("model", "No.")


def never(job):
    raise ModelError("No such prior.", "Choose another.")
    yield


def test_a_job_that_cannot_begin_leaves_nothing(here, capsys):
    assert cli.main(["generate", "a red mug", "--out", "o"], never) == 1
    assert not (here / "o").exists()
    assert cli.main(["generate", "a red mug", "--out", "o"], script) == 0
    assert cli.main(["generate", "a red mug", "--out", "o", "--overwrite"], never) == 1
    assert (here / "o" / "mesh.glb").read_text() == "whole"


def test_overwrite(here, capsys):
    arguments = ["generate", "a red mug", "--out", "o"]
    assert cli.main(arguments, script) == 0
    assert cli.main(arguments, script) == 2
    assert "already holds a job" in capsys.readouterr().err
    assert cli.main([*arguments, "--overwrite"], stopped_by(ModelError("No."))) == 1
    assert sorted(f.name for f in (here / "o").iterdir()) == ["events.jsonl", "job.json"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([""], "The prompt is empty"),
        (["x" * 10_000], "at most 1,000 characters, got 10,000"),
        (["a mug", "--preset", "best"], "invalid choice: 'best'"),
        (["a mug", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["a mug", "--stages", "nerf,paint"], "got 'paint'"),
        (["a mug", "--stages", "geometry,nerf"], "in the order"),
        (["a mug", "--stages", "texture"], "nerf as the first"),
        (["a mug", "--seed", "-1"], "seed: expected 0 to 2,147,483,647, got -1"),
        (["a mug", "--seed", "1.5"], "expected a whole number, got '1.5'"),
        (["a mug", "--seed", "9" * 40], "seed: expected"),
        (["a mug", "--threads", "-2"], "threads: expected"),
        (["a mug", "--prior", ""], "prior: expected"),
        (["a mug", "--negative", "x" * 1001], "negative: expected"),
        ([], "required: PROMPT"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bad_arguments(here, capsys, arguments, words):
    try:
        code = cli.main(["generate", *arguments], script)
    except SystemExit as end:  # argparse's way
        code = end.code
    assert code == 2 and not list(here.iterdir())
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


def test_odd_prompts_get_safe_folders(here, capsys):
    for prompt, folder in (("../../etc\n🐟", "etc-42"), ("nul", "nul-object-42"), ("🐟", "object-42")):
        assert cli.main(["generate", prompt], script) == 0
        assert (here / "out" / folder / "mesh.glb").exists()


PROGRAM = """
    import contextlib
    import os, sys, time
    from tests.cli import test_display as t
    from backend import __main__ as cli

    def slow(job):
        with contextlib.closing(t.script(job)) as run:
            for event in run:
                if "--json" in sys.argv:
                    print("a library talks")
                    os.write(1, b"and its C code, too\\n")
                yield event
                time.sleep({pause})

    sys.exit(cli.main(sys.argv[1:], slow))
"""


def start(folder, *arguments, pause=0.4, **streams):
    code = textwrap.dedent(PROGRAM.format(pause=pause))
    command = [sys.executable, "-c", code, "generate", "a red mug", "--out", "o", *arguments]
    environment = {
        k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")
    }  # pytest-xdist sets them
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}  # as unfriendly as a console gets
    return subprocess.Popen(command, cwd=folder, env=environment, **streams)


def test_json_is_events_and_nothing_else(tmp_path):
    child = start(tmp_path, "--json", "--out", "é", pause=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = child.communicate(timeout=20)
    events = [p.decode(line) for line in out.splitlines()]
    assert events == read_events(tmp_path / "é") and isinstance(events[-1], p.Finished)
    assert err.count(b"a library talks") == err.count(b"and its C code, too") == 10


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.parametrize(
    ("arguments", "sent"),
    [([], signal.SIGINT), ([], signal.SIGTERM), (["--json"], interrupts.STOPS[-1])],
)
def test_a_signal_keeps_what_there_is_and_say_so(tmp_path, arguments, sent):
    child = start(tmp_path, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [child.stdout.readline() for _ in range(2 if arguments else 3)]
    child.send_signal(sent)
    out, err = child.communicate(timeout=20)
    assert child.returncode == 130 and ("--json" in arguments or err == "")
    assert (tmp_path / "o" / "mesh.glb").read_text() == "so far"
    assert read_events(tmp_path / "o")[-1] == p.Cancelled({"mesh.glb": str(Path("o/mesh.glb"))})
    if arguments:
        events = [p.decode(line) for line in [*lines, *out.splitlines()]]
        assert events == read_events(tmp_path / "o")
    else:
        assert "Stopping, and keeping" in out and "Stopped. What there is was kept in o\n  mesh.glb\n" in out
        assert out.endswith("\nTo go on: python -m backend resume o\n")


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    child = start(tmp_path, pause=90, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(2):
        child.stdout.readline()
    for _ in range(2):
        time.sleep(1)  # or a busy machine makes one of the two
        child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "Stopped" in out and "Traceback" not in err


@pytest.mark.skipif(interrupts.HANGUP not in interrupts.STOPS, reason="no SIGHUP: Windows, or below nohup")
def test_a_closed_terminal_waits_for_the_iteration_and_is_written_to_no_more():
    """The shell and the system send SIGHUP both, which ended the process at once."""
    ours, its = os.openpty()
    before = os.dup(1)
    os.dup2(its, 1)
    os.close(its)
    try:
        with interrupts.Interrupts() as heard:
            heard.may_wait = True
            os.close(ours)
            with pytest.raises(OSError, match="Input/output"):
                os.write(1, b"a terminal that is gone")
            for _ in range(2):
                signal.raise_signal(signal.SIGHUP)
            assert heard.asked and heard.signal == signal.SIGHUP
            os.write(1, b"nowhere")
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        os.dup2(before, 1)
        os.close(before)


@pytest.mark.skipif(os.name == "nt", reason="closes a pipe")
def test_a_reader_that_goes_away_is_no_bug(tmp_path):
    child = start(tmp_path, "--json", pause=0.2, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.close()
    assert child.wait(timeout=20) == 1 and b"Traceback" not in child.stderr.read()
    assert (tmp_path / "o" / "mesh.glb").read_text() == "so far"


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("columns", [60, 120])
def test_the_live_display_fits_and_ends_with_the_result(tmp_path, columns):
    import pty
    import termios

    outer, inner = pty.openpty()
    termios.tcsetwinsize(inner, (40, columns))
    child = start(tmp_path, pause=0.02, stdout=inner, stderr=inner, stdin=inner)
    os.close(inner)
    shown = b""
    try:
        while chunk := os.read(outer, 65536):
            shown += chunk
    except OSError as error:  # the other side has closed
        assert error.errno == errno.EIO
    assert child.wait(timeout=20) == 0
    text = shown.decode()
    assert "draft" in text and "4 / 4" in text and "Note: It was a fake." in text
    assert f"Done in 3 min 12 s: {Path('o/mesh.glb')}" in text
    for line in text.replace("\r", "\n").split("\n"):
        if "nerf" in line and "/ 4" in line:
            assert len(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)) <= columns, line


def test_help_is_instant_and_has_examples(tmp_path):
    def timed():
        began = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "backend", "generate", "--help"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return time.perf_counter() - began, ran

    seconds, ran = min((timed() for _ in range(2)), key=lambda t: t[0])
    assert "examples:" in ran.stdout and "a red mug" in ran.stdout and "130" in ran.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in ran.stderr.splitlines()}
    assert "backend" in imported and not imported & {"torch", "rich", "numpy"}
    assert seconds < 5


def test_words():
    assert [cli_display.duration(s) for s in (0.34, 9.96, 192, 3720)] == [
        "0.3 s",
        "10 s",
        "3 min 12 s",
        "1 h 2 min",
    ]
    mixed = p.Ready({}, ("NVIDIA H200",), {"hash grid": "tinycudann", "rasteriser": "warp"}, 1)
    assert cli_display.headline(JOB, mixed).endswith(
        "NVIDIA H200 (1 thread, hash grid: tinycudann, rasteriser: warp)"
    )
    assert cli_display.ending(p.Cancelled({}), "o") == ["Stopped before there was a result to keep."]
    assert cli_display.measures(p.Progress("nerf", 0, 1, 0, 1)) == ""
    assert json.loads(p.encode(READY))["protocol"] == p.VERSION


def test_the_first_lines_say_why_no_faster_kernel_is_used():
    why = {"hash grid": "tcnn is not installed.", "x": ""}
    ready = p.Ready({}, ("NVIDIA H200",), {"hash grid": "warp"}, 2, kernels_why=why)
    assert cli_display.headline(JOB, ready).splitlines()[1:] == ["  hash grid: tcnn is not installed."]
    on_cpu = p.Ready({}, ("cpu",), {"hash grid": "warp"}, 2, kernels_why=why)  # no card: no news of cards
    assert len(cli_display.headline(JOB, on_cpu).splitlines()) == 1
    plain = p.Ready(
        {}, ("cpu",), {"hash grid": "torch"}, 2, kernels_why=why
    )  # but that Warp does not run is news
    assert cli_display.headline(JOB, plain).splitlines()[1:] == ["  hash grid: tcnn is not installed."]


def test_settings_of_the_preset_can_be_replaced(tmp_path):
    given = [
        text
        for one in ("nerf.levels=7", "delivery.max_faces=null", "nerf.phi=lora")
        for text in ("--set", one)
    ]
    job = cli_arguments.to_job(cli_arguments.parser().parse_args(["generate", "a red mug", *given]))
    assert job.overrides == {"nerf.levels": 7, "delivery.max_faces": None, "nerf.phi": "lora"}


@pytest.mark.parametrize("text", ["nerf.levels", "nerf.levels=many", "=", ""])
def test_a_setting_without_a_number_is_refused(text, capsys):
    assert cli.main(["generate", "a red mug", "--set", text]) == cli.BAD_INPUT
    assert "expected STAGE.SETTING=NUMBER" in capsys.readouterr().err
