"""A run as a person at a terminal sees it, or a program that reads its output.

Three displays, each a context manager with `show(event)`: `Live` redraws a table in place, `Plain` writes a line
every few seconds (into a file or a pipe), `Json` writes every event as one line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Job,
    Preview,
    Progress,
    Ready,
    Started,
    Warning,
    encode,
)
from dreamflow_blender.contract.wire import show_text
from dreamflow_blender.contract.words import clock

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

PLAIN_EVERY = 5.0  # seconds between two lines of progress
DELIVER = "deliver"  # unwrap, bake and export: after the stages, without iterations of its own


class Display(Protocol):
    def __enter__(self) -> Display: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, event: Event) -> None: ...
    def note(self, text: str) -> None:
        """A sentence that is no event."""


def duration(seconds: float) -> str:
    """In words: 31 s, 3 min 12 s, 1 h 2 min."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    if hours:
        return f"{hours} h {m} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s" if seconds >= 9.95 else f"{seconds:.1f} s"


def headline(job: Job, ready: Ready) -> str:
    """What is made, how, and by what: the first line."""
    device = ready.devices[0] if ready.devices else "no device"
    device = "CPU" if device == "cpu" else device
    used = sorted(set(ready.kernels.values()))
    kernels = (
        f"{used[0]} kernels" if len(used) == 1 else ", ".join(f"{k}: {v}" for k, v in ready.kernels.items())
    )
    threads = f"{ready.threads} thread{'s' if ready.threads != 1 else ''}"
    first = (
        f"{job.prompt}   {job.preset}   {job.prior} prior   seed {job.seed}   {device} ({threads}, {kernels})"
    )
    plain = [kernel for kernel, why in ready.kernels_why.items() if why]
    if device == "CPU":  # where accelerators for cards are no news, but a Warp that does not run is
        plain = [kernel for kernel in plain if ready.kernels.get(kernel) == "torch"]
    slower = [f"  {kernel}: {ready.kernels_why[kernel]}" for kernel in plain]
    return "\n".join([first, *slower])


def ending(event: Finished | Cancelled | Failed, folder: str) -> list[str]:
    """The last lines: where the result lies and how long each stage took, or what went wrong."""
    if isinstance(event, Failed):
        return [line for line in (event.message, event.todo) if line]
    if isinstance(event, Cancelled):
        if not event.paths:
            return ["Stopped before there was a result to keep."]
        return [f"Stopped. What there is was kept in {folder}", "  " + "   ".join(event.paths)]
    figures, mesh = event.figures, JobFolder(folder).mesh_glb.name
    others = [name for name in event.paths if name != mesh]
    about = [f"{round(figures['faces']):,} faces"] if "faces" in figures else []
    about += [f"{round(figures['texture_px']):,} px albedo"] if "texture_px" in figures else []
    what = event.paths.get(mesh, folder) + (f"   ({', '.join(about)})" if about else "")
    prefix = "seconds_"
    took = [f"{k.removeprefix(prefix)} {duration(v)}" for k, v in figures.items() if k.startswith(prefix)]
    lines = [f"Done in {duration(figures['seconds'])}: {what}" if "seconds" in figures else f"Done: {what}"]
    return [*lines, *("  " + "   ".join(part) for part in (took, others) if part)]


def measures(progress: Progress) -> str:
    """The two numbers that tell how it goes."""
    loss = "" if progress.loss is None else f"loss {progress.loss:.3g}"
    gap = "" if progress.gap is None else f"gap {progress.gap:.3g}"
    return "   ".join(part for part in (loss, gap) if part)


def sentence(event: Event, job: Job) -> str:
    """What an event says to a person; empty for those that only move a bar."""
    if isinstance(event, Ready):
        return headline(job, event)
    if isinstance(event, Warning):
        return f"Note: {event.message}"
    if isinstance(event, Finished | Cancelled | Failed):
        return "\n".join(ending(event, job.folder))
    return ""


def show_lines(text: str) -> str:
    """As wire.show_text, but with its line breaks."""
    return "\n".join(map(show_text, text.split("\n")))


