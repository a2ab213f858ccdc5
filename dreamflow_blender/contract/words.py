"""Numbers and addresses as a person may read them. No `bpy`."""

from __future__ import annotations

import re


def hide(text: str) -> str:
    """Without the names and passwords of its URLs."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


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


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most about `width` characters, broken at spaces; Blender's labels do not wrap."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            while len(word) > width:  # a path
                room = width - len(line) - 1 if line else width
                if room < width // 2:
                    lines.append(line)
                    line, room = "", width
                line = f"{line} {word[:room]}".strip()
                lines.append(line)
                line, word = "", word[room:]
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}".strip()
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
