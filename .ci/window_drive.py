"""Run by .ci/window inside Debian with Blender: a user who installs the zip, sets up, clicks, waits, undoes, kills.

    python3 window_drive.py ZIP PICTURES     (with DREAMFLOW_PYTHON: instead of Set up)

Prints a line a step with its time, and exits with 1 at the first that does not hold.
"""

# ruff: noqa: T201  it is a command

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from window_hands import (
    HOME,
    Failed,
    click,
    environment,
    focus,
    gone,
    key,
    kill,
    on_a_screen,
    open_tab,
    order,
    picture,
    press,
    run,
    screen,
    start,
    stays,
    told,
    version,
    wait,
)

PROMPT, NAME = "a red mug", "Red mug"
# Where things are in a window of 1600 x 900, by Blender's version: the sidebar's tab, the big button for online access
# and that of Set up, Generate, the cross beside the job at work and Stop here, Resume, a free place in the viewport
PLACES = {
    (4, 3): {
        "tab": (1309, 217), "allow": (1174, 241), "set up": (1174, 201), "generate": (1174, 353),
        "cross": (1268, 132), "stop": (1230, 211), "resume": (1115, 158), "viewport": (300, 600),
        "discard": (867, 485),
    },
    (5, 2): {
        "tab": (1299, 290), "allow": (1160, 240), "set up": (1160, 201), "generate": (1160, 371),
        "cross": (1258, 132), "stop": (1220, 211), "resume": (1105, 158), "viewport": (300, 600),
        "discard": (861, 481),
    },
}  # fmt: skip
SMALL = (  # a result in seconds
    "nerf.levels=12 nerf.views=2 nerf.size=16 nerf.samples=24 nerf.grid_levels=4 nerf.grid_log2_size=10"
    " nerf.grid_finest=32 geometry.levels=3 geometry.views=2 geometry.size=24 geometry.cells=10 texture.levels=3"
    " texture.size=24 refine.levels=2 refine.size=32 delivery.texture_size=64 delivery.max_faces=500"
)
LONG = 1800  # seconds for a whole draft with a processor that others use, too


# what a user does


def drive(zip_file: Path, pictures: Path) -> None:
    here = version()
    places = PLACES[here]
    print(f"Blender {here[0]}.{here[1]}", flush=True)
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir()
    run("blender", "--command", "extension", "validate", str(zip_file))
    run("blender", "--command", "extension", "install-file", "-r", "user_default", "-e", str(zip_file))
    print("  installed and enabled", flush=True)
    blender = start()
    open_tab(places["tab"])
    if not os.environ.get("DREAMFLOW_PYTHON"):
        set_up(places, pictures)
    make_one(places, pictures)
    if not os.environ.get("DREAMFLOW_PYTHON"):
        other_buttons(pictures)
    words(pictures)
    discard(places)
    another_file(places)
    disabled(places)
    blender = quit_and_killed(blender, places, pictures)
    kill(blender)
    headless()


def set_up(places: dict[str, tuple[int, int]], pictures: Path) -> None:
    click(places["allow"])  # Blender asks before anything is fetched
    time.sleep(1)
    picture(pictures / "panel-set-up.png")
    press("Set up", places["set up"], lambda t: bool(t["task"]))
    wait("it has come to the packages", lambda t: t["task share"] > 0.3, LONG)
    picture(pictures / "panel-setting-up.png")
    wait("everything is there", lambda t: t["set up"] and not t["task"], LONG)


def make_one(places: dict[str, tuple[int, int]], pictures: Path) -> None:
    picture(pictures / "panel-before.png")
    press("Generate", places["generate"], lambda t: bool(t["share"]))
    wait("a job is at work", lambda t: bool(t["stage"]), LONG)
    wait("the mesh grows in the viewport", lambda t: t["preview"] and not t["meshes"], LONG)
    wait("half way", lambda t: t["stage"] in ("texture", "refine", "deliver"), LONG)
    picture(pictures / "panel-during.png")
    wait("the object is there", lambda t: NAME in t["objects"] and not t["preview"], LONG)
    if told()["selected"] != [NAME]:
        raise Failed(f"selected is {told()['selected']}")
    time.sleep(3)
    picture(pictures / "panel-after.png")
    order("shading", "SOLID", "TEXTURE")
    time.sleep(2)
    picture(pictures / "panel-textured.png")
    order("shading", "SOLID", "MATERIAL")
    key("ctrl+z", places["viewport"])
    wait("undo takes it away", lambda t: NAME not in t["objects"] and not t["preview"], 15)
    key("ctrl+shift+z", places["viewport"])
    wait("redo brings it back", lambda t: NAME in t["objects"], 15)
    for name, figures in sorted(told()["took"].items()):
        print(f"  main thread, {name}: {figures}", flush=True)


def other_buttons(pictures: Path) -> None:
    """Those of the preferences, and Mark as asset."""
    order("operator", "check_setup")
    wait("Check setup has looked at everything", lambda t: t["checks"] >= 8, LONG)
    wait("and at the models, since some are not here", lambda t: t["models"] >= 3 and not t["task"], LONG)
    order("operator", "open_preferences")
    time.sleep(3)
    screen(Path("/tmp/preferences.png"))
    order("close preferences")
    time.sleep(1)
    focus()
    order("operator", "mark_asset")
    time.sleep(3)
    run("xdotool", "key", "Return")  # its dialog comes up under the mouse
    wait("marked as an asset", lambda t: t["assets"] == [NAME], 15)