class Json:
    """Every event as one line of JSON, at once."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __enter__(self) -> Json:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, event: Event) -> None:
        self._out.write(encode(event) + "\n")
        self._out.flush()

    def note(self, text: str) -> None: ...


class Plain:
    """Lines that read well in a file; progress at most every few seconds. Failures go to `err`.

    label  begins every line, where several processes write to one terminal
    """

    def __init__(
        self, job: Job, out: TextIO, err: TextIO, now: Callable[[], float] = time.monotonic, label: str = ""
    ) -> None:
        self._job, self._out, self._err, self._now, self._label = job, out, err, now, label
        self._last = -PLAIN_EVERY

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, event: Event) -> None:
        if isinstance(event, Failed):
            self._write(sentence(event, self._job), self._err)
        elif isinstance(event, Started):
            self._last = self._now()
            self.note(f"{event.stage}: {_begun(event)}")
        elif isinstance(event, Progress):
            done = event.iteration == event.total
            if done or self._now() - self._last >= PLAIN_EVERY:
                self._last = self._now()
                parts = (_percent(event), _count(event), _left(event), measures(event))
                self.note("   ".join(("  " + event.stage, *parts)).rstrip())
        elif words := sentence(event, self._job):
            self.note(words)

    def note(self, text: str) -> None:
        self._write(text, self._out)

    def _write(self, text: str, stream: TextIO) -> None:
        print("\n".join(self._label + line for line in show_lines(text).split("\n")), file=stream, flush=True)


class Live:
    """A table redrawn in place, a row a stage; needs a terminal. Failures go to `err`."""

    def __init__(self, job: Job, out: TextIO, err: TextIO) -> None:
        from rich.console import Console  # here, so that --help and --json start without it
        from rich.live import Live as RichLive

        self._job, self._err = job, err
        self._console = Console(file=out, highlight=False, markup=False)
        # redrawn by events alone: a thread that draws would take time from the run
        self._live = RichLive(console=self._console, auto_refresh=False)
        self._rows: dict[str, Progress | Started] = {}
        self._preview = ""

    def __enter__(self) -> Live:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        if isinstance(event, Started | Progress):
            self._rows[event.stage] = event
        elif isinstance(event, Preview):
            self._preview = event.path
        if not isinstance(event, Finished | Cancelled | Failed):
            if words := sentence(event, self._job):
                self.note(words)
            self._live.update(self._table(), refresh=True)
            return
        self._rows.pop(DELIVER, None)
        self._preview = ""
        self._live.update(self._table(), refresh=True)
        self._live.stop()  # the table stays, and the end stands below it
        if isinstance(event, Failed):
            print(show_lines(sentence(event, self._job)), file=self._err, flush=True)
        else:
            self.note(sentence(event, self._job))

    def note(self, text: str) -> None:
        self._console.print(show_lines(text), soft_wrap=True)  # a path stays in one piece, to be copied

    def _table(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        room = self._console.width - 48  # beside the name, the counts and the time left
        bar = max(6, min(24, room - 30))
        rows = Table.grid(padding=(0, 2, 0, 0))
        for column in range(6):
            rows.add_column(no_wrap=True, justify="right" if column in (2, 3, 4) else "left")
        for stage, row in self._rows.items():
            done = row.iteration if isinstance(row, Progress) else 0
            cells: list[RenderableType] = [f"  {stage}", ProgressBar(max(1, row.total), done, bar)]
            if isinstance(row, Progress):
                cells += [_percent(row), _count(row), _left(row), measures(row) if room >= 30 else ""]
            else:
                cells += ["", _begun(row)]
            rows.add_row(*cells)
        table = Table.grid()
        table.add_row(rows)
        if self._preview:
            table.add_row(f"  preview: {show_text(self._preview)}")
        return table


def _begun(event: Started | Progress) -> str:
    return "unwrap, bake, export" if event.stage == DELIVER else f"{event.total:,} iterations"


def _count(event: Progress) -> str:
    return f"{event.iteration:,} / {event.total:,}"


def _percent(event: Progress) -> str:
    return f"{100 * event.iteration // max(1, event.total)} %"


def _left(event: Progress) -> str:
    if event.iteration == event.total:
        return "done"
    return "-:-- left" if event.seconds_left is None else f"{clock(event.seconds_left)} left"
