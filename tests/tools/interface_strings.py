"""Every English string of the extension's interface, read from its source: what a translation has to hold.

A string is one of the interface where it stands in a module that draws, names or reports, and reads like words: it has
a space, or begins with a capital. Left out: docstrings, names of Blender's own, what is only compared.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2] / "dreamflow_blender"
MODULES = (
    *sorted((ROOT / "ui").glob("*.py")),
    *sorted((ROOT / "ops").glob("*.py")),
    *sorted((ROOT / "settings").glob("*.py")),
    ROOT / "preferences.py",
    ROOT / "session" / "loras.py",
    ROOT / "session" / "estimates.py",
    ROOT / "session" / "models.py",
    ROOT / "session" / "importing.py",
    ROOT / "gather" / "object.py",
)
MORE = {  # single words that are drawn in the middle of a line
    "of", "at", "seed", "stopped", "interrupted", "failed", "about", "included", "none", "sharpens",
    "repaints", "candidate, not chosen",
}  # fmt: skip
NAMES = {  # of Blender's own, of data, or the same in every language
    "DreamFlow", "UVMap", "3D View", "Stable Diffusion", "Stable Diffusion XL", "SDXL refiner", "Image", "Mesh",
    "Blender", "a red mug", "Scripts", "utf-8",
}  # fmt: skip
WORDS = re.compile(r"\{|[A-Z][a-z]|.*[A-Za-z].* .*[A-Za-z]|.*[a-z] / [a-z]")


def strings() -> set[str]:
    found: set[str] = set()
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        left_out = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                left_out.add(id(node.body[0].value))  # type: ignore[attr-defined]
            if isinstance(node, ast.JoinedStr):  # what is put together is translated in its pieces
                left_out |= {id(value) for value in node.values}
            if isinstance(node, ast.Assert):
                left_out |= {id(inner) for inner in ast.walk(node)}
        found |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out
            if node.value in MORE or (WORDS.match(node.value) and "\n" not in node.value)
        }
    return found - NAMES
