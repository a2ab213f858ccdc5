"""Every command of the documents is one that there is, and needs no more than `build.py setup` brings."""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backend import __main__ as cli
from backend.cli.arguments import parser
from backend.meshes.write import write_result
from backend.scene.mesh import Mesh

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "backend").rglob("*.md")]
IN_LINES = re.compile(r"^ {4}(python(?: .+)?)$", re.MULTILINE)
IN_TEXT = re.compile(r"`(python [^`]+)`")
DISTRIBUTIONS = {"PIL": "pillow", "warp": "warp-lang", "huggingface_hub": "huggingface-hub"}
OPTIONAL = {"nvdiffrast", "tinycudann", "DracoPy", "meshoptimizer"}  # used where they can be imported


def commands() -> list[str]:
    """Without what is said about them beside them."""
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    texts += [f"    {line}\n" for line in re.findall(r"^  (python .+)$", _helps(), re.MULTILINE)]
    found = {line for text in texts for line in (*IN_LINES.findall(text), *IN_TEXT.findall(text))}
    return sorted(re.split(r" {2,}| # ", line)[0] for line in found)


def subparsers() -> dict[str, argparse.ArgumentParser]:
    actions = parser()._actions
    return next(dict(a.choices) for a in actions if isinstance(a, argparse._SubParsersAction))  # type: ignore[arg-type]


def _helps() -> str:
    return "\n".join(command.epilog or "" for command in subparsers().values())


def test_there_are_commands_to_look_at() -> None:
    found = commands()
    assert len(found) > 40 and {"python build.py setup", "python -m backend doctor"} <= set(found)


def test_every_command_has_examples() -> None:
    assert [name for name, one in subparsers().items() if "examples:" not in (one.epilog or "")] == []


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("python -m backend ")])
def test_the_command_line_understands_it(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(command.split(">")[0])[3:]
    known = subparsers()[words[0]]
    if "[" in command or "|" in command:  # a synopsis
        options = {option for action in known._actions for option in action.option_strings}
        assert set(re.findall(r"--[a-z-]+", command)) <= options
        return
    with pytest.raises(SystemExit) if "--help" in words else _nothing():
        parser().parse_args(words)


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_programs_and_their_options_are_there() -> None:
    wrong = []
    for command in commands():
        words = command.split()
        if words[1:2] == ["-m"]:
            name = words[2]
            if not name.startswith(("backend.", "benchmarks.")):
                continue
            path = ROOT / (name.replace(".", "/") + ".py")
            path = path if path.exists() else ROOT / name.replace(".", "/") / "__main__.py"
        else:
            path = ROOT / words[1]
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        options = re.findall(r"--[a-z-]+", command) if words[1:3] != ["build.py", "test"] else []
        wrong += [command] if not text or any(option not in text for option in options) else []
    assert wrong == []


def test_programs_need_no_package_that_setup_does_not_install() -> None:
    """`python -m benchmarks.kernels` ended in "No module named 'trimesh'"."""
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    ours = {"backend", "dreamflow_blender", "benchmarks", "tests"}
    todo = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py")]
    seen, wrong = set(todo), []
    while todo:
        path = todo.pop()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += (
                [f"{node.module}.{a.name}" for a in node.names] if isinstance(node, ast.ImportFrom) else []
            )
            for name in names:
                top = name.split(".")[0]
                if top == "tests":
                    file = ROOT / (name.replace(".", "/") + ".py")
                    todo += [file] if file.is_file() and file not in seen else []
                    seen.add(file)
                elif (
                    top not in ours | sys.stdlib_module_names | OPTIONAL
                    and DISTRIBUTIONS.get(top, top) not in pinned
                ):
                    wrong.append(f"{path.relative_to(ROOT)}: {top}")
    assert wrong == []


def test_the_example_says_how_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["minimal_client.py"])
    with pytest.raises(SystemExit, match="PROMPT FOLDER"):
        runpy.run_path(str(ROOT / "examples" / "minimal_client.py"), run_name="__main__")


@pytest.mark.parametrize("command", ["jobs", "jobs clean", "models", "settings"])
def test_quick_ones_run(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert cli.main(command.split()) == 0
    assert "mini" in capsys.readouterr().out or command != "models"


EXPORTS = [c for c in commands() if " export " in c and not re.search("--deliver (game|quads)|fbx", c)]


@pytest.mark.parametrize("command", EXPORTS)
def test_a_finished_job_is_exported_as_written(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's asked for a package that setup does not install."""
    folder = tmp_path / "out" / "a-red-mug-42"
    folder.mkdir(parents=True)
    closed = [(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)]
    uv = torch.rand(3, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([[0, 1, 2]] * 4)
    mesh = Mesh(torch.tensor([(0.0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]), torch.tensor(closed), *uv)
    write_result(folder, mesh, torch.full((8, 8, 3), 0.5), {"prompt": "a red mug"})
    record = {"job": {"id": "1", "kind": "generate", "prompt": "a red mug", "folder": str(folder)}}
    (folder / "job.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    plain = re.sub(
        r"\|[^\s\]]+|[][]", "", command
    )  # of a synopsis: all that is optional, the first of what is to choose
    words = shlex.split(plain.replace("FOLDER", "out/a-red-mug-42"))
    assert cli.main(words[3:]) == 0, capsys.readouterr().err


def test_the_documents_of_users_ask_for_no_tool_of_the_tests() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    found = [line for text in texts for line in (*IN_LINES.findall(text), *IN_TEXT.findall(text))]
    assert [line for line in found if re.match(r"python -m (pytest|ruff|mypy|coverage)\b", line)] == []


def test_nothing_says_pip_alone_which_setup_does_not_install() -> None:
    """`pip install ...` is another Python's, or nobody's: uv makes `.venv` without it."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    assert [line for text in texts for line in re.findall(r"^ {4}pip .+$", text, re.MULTILINE)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kernels", "stages"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_there_is_said_in_a_sentence(name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--device", "cuda"], cwd=ROOT, capture_output=True, text=True,
        check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 2 and "no usable NVIDIA card" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({c.split()[2] for c in commands() if "-m benchmarks." in c}))
def test_programs_start_with_what_setup_installs(name: str, tmp_path: Path) -> None:
    for absent in ("trimesh", "pytest", "hypothesis", "coverage"):
        (tmp_path / f"{absent}.py").write_text(f"raise ModuleNotFoundError({absent!r})")
    ran = subprocess.run(
        [sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-1000:]