def words(pictures: Path) -> None:
    """An unknown word, a prompt that is reduced, a model without weights; wide letters; the menus."""
    for name, value in (("prompt", "a wooden chair"), ("prompt", "a big red cup on a table")):
        order("settings", {name: value})
        picture(pictures / f"panel-{value.split()[-1]}.png")
    order("settings", {"model": "STABLE_DIFFUSION"})
    picture(pictures / "panel-weights.png")
    order("scale", 1.5)
    time.sleep(3)  # the areas are drawn again with the next event
    picture(pictures / "panel-150-percent.png")
    order("scale", 1.0)
    time.sleep(3)
    order("settings", {"model": "BUILT_IN"})
    order("operator", "add_object")
    time.sleep(2)
    screen(pictures / "dialog-add.png")
    key("Escape", (850, 870))
    order("settings", {"prompt": PROMPT})


def begin(places: dict[str, tuple[int, int]]) -> None:
    press("Generate", places["generate"], lambda t: bool(t["share"]))
    wait("another job is at work", lambda t: bool(t["stage"]), LONG)
    wait("its mesh grows", lambda t: t["preview"], LONG)


def discard(places: dict[str, tuple[int, int]]) -> None:
    before = told()
    begin(places)
    for _ in range(5):  # a busy Blender loses a click now and then
        click(places["cross"])
        stays("the cross asks before it discards", lambda t: not t["asked"] and bool(t["stage"]), 3)
        click(places["discard"])  # the dialog stands in the middle; Return needs the pointer over it
        try:
            wait("the job is stopping", lambda t: t["asked"] == "discard" or not t["stage"], 8)
            break
        except Failed:
            continue
    wait("discarded: nothing of it is left", lambda t: left(t) == left(before) and not t["stage"], 30)


def left(now: dict[str, Any]) -> Any:
    return now["objects"], now["history"], now["folders"]


def another_file(places: dict[str, tuple[int, int]]) -> None:
    order("save", "/tmp/other.blend")
    begin(places)
    order("open", "/tmp/other.blend")
    wait("another file was opened: the growing mesh is not in it", lambda t: not t["preview"], 10)
    objects = told()["objects"]
    stays("the job goes on, and nothing of it comes in", lambda t: t["objects"] == objects and t["stage"], 6)
    press("Stop here", places["stop"], lambda t: t["asked"] == "finish" or not t["share"])
    wait("it is in the history", lambda t: [s for _, s in t["history"]] == ["finished", "finished"], LONG)
    stays("and not in the other file", lambda t: t["objects"] == objects, 4)


def disabled(places: dict[str, tuple[int, int]]) -> None:
    begin(places)
    order("disable")
    gone("the add-on was disabled")
    order("enable")
    wait("enabled again: the job is offered", lambda t: t["history"][:1] == [[PROMPT, "interrupted"]], 20)


def resume(places: dict[str, tuple[int, int]]) -> None:
    press("Resume", places["resume"], lambda t: bool(t["share"]))
    wait("it goes on", lambda t: bool(t["stage"]) and t["share"] != "0 %", LONG)


def quit_and_killed(
    blender: subprocess.Popen[bytes], places: dict[str, tuple[int, int]], pictures: Path
) -> subprocess.Popen[bytes]:
    resume(places)
    order("quit", answer=False)
    blender.wait(60)
    gone("Blender was closed")
    blender = again(places)
    picture(pictures / "panel-interrupted.png")
    resume(places)
    wait("its mesh grows", lambda t: t["preview"], LONG)
    kill(blender)
    gone("Blender was killed")
    blender = again(places)
    resume(places)
    press("Stop here", places["stop"], lambda t: t["asked"] == "finish" or not t["share"])
    wait("the object is there", lambda t: NAME in t["objects"], LONG)
    return blender


def again(places: dict[str, tuple[int, int]]) -> subprocess.Popen[bytes]:
    blender = start()
    wait("the job is offered", lambda t: t["history"][:1] == [[PROMPT, "interrupted"]], 30)
    open_tab(places["tab"])
    return blender


def headless() -> None:
    """The command, and the bare script; with and without the extension enabled."""
    [batch] = HOME.glob(".config/blender/*/extensions/user_default/dreamflow/dreamflow_blender/batch.py")
    out = Path("/tmp/öut put")
    shutil.rmtree(out, ignore_errors=True)
    arguments = ["--prompt", PROMPT, "--out", str(out), "--blend"]
    for setting in SMALL.split():
        arguments += ["--set", setting]
    command, script = ["-c", "dreamflow", "generate"], ["-b", "-P", str(batch), "--"]
    expect("blender -c dreamflow generate", 0, *command, *arguments)
    expect("the same again", 0, *command, *arguments)
    report = json.loads((out / "report.json").read_text())
    if (report["done"], report["skipped"], report["failed"]) != (0, 1, 0):
        raise Failed(f"it was not skipped: {report}")
    expect("blender -b -P batch.py", 0, *script, *arguments)
    expect("blender -b -P batch.py, without --out", 2, *script, "--prompt", PROMPT)
    expect("blender -c dreamflow generate, without --out", 2, *command, "--prompt", PROMPT)
    (out / "a-red-mug-42" / "mesh.npz").unlink()  # it can be made again, but not by this:
    expect("with a Python that is not there", 1, *script, *arguments, "--python", "/no/such/python")


def expect(what: str, code: int, *arguments: str) -> None:
    began = time.monotonic()
    ran = subprocess.run(
        ["blender", *arguments], env=environment(), capture_output=True, text=True, timeout=LONG
    )
    if ran.returncode != code:
        raise Failed(f"{what}: code {ran.returncode}, not {code}\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")
    print(f"  {what}: code {code}, {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(on_a_screen("all", drive))
