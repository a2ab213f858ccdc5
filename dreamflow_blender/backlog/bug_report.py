"""What "Copy report" puts on the clipboard: enough to find a fault, and nothing about what was made. No `bpy`."""

from __future__ import annotations

import platform
from pathlib import Path

from ..contract import protocol as p
from ..contract.jobfolder import JobFolder, slug

_TAIL = 6000  # characters of the log


def make(
    failed: p.Failed, versions: dict[str, str], job: p.Job | None, ready: p.Ready | None, with_prompt: bool
) -> str:
    """A text of some kilobytes. Without `with_prompt` neither the prompt nor a name of a folder is in it."""
    lines = [f"{failed.message} {failed.todo}".strip(), f"kind: {failed.kind}"]
    lines += [f"{name}: {value}" for name, value in versions.items()]
    lines.append(f"system: {platform.platform()}")
    if ready is not None:
        lines += [f"device: {', '.join(ready.devices)}, {ready.memory_gb} GB, {ready.threads} threads"]
        lines += ["versions: " + ", ".join(f"{k} {v}" for k, v in ready.versions.items())]
        lines += ["kernels: " + ", ".join(f"{k} {v}" for k, v in ready.kernels.items())]
    if job is not None:
        asked = f"preset {job.preset}, seed {job.seed}, stages {','.join(job.stages)}, device {job.device}"
        lines += [f"job: {asked}, settings {job.overrides}"]
    if failed.detail:
        lines += ["", failed.detail]
    log = log_tail(Path(job.folder)) if job is not None else ""
    if log:
        lines += ["", "log.txt:", log]
    text = "\n".join(lines)
    return text if with_prompt or job is None else without_names(text, job)


def log_tail(folder: Path) -> str:
    try:
        return JobFolder(folder).log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
    except OSError:
        return ""


def without_names(text: str, job: p.Job) -> str:
    """The prompt, the job's folder (which is named for it) and the user's own folder, taken out."""
    home = str(Path.home())
    names = [(str(job.folder), "JOB"), (job.prompt, "PROMPT"), (job.negative, "NEGATIVE")]
    for name, word in [*names, (slug(job.prompt), "PROMPT"), (home if len(home) > 3 else "", "~")]:
        if name:
            text = text.replace(name, word).replace(name.replace("\\", "\\\\"), word)
    return text
