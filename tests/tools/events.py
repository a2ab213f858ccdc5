"""What a job said, read back."""

from __future__ import annotations

from pathlib import Path

from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Event, decode


def read_events(folder: Path) -> list[Event]:
    """Every whole line; raises BadMessage on one that is no event."""
    return [decode(line) for line in JobFolder(folder).events.read_bytes().split(b"\n")[:-1]]
