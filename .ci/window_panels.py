"""The panel before, during and after a job: at its default width, at 190 pixels, at 150 % and in German, as pictures.

    python3 window_panels.py ZIP PICTURES      (inside Debian with Blender, by .ci/window --panels)

With DREAMFLOW_PYTHON: a backend's Python, or what pretends to be one.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import window_hands as hands
from window_drive import LONG, NAME, PLACES

NARROW = 190  # pixels


def drag(width: int) -> None:
    """The sidebar's edge, until it is so wide."""
    for off in (0, 2, -2, 4, -4, 6, 1, -1):  # where Blender's handle is, to the pixel
        x, now = hands.told()["sidebar"]
        if abs(now - width) < 12:
            return
        hands.run("xdotool", "mousemove", str(x + off - 20), "160")
        time.sleep(0.3)
        hands.run("xdotool", "mousemove", str(x + off), "160")
        time.sleep(0.3)
        hands.run("xdotool", "mousedown", "1")
        for step in range(1, 6):
            hands.run("xdotool", "mousemove", str(x + off + (now - width) * step // 5), "160")
            time.sleep(0.2)
        hands.run("xdotool", "mouseup", "1")
        time.sleep(2)
    raise hands.Failed(f"the sidebar is {hands.told()['sidebar'][1]} pixels wide, not {width}")


def job(pictures: Path, name: str) -> None:
    """Before, during, after."""
    before = len(hands.told()["objects"])
    hands.picture(pictures / f"before{name}.png")
    hands.order("operator", "generate")
    hands.wait("the mesh grows", lambda t: t["preview"] and len(t["objects"]) == before, LONG)
    hands.wait("half way", lambda t: t["stage"] in ("texture", "refine", "deliver"), LONG)
    hands.picture(pictures / f"during{name}.png")
    hands.wait("the object is there", lambda t: len(t["objects"]) > before and not t["preview"], LONG)
    time.sleep(2)
    hands.picture(pictures / f"after{name}.png")
    hands.order("remove", NAME)


def drive(zip_file: Path, pictures: Path) -> None:
    places = PLACES[hands.version()]
    shutil.rmtree(hands.HOME, ignore_errors=True)
    hands.HOME.mkdir()
    hands.run("blender", "--command", "extension", "install-file", "-r", "user_default", "-e", str(zip_file))
    hands.start()
    hands.open_tab(places["tab"])
    job(pictures, "")
    hands.order("language", "de_DE")
    job(pictures, "-german")
    hands.order("language", "en_US")
    hands.order("scale", 1.5)
    time.sleep(3)  # the areas are drawn again with the next event
    job(pictures, "-150")
    hands.order("scale", 1.0)
    time.sleep(3)
    drag(NARROW)
    job(pictures, "-narrow")
    hands.order("language", "de_DE")
    hands.picture(pictures / "after-narrow-german.png")


if __name__ == "__main__":
    sys.exit(hands.on_a_screen("panels", drive))
