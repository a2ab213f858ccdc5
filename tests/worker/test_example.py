"""examples/minimal_client.py: a client written against the protocol's docstring alone."""

import ast
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from tests.tools.tiny import OVERRIDES
from tests.tools.worker_client import CHILD, ENVIRONMENT

EXAMPLE = Path(__file__).parents[2] / "examples" / "minimal_client.py"


@pytest.mark.slow
def test_it_drives_a_job(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("minimal_client", EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setitem(os.environ, name, value)
    folder = tmp_path / "made"
    command = (sys.executable, str(CHILD))
    events = list(example.generate("a ball", str(folder), command, overrides=OVERRIDES, threads=1))
    names = [event["event"] for event in events]
    assert names[0] == "ready" and names[-1] == "finished" and "progress" in names
    assert Path(events[-1]["paths"]["mesh.glb"]).is_file()
    events = list(example.generate("a ball", str(folder), command))
    assert events[-1]["event"] == "failed" and "already holds a job" in events[-1]["message"]


def test_it_is_short_and_needs_nothing_of_ours():
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    tree = ast.parse(text)
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
