"""A page's figures are what its command prints now, under the commit of now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import all as renewing

PAGE = """# Figures

Before.

<!-- figures -->
{figures}

Measured by `python -m benchmarks.two` at `{commit}`{time}.
After.

| by hand | 1 |

Measured once by `python -m benchmarks.two` at `0000000`.
"""


def test_figures_are_renewed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("docs", "benchmarks"):
        (tmp_path / folder).mkdir()
    page, program = tmp_path / "docs" / "page.md", tmp_path / "benchmarks" / "two.py"
    page.write_text(PAGE.format(figures="    old", commit="0000000", time=""), encoding="utf-8")
    program.write_text("print('| a | b |')\nprint('|---|---|')\nprint('| x | 2 |')\nraise SystemExit(1)\n")
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=n@n"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "One"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(renewing, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["all", "--only", "two"])
    renewing.main()
    commit = subprocess.run(
        [*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True
    )
    expected = PAGE.format(
        figures="| a | b |\n|---|---|\n| x | 2 |",
        commit=commit.stdout.strip(),
        time=", in 0.0 minutes of processor",
    )
    assert page.read_text(encoding="utf-8") == expected
    program.write_text("raise OSError\n")
    with pytest.raises(SystemExit, match=r"Commit this first.*\n.*two\.py"):
        renewing.main()
    subprocess.run([*git, "commit", "-qam", "Two"], check=True)
    with pytest.raises(SystemExit, match="two ended with 1"):
        renewing.main()
    assert page.read_text(encoding="utf-8") == expected
