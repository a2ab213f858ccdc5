"""What doctor.py looks at, each in a way that survives whatever is broken. Standard library only.

What may end a process, or never answer, is looked at by findings.py in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

from dreamflow_blender.setup import torch_build

CODE = Path(__file__).resolve().parents[2]  # the repository, or the extension
SECONDS = 120.0  # for torch or a kernel to answer; a cold disk or a busy machine is slow
# in one process each: torch takes seconds
TOGETHER = (("torch", "kernels", "plans"), ("models",), ("memory",))


def probe(*names: str, seconds: float = 0.0) -> dict[str, dict[str, Any]]:
    """What findings.py finds under these names, one after the other in a process of their own.

    {"error": one sentence} for one that finds nothing, and for those after it if it has ended the process.
    """
    seconds = seconds or SECONDS
    path = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH", "")]))
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "backend.cli.findings", *names],
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        return {name: {"error": f"no process could be started ({error.strerror})."} for name in names}
    try:
        said, words = child.communicate(timeout=seconds)
        last = words.decode(errors="replace").strip().splitlines()[-1:] or ["without a word"]
        why = f"its process ended with code {child.returncode} ({last[0][:200]})."
    except subprocess.TimeoutExpired:
        child.kill()
        said, _ = child.communicate()
        why = f"it did not answer within {seconds:.0f} s."
    found: dict[str, dict[str, Any]] = {}
    for line in said.splitlines():
        try:
            found |= json.loads(line)
        except (ValueError, TypeError):  # not ours
            continue
    return {name: found.get(name, {"error": why}) for name in names}


def look_at_driver() -> dict[str, Any]:
    """What NVIDIA's driver says: {"version", "cards"}, {"error"} where it fails, {} where there is none.

    With "why" and "todo", a sentence each, where no build of torch can use a card with this driver.
    """
    seen = torch_build.look()
    choice = torch_build.choose(seen, sys.platform == "win32")
    if seen.trouble:
        return {"error": choice.why, "todo": choice.todo}
    if not seen.cards:
        return {}
    why = {"why": choice.why, "todo": choice.todo} if choice.todo else {}
    return {"version": seen.driver, "cards": [card.name for card in seen.cards], **why}


def required(requirements: Path) -> dict[str, str]:
    """Package -> version, as far as it is for this system and Python."""
    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"torch": "", "numpy": ""}
    found = {}
    for line in lines:
        pin, _, condition = line.split("#")[0].partition(";")
        name, equals, version = pin.strip().partition("==")
        if equals and _is_meant(condition):
            found[name] = version.strip()
    return found


def _is_meant(condition: str) -> bool:
    """Of the two kinds of condition that requirements.txt has."""
    found = re.fullmatch(r"\s*(python_version|sys_platform)\s*(<|>=|==|!=)\s*\"([\w.]+)\"\s*", condition)
    if found is None:
        return True
    if found[1] == "sys_platform":
        return (sys.platform == found[3]) == (found[2] == "==")
    here, there = sys.version_info[:2], tuple(int(part) for part in found[3].split("."))
    return {"<": here < there, ">=": here >= there, "==": here == there, "!=": here != there}[found[2]]


def installed(package: str) -> str | None:
    """Its version; None where it is not there, or only in part."""
    try:
        return str(metadata.version(package) or "") or None
    except (metadata.PackageNotFoundError, OSError, ValueError, KeyError, TypeError):
        return None


def write_a_byte(folder: Path) -> None:
    """Raises OSError where nothing can be written there."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"a byte that a full disk has no place for")
        file.flush()
        os.fsync(file.fileno())


def look() -> dict[str, Any]:
    """The findings of all probes and of the driver, by name; they wait for processes, so they do so side by side."""
    found: dict[str, Any] = {
        name: {"error": "it could not be looked at."} for name in (*sum(TOGETHER, ()), "driver")
    }
    threads = [threading.Thread(target=lambda names=names: found.update(probe(*names))) for names in TOGETHER]
    threads.append(threading.Thread(target=lambda: found.update(driver=look_at_driver())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
