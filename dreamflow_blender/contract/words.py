"""Numbers and sentences as a person reads them. No `bpy`."""

from __future__ import annotations

import re
from collections.abc import Callable


def duration(seconds: float) -> str:
    """ "40 s", "3 min", "1 h 20 min"; rounded as a person would."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def clock(seconds: float) -> str:
    """ "0:05", "12:30", "1:02:03"."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def shorten(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis where something is missing."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def shorten_start(path: str, length: int) -> str:
    """A path's end, which tells more than its beginning."""
    return path if len(path) <= length else "…" + path[1 - length :]


def without_commands(text: str) -> str:
    """The sentences that ask for no command line: a window has buttons for those."""
    sentences = re.split(r"(?<=[.!?]) +", text)
    return " ".join(s for s in sentences if not re.search(r"\bpython3? |\bpip |(?:^| )--\w|`", s))


def wrap(text: str, width: float, measure: Callable[[str], float] = len) -> list[str]:
    """Lines that measure at most `width`, broken at spaces, a longer word within; Blender's labels do not wrap."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if measure(longer) <= width:
                line = longer
                continue
            if measure(word) <= width:
                lines.append(line)
                line = word
                continue
            longer = f"{line} " if line else ""  # a path, or a language without spaces
            for letter in word:
                if measure(longer + letter) > width and longer:
                    lines.append(longer.rstrip())
                    longer = ""
                longer += letter
            line = longer
        if line:
            lines.append(line)
    return lines


BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int) -> str:
    """The last values as a row of bars, each the mean of its share; "" with fewer than two."""
    if len(values) < 2:
        return ""
    width = min(width, len(values))
    shares = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
    means = [sum(share) / len(share) for share in shares]
    low, high = min(means), max(means)
    span = high - low or 1.0
    return "".join(BARS[min(7, int(8 * (m - low) / span))] for m in means)
