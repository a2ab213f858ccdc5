"""How long a job takes and what memory it needs: as measured on this machine, and before that what is known."""

from __future__ import annotations

from typing import Any

from bpy.app.translations import pgettext_iface as translated

from . import addon, jobs, words, work

KNOWN = {("draft", "exact"): 95.0}  # seconds on two processor cores; docs/recovery.md
MEMORY_GB = {("draft", "exact"): 1.4}


def seconds(preset: str, prior: str, device: str) -> float:
    """The mean of the last five here that came to their end; else what is known; else 0."""
    took = [
        entry.seconds
        for entry in jobs.need_store().history()
        if (entry.job.preset, entry.job.prior, entry.job.device) == (preset, prior, device)
        and entry.state == "finished"
        and entry.seconds
        and not entry.note
    ][:5]
    if took:
        return sum(took) / len(took)
    return KNOWN.get((preset, prior), 0.0)


def sentence(settings: Any) -> str:
    """ "about 2 min, 1.4 GB of memory"; "" where nothing is known."""
    prior = {"BUILT_IN": work.BUILT_IN, "STABLE_DIFFUSION": work.STABLE_DIFFUSION}.get(settings.model, "")
    preset = settings.preset
    took = seconds(preset, prior, addon.setting("device", "auto"))
    parts = []
    if took:
        parts.append(f"{translated('about')} {words.duration(took)}")
    memory = MEMORY_GB.get((preset, prior))
    if memory:
        parts.append(f"{memory} GB {translated('of memory')}")
    return ", ".join(parts)
