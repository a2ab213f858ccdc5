"""Colours that only a renderer knows: baked with Cycles in a Blender of its own, on a saved copy of the object.

The user's scene is not touched: no selection, engine or setting of it is part of this.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from numpy.typing import NDArray

from ..client.background import Stop
from ..client.process import clean_environment
from ..client.steps import CommandFailed, Log, Progress, SetupError, run
from .material import CannotRefine, Source, source_of
from .object import cannot_refine_reason

CHILD = Path(__file__).with_name("bake_child.py")
SIZES = ((4_000, 1024), (40_000, 2048), (220_000, 4096))  # polygons at most: pixels a side


@dataclass(frozen=True)
class Baked:
    """loop_uv [L,2] of the evaluated mesh whose loop_print is `of`; images by material slot's kind."""

    of: str
    loop_uv: NDArray[np.float32]
    kinds: dict[int, str]  # "emit" or "diffuse", by material slot
    images: dict[str, NDArray[np.uint8]]  # [H,W,4], row 0 = top


def sources_of(obj: bpy.types.Object) -> list[Source]:
    """Of every material slot; one grey where there is none. Raises CannotRefine."""
    said = cannot_refine_reason(obj)
    if said:
        raise CannotRefine(f"{said}.")
    return [source_of(slot.material) for slot in obj.material_slots] or [source_of(None)]


def write_copy(obj: bpy.types.Object, folder: Path, frame: int, slots: list[int]) -> None:
    """copy.blend with the object and all that it uses, and what is to be done with it. Raises CannotRefine."""
    if obj.library is not None:
        raise CannotRefine(
            f"{obj.name} is linked, and its colours have to be baked: make it local first"
            " (Object > Relations > Make Local)."
        )
    if not len(obj.data.polygons) and not len(obj.modifiers):
        raise CannotRefine(f"{obj.name} has no faces.")
    for number in slots:
        unsaved = _unsaved(obj.material_slots[number].material)
        if unsaved:
            raise CannotRefine(f"The image “{unsaved}” has changes that are not saved: save it first.")
    if obj.mode == "EDIT":
        obj.update_from_editmode()  # as saving does
    folder.mkdir(parents=True, exist_ok=True)
    bpy.data.libraries.write(str(folder / "copy.blend"), {obj}, path_remap="ABSOLUTE", fake_user=False)
    count = len(obj.data.polygons)
    wish = {"object": obj.name, "frame": frame, "slots": slots, "sizes": SIZES, "polygons": count}
    (folder / "wish.json").write_text(json.dumps(wish), encoding="utf-8")


def _unsaved(material: bpy.types.Material) -> str:
    """An image that was painted on and is only in memory: a copy of the file would not have it."""
    trees, seen = [material.node_tree], set()
    while trees:
        tree = trees.pop()
        if tree is None or tree.name in seen:
            continue
        seen.add(tree.name)
        for node in tree.nodes:
            if node.type == "TEX_IMAGE" and node.image is not None and node.image.is_dirty:
                return str(node.image.name)
            trees.append(getattr(node, "node_tree", None))
    return ""


def command(folder: Path) -> list[str]:
    """A Blender without a window; with bpy as a module, this Python."""
    if bpy.app.binary_path:
        start = [
            bpy.app.binary_path,
            "-b",
            "--factory-startup",
            "--python-exit-code",
            "3",
            "-P",
            str(CHILD),
            "--",
        ]
    else:
        start = [sys.executable, str(CHILD)]
    return [*start, str(folder)]


def bake(folder: Path, command: list[str]) -> Callable[[Stop], Iterator[Progress]]:
    """As a task's work: no `bpy`. It raises SetupError with what went wrong."""

    def work(stop: Stop) -> Iterator[Progress]:
        log = Log(folder / "bake.log")
        fraction = 0.05
        try:
            for line in run(command, stop, log, clean_environment()):
                if line.startswith("{"):
                    said = json.loads(line)
                    if "failed" in said:
                        raise SetupError(
                            str(said["failed"]), "Simplify the material, or bake it yourself.", log.tail()
                        )
                    fraction = max(fraction, float(said.get("fraction", 0)))
                yield Progress(fraction, "", "bake")
        except (CommandFailed, OSError) as error:
            raise SetupError(
                f"The colours could not be baked ({error}).",
                "Bake them into an image yourself, and refine again.",
                log.tail(),
            ) from error
        finally:
            log.close()

    return work


def read(folder: Path) -> Baked:
    """What was baked. Raises CannotRefine."""
    try:
        said = json.loads((folder / "baked.json").read_text(encoding="utf-8"))
        images = {
            kind: np.load(folder / f"{kind}.npy", allow_pickle=False) for kind in set(said["kinds"].values())
        }
        loop_uv = np.load(folder / "loop_uv.npy", allow_pickle=False)
    except (OSError, ValueError, KeyError) as error:
        raise CannotRefine(f"The baked colours cannot be read ({error}).") from error
    return Baked(str(said["of"]), loop_uv, {int(k): v for k, v in said["kinds"].items()}, images)


def throw_away(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
