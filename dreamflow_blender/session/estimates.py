"""How long a job takes and what memory it needs: as measured on this machine, and before that what is known."""

from __future__ import annotations

from typing import Any

from bpy.app.translations import pgettext_iface as translated

from ..backlog import work
from ..backlog.store import Entry
from ..contract import words
from ..settings import addon
from . import jobs, models

# Seconds on two processor cores, and gigabytes; backend/mini/README.md
KNOWN = {("draft", "mini"): (180.0, 1.0)}


def sentence(settings: Any) -> str:
    """ "about 2 min, 1.4 GB of memory" for the next object; "" where nothing is known."""
    named = {"BUILT_IN": work.BUILT_IN, "SDXL_BASE": work.SDXL}
    prior = named.get(settings.model, "")
    if settings.model == "STABLE_DIFFUSION":
        prior = models.stable_diffusion(settings)
    preset, device = settings.preset, addon.setting("device", "auto")
    past = jobs.get_store().finished(kind="generate", preset=preset, prior=prior, device=device)
    return in_words(past, *KNOWN.get((preset, prior), (0.0, 0.0)))


def in_words(past: list[Entry], seconds: float = 0.0, memory: float = 0.0) -> str:
    """What the last five of these have taken; where there is none, these seconds and gigabytes; "" for nothing."""
    before = [entry for entry in past if entry.seconds][:5]
    if before:
        seconds = sum(entry.seconds for entry in before) / len(before)
        memory = before[0].figures.get("memory_gb", 0.0)
    took = f"{translated('about')} {words.duration(seconds)}" if seconds else ""
    return ", ".join(filter(None, [took, f"{memory:.1f} GB {translated('of memory')}" if memory else ""]))
