"""`python -P -m backend.cli.findings NAME...`: what doctor asks of a process that may crash or never answer.

Prints one JSON object a name: {NAME: what was found}, or {NAME: {"error": one sentence}}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def find_torch() -> dict[str, Any]:
    """torch's version, and the devices that it can use."""
    import torch

    from backend.device import choose_device

    gpus = []
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        p = torch.cuda.get_device_properties(i)
        free = torch.cuda.mem_get_info(i)[0]
        gpus.append(
            {"name": p.name, "memory_gb": round(p.total_memory / 1e9, 1), "free_gb": round(free / 1e9, 1)}
        )
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda or torch.version.hip or "",
        "threads": torch.get_num_threads(),
        "mps": torch.backends.mps.is_available(),
        "gpus": gpus,
        "unusable": choose_device("auto")[1],
    }


def find_kernels() -> dict[str, Any]:
    """Which implementation of each kernel a run would use, and why not a faster one."""
    from backend.device import choose_device
    from backend.kernels import select

    device = choose_device("auto")[0]
    kernels = select(device)
    return {
        "names": kernels.names,
        "why": kernels.why,
        "slow": kernels.slow(device),
        "broken": kernels.broken,
    }


def find_plans() -> dict[str, Any]:
    """What Stable Diffusion takes in each preset, where it has been fetched."""
    from backend.config import PRESETS, STAGES
    from backend.device import choose_device
    from backend.jobs.priors import default_refiner, open_prior
    from backend.stages.memory import make_plan
    from backend.weights.sources import find, model_named

    if not find(model_named("sd")):
        return {"plans": {}}
    device = choose_device("auto")[0]
    name = default_refiner("sd")
    prior = open_prior("sd", device)
    others = {"refine": open_prior(name, device)} if name else {}
    plans = {}
    for preset, settings in PRESETS.items():
        plan = make_plan(STAGES, settings, prior, others, device)
        plans[preset] = plan.record() | {"note": plan.note()}
    return {"plans": plans}


def find_models() -> dict[str, Any]:
    """Where models are kept, and which of them are there."""
    from backend.weights.sources import find, known_models, store

    known = {
        name: [model.title, model.approximate_size, str(find(model) or "")]
        for name, model in known_models().items()
    }
    return {"store": str(store()), "known": known}


def find_memory() -> dict[str, Any]:
    """The machine's memory in GB."""
    import psutil

    memory = psutil.virtual_memory()
    return {"total_gb": round(memory.total / 1e9, 1), "free_gb": round(memory.available / 1e9, 1)}


FINDERS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": find_torch,
    "kernels": find_kernels,
    "plans": find_plans,
    "models": find_models,
    "memory": find_memory,
}


def main(names: list[str]) -> None:
    """Whatever a broken library does is a finding; what it prints goes to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    for name in names:
        try:
            found = FINDERS[name]()
        except BaseException as error:  # noqa: BLE001  this process is there to meet it
            found = {"error": (f"{type(error).__name__}: " + " ".join(str(error).split()))[:400]}
        os.write(out, json.dumps({name: found}).encode() + b"\n")
    os._exit(0)  # a broken driver may hang at exit


if __name__ == "__main__":
    main(sys.argv[1:])
