"""For window_drive.py: Blender's start and end, clicks and keys on its screen, and waiting for what it tells."""

# ruff: noqa: T201  it is a command

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HOME = HERE / "home"  # of a user who has never had Blender
WATCH = Path("/tmp/dreamflow-watch.json")
ORDER = WATCH.with_suffix(".do")
DISPLAY = ""  # chosen by on_a_screen

_blenders: list[subprocess.Popen[bytes]] = []


class Failed(Exception):
    """A step that does not hold."""


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment())
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    return done.stdout


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "DISPLAY": DISPLAY,
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "DREAMFLOW_WATCH": str(WATCH),
        "HOME": str(HOME),
        "XDG_RUNTIME_DIR": "/tmp",
        "LC_ALL": "C.UTF-8",
    }


def version() -> tuple[int, int]:
    words = run("blender", "--version").split()
    major, minor = words[1].split(".")[:2]
    return int(major), int(minor)


def start() -> subprocess.Popen[bytes]:
    for file in (WATCH, ORDER):
        file.unlink(missing_ok=True)
    command = ["blender", "--window-geometry", "0", "0", "1600", "900"]
    command += ["-P", str(HERE / "window_start.py")]
    with Path("/tmp/blender.log").open("ab") as log:
        blender = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)
    _blenders.append(blender)
    wait("Blender's window", lambda told: True, 120)
    time.sleep(2)
    focus()
    return blender


def focus() -> None:
    """Without a window manager no keys come else."""
    window = run("xdotool", "search", "--onlyvisible", "--class", "blender").split()[0]
    run("xdotool", "windowfocus", window)


def free_display() -> str:
    """The first number that no screen has, in this Debian's folder or another: two windows may run at once."""
    taken = Path("/proc/net/unix").read_text()
    return next(f":{n}" for n in range(77, 1000) if not re.search(rf"/\.X11-unix/X{n}$", taken, re.MULTILINE))


def on_a_screen(what: str, drive: Callable[[Path, Path], None]) -> int:
    """Drive with the ZIP and PICTURES of the command line, on a screen of its own; the exit code."""
    global DISPLAY
    DISPLAY = free_display()
    screen = subprocess.Popen(["Xvfb", DISPLAY, "-screen", "0", "1600x900x24"], stderr=subprocess.DEVNULL)
    time.sleep(1)
    began = time.monotonic()
    try:
        drive(Path(sys.argv[1]), Path(sys.argv[2]))
    except Failed as failed:
        subprocess.run(["scrot", "--overwrite", "/tmp/failed.png"], env=environment())
        print(f"FAILED: {failed}\n{json.dumps(told())}")
        return 1
    finally:
        clean_up()
        screen.terminate()
    print(f"window: {what} held, {time.monotonic() - began:.0f} s")
    return 0


def clean_up() -> None:
    """Whatever has happened, no window stays."""
    for blender in _blenders:
        if blender.poll() is None:
            kill(blender)


def kill(blender: subprocess.Popen[bytes]) -> None:
    os.killpg(blender.pid, signal.SIGKILL)
    blender.wait()
    WATCH.unlink(missing_ok=True)


def told() -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(WATCH.read_text())
    except (OSError, ValueError):
        return {}
    return found


def wait(what: str, holds: Callable[[dict[str, Any]], bool], seconds: float) -> None:
    began = time.monotonic()
    while not ((now := told()) and holds(now)):
        if time.monotonic() - began > seconds:
            raise Failed(f"{what}: not within {seconds:.0f} s")
        if now.get("trouble"):
            raise Failed(f"{what}: the panel says {now['trouble']}")
        time.sleep(0.2)
    print(f"  {what}: {time.monotonic() - began:.1f} s", flush=True)


def stays(what: str, holds: Callable[[dict[str, Any]], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not holds(told()):
            raise Failed(f"{what}: it did not stay so")
        time.sleep(0.5)
    print(f"  {what}", flush=True)


def order(deed: str, *arguments: Any, answer: bool = True) -> None:
    """What cannot be clicked at a fixed place: Blender's main thread does it."""
    temporary = ORDER.with_suffix(".part")
    temporary.write_text(json.dumps([deed, *arguments]))
    temporary.replace(ORDER)
    until = time.monotonic() + 300  # shaders are built by the processor, which others use too
    while answer and (ORDER.exists() or told().get("done") != deed):
        if time.monotonic() > until:
            raise Failed(f"{deed} was not done: {told().get('done')}")
        time.sleep(0.2)


def click(place: tuple[int, int]) -> None:
    for off in (3, 0):  # a button wakes up when the mouse moves over it
        run("xdotool", "mousemove", str(place[0] + off), str(place[1]))
        time.sleep(0.3)
    run("xdotool", "click", "1")
    time.sleep(0.6)


def press(what: str, place: tuple[int, int], holds: Callable[[dict[str, Any]], bool]) -> None:
    """Click until it is seen to have been heard: a busy Blender loses a click now and then, as it does a user's."""
    for _ in range(5):
        click(place)
        until = time.monotonic() + 15
        while time.monotonic() < until:
            if (now := told()) and holds(now):
                print(f"  pressed {what}", flush=True)
                return
            time.sleep(0.2)
    raise Failed(f"{what}: pressed at {place}, and nothing happened")


def open_tab(place: tuple[int, int]) -> None:
    for _ in range(8):
        click(place)
        time.sleep(2)
        if told().get("tab") == "DreamFlow":
            return
    raise Failed(f"the sidebar's tab was not found at {place}: {told().get('tab')}")


def key(name: str, place: tuple[int, int]) -> None:
    run("xdotool", "mousemove", str(place[0]), str(place[1]))
    time.sleep(0.3)
    run("xdotool", "key", name)


def picture(path: Path) -> None:
    run("xdotool", "mousemove", "660", "870")  # no tooltip, nothing highlighted
    screen(path)


def screen(path: Path) -> None:
    """As it is, with the mouse where it is: a dialog is under it. Blender draws with the next event, and a panel stands
    where the one above it ended when that was last drawn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for off in (2, -2):
        order("redraw")
        run("xdotool", "mousemove_relative", "--", str(off), "0")
        time.sleep(0.7)
    run("scrot", "--overwrite", str(path))


def workers() -> list[str]:
    """The backend's processes of this user, in this folder's Debian."""
    found = []
    mine = b"\0HOME=" + os.fsencode(HOME) + b"\0"
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                ours = (process / "root").samefile("/") and mine in b"\0" + (process / "environ").read_bytes()
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has just ended
                continue
            if ours and any(name in command for name in ("fake_backend.py", "-m backend", "unwrap_child")):
                found.append(process.name)
    return found


def gone(what: str, seconds: float = 8.0) -> None:
    began = time.monotonic()
    while left := workers():
        if time.monotonic() - began > seconds:
            raise Failed(f"{what}, and its backend lives on: {left}")
        time.sleep(0.1)
    print(f"  {what}: its backend is gone after {time.monotonic() - began:.1f} s", flush=True)
