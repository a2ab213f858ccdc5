"""What this machine can do, what is missing, and the command that mends it. Standard library only.

Whatever can break when it is touched (importing torch, asking a driver, loading a kernel) is touched in a process
of its own with a time limit: a broken driver may end a process, or never answer. With --json, one object a line:

    {"event": "check", "name": "torch", "state": "good" | "note" | "problem", "message": one sentence,
     "todo": the command that mends it, "fix": what a button could do: setup, repair, space,
     folder, driver, models or ""}

and at the end {"event": "report", ...} with everything in figures and words for programs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from backend import __version__
from backend.cli.probes import CODE, installed, look, required, write_a_byte

EXAMPLES = """\
examples:
  python -m backend doctor
  python -m backend doctor --json > report.jsonl
"""
LITTLE_GB = 5.0  # free disk; Stable Diffusion's weights are 2.6 GB, a job up to 0.2


@dataclass(frozen=True)
class Check:
    name: str
    state: str  # "good", "note" or "problem"
    message: str
    todo: str = ""
    fix: str = ""


def examine() -> tuple[list[Check], dict[str, Any]]:
    """Every check in the order in which a person would read them, and the report's figures."""
    report: dict[str, Any] = {
        "dreamflow": __version__,
        "platform": platform.platform(),
    }
    found = look()
    checks: list[Check] = []
    for see in (_python, _packages, _driver, _torch, _kernels, _memory, _models, _plans, _folders):
        try:
            checks += see(found, report)
        except Exception as error:  # noqa: BLE001  a doctor who faints helps nobody: the others still look
            what = f"{see.__name__.strip('_')} could not be looked at ({type(error).__name__}: {error})."
            checks.append(Check(see.__name__.strip("_"), "problem", what, "Please report this."))
    return checks, report


