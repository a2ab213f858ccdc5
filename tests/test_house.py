"""The layout holds: imports go down, no circle, small folders and files, every folder's duty in docs/architecture.md.

Imports are read with `ast`, those inside functions too, so an import that is only made late counts like any other.
"""

from __future__ import annotations

import ast
import itertools
import re
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("backend", "dreamflow_blender")
MOST_FLOORS = {"backend": 8, "dreamflow_blender": 9}
MOST_FILES = 12  # in a folder, beside its __init__.py
MOST_LINES = 400
ROW = re.compile(r"^\| (\d+) \| `([\w/.]+)` \| (\S.*) \|$", re.MULTILINE)

Edges = dict[str, dict[str, str]]  # from -> to -> one import that makes it so


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_files(root: Path) -> dict[str, Path]:
    """Module -> file."""
    return {module_name(p, root): p for package in PACKAGES for p in sorted((root / package).rglob("*.py"))}


def imports_of(module: str, path: Path) -> list[tuple[str, int]]:
    """Everything that a file imports, as dotted names (`from a import b` is a.b), with the line."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found


def file_edges(files: dict[str, Path]) -> Edges:
    """Which of our files import which; `backend` itself holds the version alone, `dreamflow_blender` late imports."""
    edges: Edges = defaultdict(dict)
    for module, path in files.items():
        for name, line in imports_of(module, path):
            while name and name not in files:
                name = name.rpartition(".")[0]
            if name and name != module and name not in PACKAGES:
                edges[module].setdefault(name, f"{path.relative_to(ROOT)}:{line}")
    return edges


def place_of(module: str, files: dict[str, Path]) -> str:
    """The folder of a file, "backend/scene"; of a file of backend itself, which has no folder, the file."""
    path = files[module].relative_to(ROOT)
    if len(path.parts) == 2 and path.parts[0] == "backend":
        return path.as_posix()
    return path.parent.as_posix()


def place_edges(files: dict[str, Path], edges: Edges) -> Edges:
    found: Edges = defaultdict(dict)
    for one, others in edges.items():
        for other, where in others.items():
            a, b = place_of(one, files), place_of(other, files)
            if a != b:
                found[a].setdefault(b, f"{where} imports {other}")
    return found


def circle(edges: Edges) -> list[str]:
    """One circle, its first name again at the end; [] where there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in edges.get(name, {}):
            found = walk(other, [*way, name])
            if found:
                return found
        done.add(name)
        return []

    return next(filter(None, (walk(name, []) for name in list(edges))), [])


def floors(edges: Edges, names: set[str]) -> dict[str, int]:
    """1 for what imports nothing of ours; else one more than the highest that it imports."""
    found: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in found:
            found[name] = 1 + max((floor(other) for other in edges.get(name, {})), default=0)
        return found[name]

    for name in names:
        floor(name)
    return found


FILES = find_files(ROOT)
EDGES = file_edges(FILES)
PLACES = place_edges(FILES, EDGES)
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
STATED = {name.removesuffix("/"): int(floor) for floor, name, _ in ROW.findall(DOCUMENT)}


SCRIPTS = {
    "dreamflow_blender/batch.py",
    "dreamflow_blender/gather/bake_child.py",
}  # run by Blender as bare files


def test_the_extension_imports_itself_relatively() -> None:
    """Installed, its package is called bl_ext.user_default.dreamflow.dreamflow_blender: no other name is importable."""
    absolute = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "dreamflow_blender").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
        if name.partition(".")[0] == "dreamflow_blender" and path.relative_to(ROOT).as_posix() not in SCRIPTS
    ]
    assert absolute == []


def test_no_circle_among_files() -> None:
    assert circle(EDGES) == []


def test_no_circle_among_folders() -> None:
    found = circle(PLACES)
    why = [PLACES[a][b] for a, b in itertools.pairwise(found)]
    assert found == [], f"{' -> '.join(found)}: {why}"


def test_every_folder_has_its_duty_and_its_floor_in_the_document() -> None:
    names = {place_of(module, FILES) for module in FILES}
    assert names - set(STATED) == set(), "docs/architecture.md does not say what these are for"
    assert set(STATED) - names == set(), "docs/architecture.md names what is not there"
    assert floors(PLACES, names) == STATED, "docs/architecture.md gives other floors than the imports"


