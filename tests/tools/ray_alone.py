"""Programs that use Ray, which listens beyond loopback: in a network namespace, else skipped with the reason."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tools.network_alone import allowed

ROOT = Path(__file__).parents[2]


def alone(*command: object, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A script in a network namespace; its modules are found in `path` before the project's."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: requirements-ray.txt")
    if not allowed():
        pytest.skip("this user may make no network namespace, and Ray listens beyond loopback")
    words = [sys.executable, ROOT / "tests" / "tools" / "network_alone.py", sys.executable, *command]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(path), str(ROOT)))}
    return subprocess.run(
        [*map(str, words)], env=environment, capture_output=True, text=True, timeout=500, check=False
    )


def log_of(root: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (root / "log").read_text().splitlines()]
