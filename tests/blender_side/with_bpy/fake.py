"""tests/tools/fake_backend.py in the place of the backend's Python."""

import os
import stat
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def python(folder: Path, behaviour: str = "good", seconds: float = 0.2) -> Path:
    """An executable that, whatever it is told, behaves so."""
    if os.name == "nt":
        script = folder / "python.bat"
        script.write_text(
            f'@"{sys.executable}" "{ROOT / "tests" / "tools" / "fake_backend.py"}" "{behaviour}" {seconds}\n'
        )
        return script
    script = folder / "python"
    fake = ROOT / "tests" / "tools" / "fake_backend.py"
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{fake}' '{behaviour}' {seconds}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script
