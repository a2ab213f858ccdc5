"""Run by .ci/window inside Debian with Blender: a user who installs the zip, clicks, waits, undoes, and kills.

    python3 window_drive.py ZIP PICTURES     (with DREAMFLOW_PYTHON naming the backend's Python)

Prints a line a step and exits with 1 at the first that does not hold.
"""

# ruff: noqa: T201  it is a command

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WATCH = Path("/tmp/dreamflow-watch.json")
DISPLAY = ":77"
# In a window of 1600 x 900: the sidebar's tab, Generate, a free place in the viewport; by Blender's version
PLACES = {
    (4, 3): {"tab": (1309, 246), "generate": (1174, 330), "viewport": (600, 500)},
    (5, 2): {"tab": (1299, 318), "generate": (1160, 340), "viewport": (600, 500)},
}


class Failed(Exception):
    pass


def run(*command: str, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(), **options)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def environment() -> dict[str, str]:
    return {
        **os.environ, "DISPLAY": DISPLAY, "LIBGL_ALWAYS_SOFTWARE": "1", "DREAMFLOW_WATCH": str(WATCH),
        "HOME": "/root", "XDG_RUNTIME_DIR": "/tmp", "LC_ALL": "C.UTF-8",
    }  # fmt: skip


def version() -> tuple[int, int]:
    words = run("blender", "--version").split()
    major, minor = words[1].split(".")[:2]
    return int(major), int(minor)


def start() -> subprocess.Popen[bytes]:
    WATCH.unlink(missing_ok=True)
    command = ["blender", "--window-geometry", "0", "0", "1600", "900", "-P", str(HERE / "window_start.py")]
    with Path("/tmp/blender.log").open("ab") as log:
        blender = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)
    wait("Blender's window", lambda told: True, 120)
    time.sleep(2)
    window = run("xdotool", "search", "--onlyvisible", "--class", "blender").split()[0]
    run("xdotool", "windowfocus", window)  # without a window manager no keys come else
    return blender


def told() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(WATCH.read_text())
    except (OSError, ValueError):
        return {}
    return found


def wait(what: str, holds: Callable[[dict[str, Any]], bool], seconds: float) -> None:
    began = time.monotonic()
    while not (told() and holds(told())):
        if time.monotonic() - began > seconds:
            picture(Path("/tmp/failed.png"))
            raise Failed(f"{what}: not within {seconds:.0f} s; {told()}")
        time.sleep(0.2)
    print(f"  {what}: {time.monotonic() - began:.1f} s", flush=True)


def click(place: tuple[int, int]) -> None:
    run("xdotool", "mousemove", str(place[0]), str(place[1]))
    time.sleep(0.4)
    run("xdotool", "click", "1")
    time.sleep(0.6)


def open_tab(place: tuple[int, int]) -> None:
    for _ in range(8):
        click(place)
        time.sleep(2)
        if told().get("tab") == "DreamFlow":
            return
    picture(Path("/tmp/failed.png"))
    raise Failed(f"the sidebar's tab was not found at {place}: {told().get('tab')}")


def key(name: str, place: tuple[int, int]) -> None:
    run("xdotool", "mousemove", str(place[0]), str(place[1]))
    time.sleep(0.3)
    run("xdotool", "key", name)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    run("scrot", "--overwrite", str(path))


def workers() -> list[str]:
    """The backend's processes that live in this folder's Debian."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                ours = (process / "root").samefile("/")
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has just ended
                continue
            if ours and ("fake_backend.py" in command or "-m backend worker" in command):
                found.append(process.name)
    return found


def drive(zip_file: Path, pictures: Path) -> None:
    here = version()
    places = PLACES[here]
    print(f"Blender {here[0]}.{here[1]}", flush=True)
    run("blender", "--command", "extension", "validate", str(zip_file))
    run("blender", "--command", "extension", "install-file", "-r", "user_default", "-e", str(zip_file))
    print("  installed and enabled", flush=True)
    blender = start()
    open_tab(places["tab"])
    picture(pictures / "panel-before.png")
    click(places["generate"])
    wait("pressed Generate: a job is at work", lambda t: bool(t["stage"]), 120)
    wait("the mesh grows in the viewport", lambda t: t["preview"], 300)
    wait("half way", lambda t: t["stage"] in ("texture", "refine", "deliver"), 1200)
    time.sleep(1.5)
    picture(pictures / "panel-during.png")
    wait("the object is there", lambda t: "Red mug" in t["objects"] and not t["preview"], 1200)
    time.sleep(3)
    picture(pictures / "panel-after.png")
    key("ctrl+z", places["viewport"])
    wait("undo takes it away", lambda t: "Red mug" not in t["objects"] and not t["preview"], 10)
    key("ctrl+shift+z", places["viewport"])
    wait("redo brings it back", lambda t: "Red mug" in t["objects"], 10)

    click(places["generate"])
    wait("a second job", lambda t: bool(t["stage"]), 60)
    wait("its mesh grows", lambda t: t["preview"], 300)
    os.killpg(blender.pid, signal.SIGKILL)
    until = time.monotonic() + 8
    while workers() and time.monotonic() < until:
        time.sleep(0.2)
    if workers():
        raise Failed("Blender was killed, and its worker lives on")
    print("  Blender killed: the worker is gone", flush=True)
    blender = start()
    wait("it is offered for resume", lambda t: t["history"][:1] == ["interrupted"], 30)
    open_tab(places["tab"])
    picture(pictures / "panel-interrupted.png")
    os.killpg(blender.pid, signal.SIGKILL)


def main() -> int:
    screen = subprocess.Popen(["Xvfb", DISPLAY, "-screen", "0", "1600x900x24"], stderr=subprocess.DEVNULL)
    time.sleep(1)
    try:
        drive(Path(sys.argv[1]), Path(sys.argv[2]))
    except Failed as failed:
        print(f"FAILED: {failed}")
        return 1
    finally:
        screen.terminate()
    print("window: all held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