def test_no_import_goes_up_or_stays_on_its_floor() -> None:
    wrong = [
        why for one, others in PLACES.items() for other, why in others.items() if STATED[one] <= STATED[other]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_few_floors(package: str) -> None:
    own = {floor for name, floor in STATED.items() if name.split("/")[0] == package}
    assert len(own) <= MOST_FLOORS[package]


def test_small_folders() -> None:
    count: dict[str, int] = defaultdict(int)
    for path in FILES.values():
        count[path.parent.relative_to(ROOT).as_posix()] += path.name != "__init__.py"
    assert {name: n for name, n in count.items() if n > MOST_FILES} == {}


def test_small_files() -> None:
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in FILES.items()}
    assert {module: n for module, n in lines.items() if n > MOST_LINES} == {}
    assert statistics.median(lines.values()) < 150


def test_diffusion_and_its_models_see_cameras_and_no_mesh() -> None:
    """What a picture should look like is decided without the object that it shows."""
    own = ("backend.diffusion", "backend.models", "backend.sides")
    allowed = (
        "backend.scene.camera",
        *own,
        "backend.errors",
        "backend.files",
        "backend.images",
        "backend.device",
        "backend.draws",
        "backend.weights",
        "dreamflow_blender.contract.language",
    )
    wrong = [
        where
        for module, others in EDGES.items() if module.startswith(own)
        for other, where in others.items() if not other.startswith(allowed)
    ]  # fmt: skip
    assert wrong == []


def test_the_scene_sees_no_prompt() -> None:
    allowed = ("backend.scene", "backend.kernels", "backend.config", "backend.errors", "backend.device")
    wrong = [
        where
        for module, others in EDGES.items() if module.startswith("backend.scene")
        for other, where in others.items() if not other.startswith(allowed)
    ]  # fmt: skip
    assert wrong == []


def test_the_extension_imports_neither_torch_nor_the_backend() -> None:
    """Blender's Python has no torch; the backend is another process."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for module, path in FILES.items() if module.startswith("dreamflow_blender")
        for name, line in imports_of(module, path) if name.split(".")[0] in ("torch", "backend")
    ]  # fmt: skip
    assert wrong == []


def test_what_is_said_to_need_no_blender_does_not_import_it() -> None:
    folders = ("contract", "client", "setup", "backlog")
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for module, path in FILES.items() if module.startswith(tuple(f"dreamflow_blender.{name}" for name in folders))
        for name, line in imports_of(module, path) if name.split(".")[0] == "bpy"
    ]  # fmt: skip
    assert wrong == []


def test_documents_name_files_that_are_there() -> None:
    documents = [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "backend").rglob("*.md")),
    ]
    tracked = {
        path.name
        for folder in (*PACKAGES, "tests", "benchmarks", "examples", ".ci")
        for path in (ROOT / folder).rglob("*.py")
    }
    wrong = []
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r"(?<![\w/.:-])(?:[\w.]+/)*[\w]+\.py\b", text):
            homes = [ROOT, document.parent, *(ROOT / package for package in PACKAGES)]
            there = any((home / name).is_file() for home in homes) or ("/" not in name and name in tracked)
            if not there and "PATH/" not in name:
                wrong.append(f"{document.relative_to(ROOT)}: {name}")
    assert wrong == []


# The measure itself, on trees that are wrong


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({"a": {"b": ""}, "b": {"c": ""}}, []),
        ({"a": {"b": ""}, "b": {"c": ""}, "c": {"a": ""}}, ["a", "b", "c", "a"]),
        ({"a": {"b": "", "c": ""}, "b": {"d": ""}, "c": {"d": ""}}, []),
        ({"a": {"b": ""}, "b": {"c": ""}, "c": {"b": ""}}, ["b", "c", "b"]),
    ],
)
def test_circles_are_found(edges: Edges, expected: list[str]) -> None:
    assert circle(edges) == expected


def test_late_and_relative_imports_are_found(tmp_path: Path) -> None:
    path = tmp_path / "dreamflow_blender" / "ui" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from . import parts\n\ndef f():\n    from ..scene.objects import Thing\n    import torch\n"
    )
    assert imports_of("dreamflow_blender.ui.x", path) == [
        ("dreamflow_blender.ui.parts", 1), ("dreamflow_blender.scene.objects.Thing", 4), ("torch", 5),
    ]  # fmt: skip


def test_floors_are_counted_from_below() -> None:
    edges: Edges = {"roof": {"wall": "", "ground": ""}, "wall": {"ground": ""}}
    assert floors(edges, {"roof", "wall", "ground"}) == {"ground": 1, "wall": 2, "roof": 3}
