"""Runs each file of with_bpy/ in a process of its own, with a Python that has bpy.

bpy shares its process with nobody: a class or timer that is left registered makes it crash or hang at the end.
DREAMFLOW_BPY_PYTHON names another Python, so the same files run on bpy 4.2, 4.5 and 5.2.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((Path(__file__).parent / "with_bpy").glob("test_*.py"))
PYTHON = os.environ.get("DREAMFLOW_BPY_PYTHON") or (
    sys.executable if importlib.util.find_spec("bpy") is not None else ""
)
MINUTES = (
    "test_real_backend",
    "test_refine_real",
    "test_installed",
    "test_model_buttons",
    "test_setup_buttons",
)  # whole jobs of the real backend, and what is pressed once: with one Blender, by .ci/blender
SECONDS = 540  # a busy machine with two cores; it takes a tenth of that alone


@pytest.mark.blender
@pytest.mark.skipif(
    not PYTHON, reason="no bpy here: pip install bpy==4.5.15 (Python 3.11), or set DREAMFLOW_BPY_PYTHON"
)
@pytest.mark.parametrize(
    "file",
    [pytest.param(f, id=f.stem, marks=[pytest.mark.slow] if f.stem in MINUTES else []) for f in FILES],
)
def test_in_a_process_of_its_own(file, tmp_path):
    resources = tmp_path / "Blénder user"
    resources.mkdir()
    environment = {
        **os.environ,
        "DREAMFLOW_BPY_CHILD": "1",
        "BLENDER_USER_RESOURCES": str(resources),
        "PYTHONPYCACHEPREFIX": str(ROOT / ".build" / "pycache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [PYTHON, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-rs", "-s", "-p", "no:xdist"]
    command += ["-o", "addopts=", "--import-mode=importlib", "-q", "-p", "no:cacheprovider"]
    command += ["-W", "ignore::DeprecationWarning"]  # of Blender's own modules, other ones in each version
    command += ["-W", "ignore::pytest.PytestConfigWarning", str(file), f"--basetemp={tmp_path / 'pytest'}"]
    try:
        ran = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            timeout=SECONDS,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
        pytest.fail(f"{file.name} hung:\n{said if isinstance(said, str) else said.decode(errors='replace')}")
    print(ran.stdout[-3000:])
    assert ran.returncode == 0, f"{file.name} failed:\n{ran.stdout[-6000:]}\n{ran.stderr[-3000:]}"
