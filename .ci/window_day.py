"""A day with the extension in a real window: words, weights, search, where a result stands, copies, exports.

    python3 window_day.py ZIP PICTURES      (inside Debian with Blender, by .ci/window --day)

With DREAMFLOW_PYTHON: a backend's Python, or what pretends to be one.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
import time
from pathlib import Path

import window_hands as hands
from window_drive import LONG, NAME, PLACES, words


def drive(zip_file: Path, pictures: Path) -> None:
    places = PLACES[hands.version()]
    shutil.rmtree(hands.HOME, ignore_errors=True)
    hands.HOME.mkdir()
    hands.run("blender", "--command", "extension", "install-file", "-r", "user_default", "-e", str(zip_file))
    hands.start()
    hands.open_tab(places["tab"])
    words(pictures)
    search(places, pictures)
    beside_what_is_there(pictures)
    assets(pictures)
    made_ready(pictures)
    copy_stands_for_its_original(pictures)
    candidates(pictures)


def search(places: dict[str, tuple[int, int]], pictures: Path) -> None:
    """F3, and the word that an artist knows."""
    for word in ("dreamflow", "mark as asset"):
        if hands.version() < (5, 0):
            hands.key("F3", places["viewport"])
        else:  # whose key waits for the next event, and then the viewport takes what is typed
            hands.order("search")
        time.sleep(6)
        hands.run("xdotool", "type", "--delay", "80", word)
        time.sleep(3)
        hands.screen(pictures / f"search-{word.split()[0]}.png")
        hands.run("xdotool", "key", "Escape")
        hands.run("xdotool", "key", "Escape")
        time.sleep(1)


def beside_what_is_there(pictures: Path) -> None:
    """The default cube is there: the growing mesh and the result stand next to it, and no export meets the first."""
    hands.order("cube")
    hands.order("operator", "generate")
    hands.wait("the mesh grows", lambda t: t["preview"], LONG)
    hands.order("export", "/tmp/during.glb")
    if (found := nodes(Path("/tmp/during.glb"))) != ["Cube"]:
        raise hands.Failed(f"exported during the job: {found}")
    hands.picture(pictures / "day-growing.png")
    hands.wait("the object is there", lambda t: NAME in t["objects"] and not t["preview"], LONG)
    hands.picture(pictures / "day-beside.png")
    boxes = hands.told()["boxes"]
    gap = max(
        max(boxes[NAME][0][i] - boxes["Cube"][1][i], boxes["Cube"][0][i] - boxes[NAME][1][i]) for i in (0, 1)
    )
    if gap <= 0:
        raise hands.Failed(f"the result stands in the cube: {boxes}")
    hands.order("export", "/tmp/after.glb")
    if (found := nodes(Path("/tmp/after.glb"))) != ["Cube", NAME]:
        raise hands.Failed(f"exported after the job: {found}")


def nodes(path: Path) -> list[str]:
    """The names of a GLB's nodes."""
    raw = path.read_bytes()
    return sorted(
        node["name"] for node in json.loads(raw[20 : 20 + struct.unpack_from("<I", raw, 12)[0]])["nodes"]
    )


def assets(pictures: Path) -> None:
    hands.order("operator", "mark_asset")
    time.sleep(3)
    hands.screen(pictures / "dialog-asset.png")
    hands.run("xdotool", "key", "Return")
    hands.wait("marked as an asset", lambda t: t["assets"] == [NAME], 15)
    hands.order("operator", "open_preferences")
    time.sleep(4)
    hands.screen(pictures / "preferences.png")
    hands.order("close preferences")
    time.sleep(1)
    hands.focus()


def made_ready(pictures: Path) -> None:
    """What Make ready asks, for a game and for other programs; then a game's mesh stands beside the object."""
    before = hands.told()["objects"]
    for profile in ("detailed", "game"):
        hands.order("operator", "deliver", {"profile": profile})
        time.sleep(3)
        hands.screen(pictures / f"dialog-ready-{profile}.png")
        hands.run("xdotool", "key", "Escape" if profile == "detailed" else "Return")
        time.sleep(1)
    hands.wait("the game's mesh stands beside it", lambda t: len(t["objects"]) == len(before) + 1, LONG)
    time.sleep(2)
    hands.picture(pictures / "day-ready.png")
    (light,) = set(hands.told()["objects"]) - set(before)
    hands.order("remove", light)
    hands.wait("the game's mesh is removed", lambda t: t["objects"] == before, 15)


def copy_stands_for_its_original(pictures: Path) -> None:
    """No UVs under a modifier: the dialog asks, and while the copy stands for it, the original is not rendered."""
    hands.order("without uvs", "Cube")
    hands.order("operator", "refine")
    time.sleep(4)
    hands.screen(pictures / "dialog-without-uvs.png")
    hands.run("xdotool", "key", "Return")
    hands.wait("refined: a copy", lambda t: "Cube refined" in t["objects"] and not t["preview"], LONG)
    if hands.told()["rendered"] != ["Cube refined", NAME]:
        raise hands.Failed(f"rendered: {hands.told()['rendered']}")
    hands.picture(pictures / "day-copy.png")
    hands.order("render", str(pictures / "day-render.png"))
    hands.order("operator", "discard_refined")
    hands.wait("discarded: as before", lambda t: t["rendered"] == ["Cube", NAME], 15)
    hands.picture(pictures / "day-discarded.png")


def candidates(pictures: Path) -> None:
    """Four seeds are shown; the one that is chosen is finished, and the choice is closed."""
    before = len(hands.told()["history"])
    hands.order("settings", {"candidates": "4", "prompt": "a blue teapot"})
    hands.order("operator", "generate")
    hands.wait("four candidates to choose from", lambda t: len(t["to choose"]) == 4 and not t["stage"], LONG)
    time.sleep(2)
    hands.picture(pictures / "day-candidates.png")
    (chosen, group), *_ = hands.told()["to choose"]
    hands.order("operator", "choose_candidate", {"job_id": chosen})
    hands.wait(
        "the chosen one is finished", lambda t: len(t["history"]) == before + 1 and not t["stage"], LONG
    )
    hands.order("operator", "leave_candidates", {"group": group})
    hands.wait("the choice is closed", lambda t: not t["to choose"], 15)
    hands.picture(pictures / "day-chosen.png")


if __name__ == "__main__":
    sys.exit(hands.on_a_screen("a day", drive))
