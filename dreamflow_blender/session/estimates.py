"""How long a job takes and what memory it needs: as measured on this machine, and before that what is known."""

from __future__ import annotations

from typing import Any

from bpy.app.translations import pgettext_iface as translated

from ..backlog import work
from ..backlog.store import Entry
from ..contract import words
from ..settings import addon
from . import jobs

KNOWN = {("draft", "mini"): 180.0}  # seconds on two processor cores; backend/mini/README.md
MEMORY_GB = {("draft", "mini"): 1.0}


def past(preset: str, prior: str, device: str) -> list[Entry]:
    """The last five of this kind that came to their end here, the newest first."""
    return [
        entry
        for entry in jobs.get_store().history()
        if (entry.job.preset, entry.job.prior, entry.job.device) == (preset, prior, device)
        and entry.job.kind == "generate"
        and entry.state == "finished"
        and entry.seconds
        and not entry.note
    ][:5]


def sentence(settings: Any) -> str:
    """ "about 2 min, 1.4 GB of memory"; "" where nothing is known."""
    named = {"BUILT_IN": work.BUILT_IN, "STABLE_DIFFUSION": work.STABLE_DIFFUSION, "SDXL_BASE": work.SDXL}
    prior = named.get(settings.model, "")
    preset = settings.preset
    before = past(preset, prior, addon.setting("device", "auto"))
    took = sum(entry.seconds for entry in before) / len(before) if before else KNOWN.get((preset, prior), 0.0)
    memory = before[0].figures.get("memory_gb", 0.0) if before else MEMORY_GB.get((preset, prior), 0.0)
    parts = []
    if took:
        parts.append(f"{translated('about')} {words.duration(took)}")
    if memory:
        parts.append(f"{memory:.1f} GB {translated('of memory')}")
    return ", ".join(parts)
