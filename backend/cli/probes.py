"""What doctor.py looks at, each in a way that survives whatever is broken. Standard library only."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

CODE = Path(__file__).resolve().parents[2]  # the repository, or the extension
SECONDS = 120.0  # for torch or a kernel to answer; a cold disk or a busy machine is slow
DRIVER_SECONDS = 20.0
PROBES = {
    "torch": """
import torch
found["version"], found["cuda"] = torch.__version__, torch.version.cuda or torch.version.hip or ""
found["threads"] = torch.get_num_threads()
found["mps"] = torch.backends.mps.is_available()
found["gpus"] = []
for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
    p = torch.cuda.get_device_properties(i)
    found["gpus"].append({"name": p.name, "memory_gb": round(p.total_memory / 1e9, 1),
                          "free_gb": round(torch.cuda.mem_get_info(i)[0] / 1e9, 1)})
from backend.device import choose_device
device, found["unusable"] = choose_device("auto")
""",
    "kernels": """
from backend.kernels import select
k = select(device)
found["names"], found["why"], found["slow"], found["broken"] = k.names, k.why, k.slow(device), k.broken
""",
    "models": """
from backend.weights.sources import find, known_models, store
found["store"] = str(store())
found["known"] = {name: [model.title, model.approximate_size, str(find(model) or "")]
                  for name, model in known_models().items()}
""",
    "plans": """
from backend.config import PRESETS, STAGES
from backend.weights.sources import find, model_named
found["plans"] = {}
if find(model_named("sd")):
    from backend.jobs.priors import default_refiner, open_prior
    from backend.stages.memory import make_plan
    name = default_refiner("sd")
    prior = open_prior("sd", device)
    refiner = open_prior(name, device) if name else None
    for preset, settings in PRESETS.items():
        plan = make_plan(STAGES, settings, prior, refiner, device)
        found["plans"][preset] = plan.record() | {"note": plan.note()}
""",
    "memory": """
import psutil
found["total_gb"] = round(psutil.virtual_memory().total / 1e9, 1)
found["free_gb"] = round(psutil.virtual_memory().available / 1e9, 1)
""",
}
TOGETHER = (
    ("torch", "kernels", "plans"),
    ("models",),
    ("memory",),
)  # in one process; the first takes seconds to import
START = """
import json, os
out = os.dup(1)
os.dup2(2, 1)
"""
EACH = """
found = {}
try:
%s
except BaseException as error:
    found["error"] = (f"{type(error).__name__}: " + " ".join(str(error).split()))[:400]
os.write(out, json.dumps({%r: found}).encode() + b"\\n")
"""
END = """
os._exit(0)
"""


def probe(*names: str, seconds: float = 0.0) -> dict[str, dict[str, Any]]:
    """What these pieces of PROBES find, one after the other in a process of their own.

    {"error": one sentence} for one that finds nothing, and for those after it if it has ended the process.
    """
    seconds = seconds or SECONDS
    code = START
    for name in names:
        code += EACH % ("".join(f"    {line}\n" for line in PROBES[name].strip().splitlines()), name)
    path = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path}
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", code + END], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
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
    """{"version", "cards"} as nvidia-smi says, {"error"} where it fails, {} where there is none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return {}
    query = [command, "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        ran = subprocess.run(
            query, stdin=subprocess.DEVNULL, capture_output=True, timeout=DRIVER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"nvidia-smi did not answer within {DRIVER_SECONDS:.0f} s."}
    except OSError as error:
        return {"error": f"nvidia-smi could not be started ({error.strerror})."}
    said = (ran.stdout + b"\n" + ran.stderr).decode(errors="replace").strip().splitlines()
    rows = [[part.strip() for part in line.split(",")] for line in said if line.count(",") == 2]
    if ran.returncode == 0 and rows:
        cards = [f"{name} ({int(mb) / 1024:.0f} GB)" if mb.isdigit() else name for _, name, mb in rows]
        return {"version": rows[0][0], "cards": cards}
    return {"error": said[0][:200] if said else f"nvidia-smi ended with code {ran.returncode}."}


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
    """The findings of all PROBES and of the driver, by name; they wait for processes, so they do so side by side."""
    found: dict[str, Any] = {name: {"error": "it could not be looked at."} for name in (*PROBES, "driver")}
    threads = [threading.Thread(target=lambda names=names: found.update(probe(*names))) for names in TOGETHER]
    threads.append(threading.Thread(target=lambda: found.update(driver=look_at_driver())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
