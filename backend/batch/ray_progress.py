"""What a person sees of a list on a Ray cluster: one table of all that runs, redrawn in place, else lines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from dreamflow_blender.contract.words import clock, shorten

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Guard = Callable[[], AbstractContextManager[None]]
EVERY, REDRAWN = 30.0, 0.5  # seconds between two looks of `Lines`, and of `Table`
BESIDE = 4  # lines of a terminal that the table leaves free
WIDE, NARROW, LEAST = 100, 60, 45  # columns from which nodes are shown, and bars, and prompts


@dataclass(frozen=True)
class Row:
    """A job that runs."""

    label: str  # its place in the list
    prompt: str
    stage: str  # "" while its models are loaded
    iteration: int
    total: int
    node: str


class Shown(Protocol):
    def say(self, text: str) -> None:
        """A sentence or more, which stays."""

    def started(self, text: str) -> None:
        """The same, where the table does not show it."""

    def show(self, counts: Mapping[str, int], rows: Callable[[], Sequence[Row]]) -> None:
        """How many jobs are in which state, and those that run, which are looked for where they are shown."""

    def close(self) -> None: ...


def shown_on(out: TextIO, say: Callable[[str], None], to_a_reader: Guard) -> Shown:
    """A table on a terminal that can move its cursor, else lines by `say`.

    to_a_reader  what is written within it may find that its reader has gone
    """
    if out.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown"):
        return Table(out, to_a_reader)
    return Lines(say)


class Lines:
    """A line for each job that runs, every half minute."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = self.started = say
        self._last = time.monotonic()

    def show(self, counts: Mapping[str, int], rows: Callable[[], Sequence[Row]]) -> None:
        if time.monotonic() - self._last < EVERY:
            return
        self._last = time.monotonic()
        for row in rows():
            self.say(f"{row.label} {row.stage or 'loading'} {row.iteration} / {row.total} on {row.node}")

    def close(self) -> None: ...


class Table:
    """A row for each job that runs below what was said, and a last line that counts all; cut to the terminal's size."""

    def __init__(self, out: TextIO, to_a_reader: Guard) -> None:
        from rich.console import Console  # here, so that --help starts without it
        from rich.live import Live

        self._out, self._console = out, Console(file=out, highlight=False, markup=False)
        # redrawn by `show` alone, in the driver's own thread; what others print is none of its business
        self._live = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )  # fmt: skip
        self._to_a_reader = to_a_reader
        self._began = time.monotonic()
        self._last = -REDRAWN

    def say(self, text: str) -> None:
        with self._to_a_reader():
            self._console.print(text, soft_wrap=True)  # a path stays in one piece, to be copied

    def started(self, text: str) -> None: ...

    def show(self, counts: Mapping[str, int], rows: Callable[[], Sequence[Row]]) -> None:
        if time.monotonic() - self._last < REDRAWN:
            return
        self._last = time.monotonic()
        from rich.console import ConsoleDimensions

        with suppress(OSError):  # where it has just been closed
            columns, lines = os.get_terminal_size(self._out.fileno())
            self._console.size = ConsoleDimensions(columns or 80, lines or 24)
        with self._to_a_reader():
            self._live.start()
            self._live.update(self._table(counts, rows()), refresh=True)

    def close(self) -> None:
        with self._to_a_reader():
            self._live.stop()

    def _table(self, counts: Mapping[str, int], rows: Sequence[Row]) -> RichTable:
        from rich.progress_bar import ProgressBar
        from rich.table import Table as RichTable

        room, width = max(1, self._console.height - BESIDE), self._console.width
        bar = 20 if width >= WIDE else 8
        jobs = RichTable.grid(padding=(0, 2, 0, 0))
        jobs.add_column(justify="right", no_wrap=True)
        for row in rows[:room]:
            stage, count = row.stage or "loading", f"{row.iteration} / {row.total}" if row.total else ""
            others = [stage, count] + ([row.node] if width >= WIDE else [])
            taken = sum(len(text) + 2 for text in [row.label, "geometry", "1000 / 1000", *others[2:]])
            prompt = shorten(row.prompt, max(8, width - taken - (bar + 2 if width >= NARROW else 0)))
            bars = [ProgressBar(max(1, row.total), row.iteration, bar)] if width >= NARROW else []
            prompts = [prompt] if width >= LEAST else []
            jobs.add_row(row.label, *prompts, stage, *bars, *others[1:])
        for column in jobs.columns:
            column.no_wrap, column.overflow = True, "ellipsis"
        whole = RichTable.grid()
        whole.add_column(no_wrap=True, overflow="ellipsis")
        whole.add_row(jobs)
        if len(rows) > room:
            whole.add_row(f"and {len(rows) - room} more that run")
        ended = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        whole.add_row(f"{ended}   {clock(time.monotonic() - self._began)}")
        return whole
