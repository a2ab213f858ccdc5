"""What set up starts ends with the Blender that started it."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dreamflow_blender.client.background import Stop
from dreamflow_blender.client.process import start_bound
from dreamflow_blender.client.steps import CommandFailed, Log, ask, run

ROOT = Path(__file__).resolve().parents[3]
BLENDER = """
import sys, time
from dreamflow_blender.client.process import start_bound
start_bound([sys.executable, "-c", sys.argv[1]])
time.sleep(100)
"""
WITH_A_CHILD = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(90)"])
time.sleep(90)
"""


def test_a_silent_child_and_its_own_child_end_with_a_blender_that_is_killed() -> None:
    blender = subprocess.Popen([sys.executable, "-c", BLENDER, WITH_A_CHILD], cwd=ROOT)
    try:
        until = time.monotonic() + 30
        while len(family := psutil.Process(blender.pid).children(recursive=True)) < 3:
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        blender.kill()
        blender.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


def test_what_a_bound_child_says_and_how_it_ends_are_its_own(tmp_path: Path) -> None:
    said = list(run([sys.executable, "-c", "print('hello')"], Stop(), Log(tmp_path / "log"), {}))
    assert "hello" in said
    with pytest.raises(CommandFailed, match="code 3"):
        list(run([sys.executable, "-c", "raise SystemExit(3)"], Stop(), Log(tmp_path / "log"), {}))
    with pytest.raises(FileNotFoundError):
        start_bound([str(tmp_path / "nothing")])
    assert ask([sys.executable, "-c", "print('answer')"], Stop(), 60.0) == "answer"


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_signal_that_ends_it_is_told() -> None:
    child = start_bound([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    assert child.wait(60) == -9
