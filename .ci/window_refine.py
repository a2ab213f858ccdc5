"""Refine in the real window: select, press, see it change, undo once, back to before. Two roles in one file.

    python3 window_refine.py ZIP PICTURES      drives, inside Debian with Blender, as window_drive.py does
    blender -P window_refine.py                tells what goes on, as window_start.py does

With DREAMFLOW_PYTHON: a backend's Python, or what pretends to be one.
"""

# ruff: noqa: T201  it is a command

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # `blender -P` does not do it
EXTENSION = "bl_ext.user_default.dreamflow"
PAINT = (0.6, 0.25, 0.1, 1.0)  # of the object before


def in_blender() -> None:
    import bpy
    import numpy as np
    import window_start

    def paint() -> None:
        """The default cube under an image of checks, seen as it is painted."""
        made = bpy.data.objects["Cube"]
        image = bpy.data.images.new("paint", 64, 64)
        checks = (np.indices((64, 64)) // 8).sum(0) % 2
        pixels = np.ones((64, 64, 4), np.float32)
        pixels[..., :3] = np.where(checks[..., None] > 0, PAINT[:3], (0.9, 0.8, 0.6))
        image.pixels.foreach_set(pixels.ravel())
        image.pack()
        material = made.data.materials[0]
        material.name = "Paint"
        node = material.node_tree.nodes.new("ShaderNodeTexImage")
        node.image = image
        material.node_tree.nodes.active = node
        shader = next(n for n in material.node_tree.nodes if n.type == "BSDF_PRINCIPLED")
        material.node_tree.links.new(node.outputs["Color"], shader.inputs["Base Color"])
        settings = bpy.context.scene.dreamflow_refine
        settings.prompt, settings.model = "a red mug", "BUILT_IN"
        settings.prompt_of = str(made.session_uid)  # or the dialog takes the object's name
        settings.strength = 0.5
        for area in window_start.sidebars():
            area.spaces.active.shading.color_type = "TEXTURE"
            area.spaces.active.region_3d.view_distance = 7.0
        with bpy.context.temp_override(window=bpy.context.window_manager.windows[0]):
            bpy.ops.ed.undo_push(message="Painted")

    def tell_more() -> dict[str, Any]:
        told = before()
        made = bpy.data.objects.get("Cube")
        if made is not None:
            told["material"] = made.material_slots[0].material.name
            told["undecided"] = "dreamflow_refined" in made
        return told

    before = window_start.tell_of_jobs
    window_start.tell_of_jobs = tell_more
    window_start.stage = lambda keep=False: None  # the cube stays
    window_start.DEEDS["paint"] = paint


def drive(zip_file: Path, pictures: Path) -> None:
    import window_hands as hands
    from window_drive import PLACES

    here = hands.version()
    places = PLACES[here]
    free = places["viewport"]
    print(f"Blender {here[0]}.{here[1]}", flush=True)
    shutil.rmtree(hands.HOME, ignore_errors=True)
    hands.HOME.mkdir()
    hands.run("blender", "--command", "extension", "install-file", "-r", "user_default", "-e", str(zip_file))
    blender = start(hands)
    try:
        open_tab(hands, places["tab"])
        hands.order("paint")
        time.sleep(3)
        hands.picture(pictures / "refine-before.png")
        ask(hands, free, pictures)
        hands.wait("said yes to the dialog: it is at work", lambda t: bool(t["stage"]), 180)
        hands.wait(
            "the texture changes in the viewport", lambda t: t["preview"] and t["material"] == "Paint", 600
        )
        time.sleep(1)
        hands.picture(pictures / "refine-during.png")
        hands.wait("the object shows it", lambda t: t["undecided"] and not t["preview"], 900)
        if hands.told()["material"] != "Paint refined":
            raise hands.Failed(f"it shows {hands.told()['material']}")
        time.sleep(2)
        hands.picture(pictures / "refine-after.png")
        hands.order("shading", "MATERIAL", "TEXTURE")
        time.sleep(90)  # without a card Blender builds its shaders slowly
        hands.picture(pictures / "refine-material.png")
        hands.order("shading", "SOLID", "TEXTURE")
        hands.order("operator", "before_after")
        hands.wait("Show before", lambda t: t["material"] == "Paint", 10)
        hands.order("operator", "before_after")
        hands.wait("Show after", lambda t: t["material"] == "Paint refined", 10)
        hands.key("ctrl+z", free)
        hands.wait("undone once: the one before", lambda t: t["material"] == "Paint" and t["undecided"], 15)
        hands.key("ctrl+z", free)
        hands.wait("undone twice: refined", lambda t: t["material"] == "Paint refined", 15)
        hands.key("ctrl+z", free)
        hands.wait("and once more: as before", lambda t: t["material"] == "Paint" and not t["undecided"], 15)
        hands.key("ctrl+shift+z", free)
        hands.wait("redone", lambda t: t["material"] == "Paint refined", 15)
        hands.key("ctrl+z", free)
        hands.wait("undone once: as before", lambda t: t["material"] == "Paint" and not t["undecided"], 15)
    finally:
        hands.kill(blender)


def ask(hands: Any, free: tuple[int, int], pictures: Path) -> None:
    """Until it is heard: a busy Blender loses a click now and then, as it does a user's."""
    for _ in range(5):
        hands.run("xdotool", "mousemove", *map(str, free))
        hands.order("operator", "refine")  # its dialog comes up under the mouse
        time.sleep(5)
        hands.screen(pictures / "refine-dialog.png")
        hands.run("xdotool", "key", "Return")
        until = time.monotonic() + 15
        while time.monotonic() < until:
            if hands.told().get("share"):
                return
            time.sleep(0.2)
    raise hands.Failed("the dialog was not heard")


def open_tab(hands: Any, place: tuple[int, int]) -> None:
    """It stands a little higher or lower, as other tabs are there or not."""
    for down in (0, 30, 60, -30, 90):
        hands.click((place[0], place[1] + down))
        time.sleep(2)
        if hands.told().get("tab") == "DreamFlow":
            return
    raise hands.Failed(f"the sidebar's tab was not found: {hands.told().get('tab')}")


def start(hands: Any) -> subprocess.Popen[bytes]:
    """With this file, and through it window_start.py."""
    command = ["blender", "--window-geometry", "0", "0", "1600", "900", "-P", str(Path(__file__).resolve())]
    with Path("/tmp/blender-refine.log").open("wb") as log:
        blender = subprocess.Popen(
            command, env=hands.environment(), stdout=log, stderr=log, start_new_session=True
        )
    hands.wait("Blender's window", lambda told: True, 120)
    time.sleep(2)
    window = hands.run("xdotool", "search", "--onlyvisible", "--class", "blender").split()[0]
    hands.run("xdotool", "windowfocus", window)
    return blender


def main() -> int:
    import window_hands as hands

    hands.HOME = hands.HERE / "home of refine"  # beside another run
    hands.WATCH = Path("/tmp/dreamflow-refine.json")
    hands.ORDER = hands.WATCH.with_suffix(".do")
    for left in (hands.WATCH, hands.ORDER):
        left.unlink(missing_ok=True)
    return hands.on_a_screen("refine", drive)


if "bpy" in sys.modules:
    in_blender()
elif __name__ == "__main__":
    sys.exit(main())
