"""The table of a list on a Ray cluster, on a terminal of the operating system's own."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest

from backend.batch import ray_progress
from backend.batch.ray_progress import Lines, Row, Table, shown_on

ROWS = [
    Row(f"[{n}/24]", f"a red mug with the number {n} on its side", "geometry", n, 40, "node-1 (10.0.0.1)")
    for n in range(1, 9)
]
COUNTS = {"done": 3, "failed": 1, "running": 8, "waiting": 12}


class Terminal:
    """A pty of a size, and what is seen on it. A line that is wider is an error: real ones wrap it."""

    def __init__(self, columns: int, lines: int = 24) -> None:
        self.outer, inner = os.openpty()
        self.out = os.fdopen(inner, "w", encoding="utf-8")
        self.lines: list[str] = [""]
        self.row = 0
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        import fcntl
        import struct
        import termios

        self.columns = columns
        fcntl.ioctl(self.out.fileno(), termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def look(self) -> list[str]:
        self.out.flush()
        os.set_blocking(self.outer, False)
        text = b""
        while True:
            try:
                text += os.read(self.outer, 65536)
            except BlockingIOError:
                break
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text.decode()):
            if part == "\n":
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif up := re.fullmatch(r"\x1b\[(\d+)A", part):
                self.row -= int(up[1])
            elif part == "\x1b[2K":
                self.lines[self.row] = ""
            elif part[0] not in "\x1b\r":
                self.lines[self.row] += part
                assert len(self.lines[self.row]) <= self.columns, self.lines[self.row]
        return [line.rstrip() for line in self.lines]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Terminal]]:
    if not hasattr(os, "openpty") or os.name == "nt":
        pytest.skip("Windows has no pty")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(ray_progress, "REDRAWN", 0.0)
    made: list[Terminal] = []
    yield lambda *size: made.append(Terminal(*size)) or made[-1]
    for one in made:
        one.out.close()
        os.close(one.outer)


def test_one_table_is_redrawn_in_place_below_what_stays(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(120)
    shown = shown_on(seen.out, print, nullcontext)
    assert isinstance(shown, Table)
    shown.say("8 at a time, on node-1 (10.0.0.1).")
    shown.started("what the table shows")
    shown.show(COUNTS, lambda: ROWS)
    shown.say("[9/24] Done in 3.0 s")
    shown.show(COUNTS, lambda: [replace(row, iteration=40) for row in ROWS])
    shown.show({**COUNTS, "done": 4}, lambda: [replace(ROWS[1], stage="", total=0), *ROWS[2:]])
    lines = seen.look()
    assert lines[:2] == ["8 at a time, on node-1 (10.0.0.1).", "[9/24] Done in 3.0 s"]
    table = [line for line in lines[2:] if line]
    assert [line.split("]")[0] for line in table[:-1]] == [f"[{n}/24" for n in range(2, 9)]
    assert re.fullmatch(
        r"\[2/24\]  a red mug with the number 2 on its side  loading   \S{20} +node-1 .*", table[0]
    )
    assert re.fullmatch(r"\[8/24\]  .* geometry  \S{20} +8 / 40  node-1 \(10.0.0.1\)", table[-2])
    assert re.fullmatch(r"4 done, 1 failed, 8 running, 12 waiting   0:0\d", table[-1])
    shown.close()
    assert [line for line in seen.look() if line] == lines[:2]


@pytest.mark.parametrize("columns", [28, 46, 59, 80, 300])
def test_it_is_cut_to_the_terminal(terminal: Callable[..., Terminal], columns: int) -> None:
    seen = terminal(columns, 10)
    shown = shown_on(seen.out, print, nullcontext)
    shown.show(COUNTS, lambda: ROWS)
    lines = [line for line in seen.look() if line]
    assert len(lines) == 8 and lines[0].startswith("[1/24]")
    assert lines[6] == "and 2 more that run" and lines[7].startswith("3 done, 1 failed"[: columns - 1])
    shown_there = [word in lines[0] for word in ("geometry", "1 / 40", "a red mug", "━", "node-1")]
    assert shown_there == [True, True, columns >= 45, columns >= 60, columns >= 100]


def test_it_follows_the_terminal_s_size(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(120)
    shown = shown_on(seen.out, print, nullcontext)
    shown.show(COUNTS, lambda: ROWS)
    assert len(max(seen.look(), key=len)) > 90
    seen.resize(50, 24)
    seen.lines, seen.row = [line[:50] for line in seen.lines], seen.row
    shown.show(COUNTS, lambda: ROWS)
    assert len([line for line in seen.look() if line]) == 9


def test_a_terminal_of_no_size_or_that_has_just_gone_is_no_error(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(0, 0)
    seen.columns = 80
    shown = shown_on(seen.out, print, nullcontext)
    shown.show(COUNTS, lambda: ROWS)
    assert len([line for line in seen.look() if line]) == 9
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, seen.out.fileno())
    os.close(nowhere)
    shown.show(COUNTS, lambda: ROWS)
    shown.say("Stopping.")


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_lines_where_a_table_cannot_be(
    terminal: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    said: list[str] = []
    assert isinstance(shown_on(io.StringIO(), said.append, nullcontext), Lines)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(ray_progress, "EVERY", 0.0)
    shown = shown_on(terminal(80).out, said.append, nullcontext)
    assert isinstance(shown, Lines)
    shown.started("a red mug: out/a-red-mug")
    shown.show(COUNTS, lambda: ROWS[:1])
    monkeypatch.setattr(ray_progress, "EVERY", 60.0)
    shown.show(COUNTS, lambda: ROWS[:1])
    assert said == ["a red mug: out/a-red-mug", "[1/24] geometry 1 / 40 on node-1 (10.0.0.1)"]