def add_parser(commands: Any) -> None:
    """Add the command to what `argparse` gave for the subcommands."""
    what = "look for what is wrong or missing on this machine"
    doctor = commands.add_parser(
        "doctor", help=what, description=what.capitalize() + ".", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    doctor.add_argument(
        "--json", action="store_true", help="one JSON object a line, and nothing else on stdout"
    )


def carry_out(as_json: bool, out: TextIO) -> int:
    """Write what was found; 0 where there is no problem, else 1."""
    checks, report = examine()
    try:
        for line in _objects(checks, report) if as_json else as_text(checks):
            out.write(line + "\n")
        out.flush()
    except OSError:  # nobody reads, or the disk that it goes to is full
        return 1
    return 1 if any(check.state == "problem" for check in checks) else 0


def _objects(checks: list[Check], report: dict[str, Any]) -> Iterator[str]:
    for check in checks:
        yield json.dumps({"event": "check", **asdict(check)})
    yield json.dumps({"event": "report", **report})


def as_text(checks: list[Check]) -> Iterator[str]:
    """For a person: what is there, then every problem with what mends it."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = {"good": " ", "note": "-", "problem": "!"}[check.state]
        yield f"{mark} {check.name:<{width}}  {check.message}"
    problems = [check for check in checks if check.state == "problem"]
    yield ""
    if not problems:
        yield "Nothing is wrong."
        return
    yield f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}:"
    for check in problems:
        yield f"  {check.message}"
        yield f"      {check.todo}"


# what is looked at


def _python(_found: dict[str, Any], report: dict[str, Any]) -> Iterator[Check]:
    version = platform.python_version()
    report["python"], report["executable"] = version, sys.executable
    if (3, 11) <= sys.version_info[:2] <= (3, 13) and sys.maxsize > 2**32:
        yield Check("Python", "good", f"{version} in {sys.prefix}")
    else:
        what = f"Python {version} ({platform.architecture()[0]}) is not supported: 3.11 to 3.13 with 64 bits are."
        yield Check("Python", "problem", what, *_set_up("setup"))


def _packages(_found: dict[str, Any], report: dict[str, Any]) -> Iterator[Check]:
    wanted = required(CODE / "requirements.txt")
    there = {name: installed(name) for name in wanted}
    report["packages"] = there
    missing = [name for name, version in there.items() if version is None]
    other = [
        f"{name} {version} instead of {wanted[name]}"
        for name, version in there.items()
        if version is not None and version.split("+")[0] != wanted[name]
    ]
    if missing:
        listed = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        yield Check("packages", "problem", f"Packages are missing: {listed}.", *_set_up("repair"))
    if other:
        listed = ", ".join(other[:4]) + (f" and {len(other) - 4} more" if len(other) > 4 else "")
        yield Check("packages", "note", f"Other versions than tested: {listed}.", *_set_up("repair"))
    if not missing and not other:
        yield Check("packages", "good", f"all {len(wanted)} there, in the versions that were tested")


def _driver(found: dict[str, Any], report: dict[str, Any]) -> Iterator[Check]:
    driver = report["driver"] = found["driver"]
    if "error" in driver:
        yield Check(
            "driver", "problem", f"{driver['error']}.", driver.get("todo") or _driver_todo(), "driver"
        )
    elif "todo" in driver:
        message = f"No build of torch uses the card: {driver['why']}."
        yield Check("driver", "problem", message, driver["todo"], "driver")
    elif driver:
        cards = ", ".join(driver["cards"])
        yield Check("driver", "good", f"NVIDIA {driver['version']}: {cards}")
    elif sys.platform != "darwin":
        yield Check("driver", "good", "no NVIDIA driver: the processor does the work")


def _torch(found: dict[str, Any], report: dict[str, Any]) -> Iterator[Check]:
    torch = report["torch"] = found["torch"]
    if "error" in torch:
        yield Check("torch", "problem", f"torch cannot be used: {torch['error']}", *_set_up("repair"))
        return
    built = f"built for {torch['cuda']}" if torch["cuda"] else "built for the processor"
    yield Check("torch", "good", f"{torch['version']}, {built}, {torch['threads']} threads")
    for gpu in torch["gpus"]:
        yield Check("GPU", "good", f"{gpu['name']}, {gpu['memory_gb']} GB, {gpu['free_gb']} GB of it free")
    if torch["mps"]:
        yield Check("GPU", "note", "an Apple GPU, which is used where asked for (--device mps)")
    if torch.get("unusable"):
        yield Check("GPU", "problem", torch["unusable"], _driver_todo(), "driver")
    card = (found["driver"].get("cards") or [""])[0]
    if "todo" in found["driver"]:  # said there
        return
    if card and not torch["cuda"]:
        what = f"torch is built for the processor alone, and does not use the {card}."
        yield Check("GPU", "problem", what, *_set_up("repair"))
    elif card and not torch["gpus"]:
        what = f"torch cannot use the {card}: the driver may be too old for CUDA {torch['cuda']}."
        yield Check("GPU", "problem", what, _driver_todo(), "driver")


def _kernels(found: dict[str, Any], report: dict[str, Any]) -> Iterator[Check]:
    kernels = report["kernels"] = found["kernels"]
    if "error" in kernels:
        if "error" not in found["torch"]:
            yield Check(
                "kernels", "problem", f"No kernel can be loaded: {kernels['error']}", *_set_up("repair")
            )
        return
    for name, kernel in kernels["names"].items():
        why = kernels["why"].get(name, "")
        yield Check(name, "good", f"{kernel}. {why}".rstrip(". ") + ("." if why else ""))
    if kernels.get("slow"):
        yield Check("kernels", "problem", kernels["slow"], _driver_todo(), "driver")
    for note in kernels.get("broken", ()):
        yield Check("kernels", "note", note)


def _memory(found: dict[str, Any], report: dict[str, Any]) -> Iterator[Check]:
    memory = report["memory"] = found["memory"]
    if "error" not in memory:
        yield Check("memory", "good", f"{memory['total_gb']} GB, {memory['free_gb']} GB of it free")


def _models(found: dict[str, Any], report: dict[str, Any]) -> Iterator[Check]:
    models = report["models"] = found["models"]
    if "error" in models:
        if "error" not in found["torch"]:
            message = f"The models cannot be looked for: {models['error']}"
            yield Check("models", "problem", message, *_set_up("repair"))
        return
    for name, (title, size, folder) in models["known"].items():
        if folder:
            yield Check(name, "good", f"{title} in {folder}")
        else:
            fetch = f"python -m backend models fetch {name}"
            yield Check(name, "note", f"{title} is not here (about {size / 1e9:.1f} GB).", fetch, "models")


def _plans(found: dict[str, Any], report: dict[str, Any]) -> Iterator[Check]:
    """What Stable Diffusion takes in each preset, where it has been fetched, and what is done to make it fit."""
    plans = report["plans"] = found["plans"]
    if "error" in plans and "error" not in found["torch"]:
        yield Check("memory", "problem", f"What fits cannot be counted: {plans['error']}", *_set_up("repair"))
    for preset, plan in plans.get("plans", {}).items():
        most = max(plan["needed"].values())
        there = f"Stable Diffusion, preset {preset}: about {most:.1f} of {plan['capacity']:.1f} GB at most"
        if plan["fits"]:
            savings = f", with {'; '.join(plan['savings'])}" if plan["savings"] else ""
            yield Check("memory", "good", f"{there}{savings}.")
        else:
            yield Check(
                "memory", "note", f"{there}: it may not fit. Take a smaller preset or another device."
            )


def _folders(found: dict[str, Any], report: dict[str, Any]) -> Iterator[Check]:
    report["folders"] = {}
    places: dict[str, Callable[[], Path]] = {
        "jobs": Path.cwd,
        "home": Path.home,
        "temporary files": lambda: Path(tempfile.gettempdir()),
    }
    store = found["models"].get("store")
    if store:
        places["models' folder"] = lambda: next(p for p in (Path(store), *Path(store).parents) if p.exists())
    for name, place in places.items():
        try:
            path = place()
            free = round(shutil.disk_usage(path).free / 1e9, 1)
            write_a_byte(path)
        except (OSError, RuntimeError, StopIteration) as error:
            why = getattr(error, "strerror", None) or error
            report["folders"][name] = {"error": str(why)}
            where = getattr(error, "filename", None) or "?"
            message = f"The folder for {name} cannot be written: {where}: {why}."
            yield Check(name, "problem", message, _look_command(where), "folder")
            continue
        report["folders"][name] = {"path": str(path), "free_gb": free}
        if free < LITTLE_GB:
            message = f"Only {free} GB are free on the disk of {path}."
            yield Check(name, "problem", message, "python -m backend jobs clean", "space")
        else:
            yield Check(name, "good", f"{path}, {free} GB free")


def _set_up(fix: str) -> tuple[str, str]:
    """(what to do, the button that does it), in a clone or in the extension."""
    if (CODE / "build.py").is_file():
        return "python build.py setup", fix
    return f"Press {'Set up' if fix == 'setup' else 'Repair'} in DreamFlow's preferences.", fix


def _driver_todo() -> str:
    return "nvidia-smi" + (
        "" if os.name == "nt" else " (then, perhaps, restart: a driver that was updated needs it)"
    )


def _look_command(where: object) -> str:
    return f'icacls "{where}"' if os.name == "nt" else f"df -h '{where}'; ls -ld '{where}'"
