"""One line of JSON to a frozen dataclass and back, with every field's type checked. Standard library only."""

from __future__ import annotations

import json
import math
import unicodedata
from dataclasses import fields
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

MAX_LINE = 1 << 20  # bytes, the newline included
# they turn what follows round
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_AS_SPACE = {"Cc", "Cs", "Zl", "Zp", "Zs"}  # Unicode categories: controls, surrogates, separators

_NOT_SHOWN = _AS_SPACE - {"Zs"}

T = TypeVar("T")


class BadMessage(ValueError):
    """A message, or a field of one, that is not what the table says."""

    def __init__(self, what: str, expected: object, got: object) -> None:
        super().__init__(f"{what}: expected {expected}, got {_short(got)}.")
        self.what = what


def clean_text(text: str) -> str:
    """One line of what was typed: line breaks, controls and broken characters become single spaces."""
    spaced = (" " if unicodedata.category(c) in _AS_SPACE or c in BIDI else c for c in text)
    return " ".join("".join(spaced).split())


def show_text(text: str) -> str:
    """One line of a file's, a folder's or a stranger's words as a terminal may show it: what would move its cursor,
    colour it or turn it round is written as an escape, and nothing else is changed."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _NOT_SHOWN or c in BIDI else c
        for c in text
    )


def dump(message: dict[str, Any], what: str = "message") -> str:
    try:
        line = json.dumps(message, allow_nan=False)  # ASCII: a lone surrogate in a path survives too
    except (TypeError, ValueError, RecursionError) as error:
        raise BadMessage(what, "finite JSON values", error) from error
    expect("message", f"less than {MAX_LINE:,} bytes", f"{len(line):,}", len(line) < MAX_LINE)
    return line


def load(line: str | bytes) -> dict[str, Any]:
    expect("message", f"at most {MAX_LINE:,} bytes", f"{len(line):,}", len(line) <= MAX_LINE)
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, an endless integer
        raise BadMessage("message", "one JSON object", line) from error
    if not isinstance(message, dict):
        raise BadMessage("message", "one JSON object", message)
    return message


_known: dict[Any, dict[str, Any]] = {}  # by class


def _hints(cls: Any) -> dict[str, Any]:
    """A class's types by field; evaluated once, since that takes longer than all the rest of a message."""
    if cls not in _known:
        _known[cls] = get_type_hints(cls)
    return _known[cls]


class Message:
    """What every message is, and a Job: its types are checked once, when it is made. Raises BadMessage."""

    def __post_init__(self) -> None:
        check_types(self)


def build(cls: type[T], values: dict[str, Any]) -> T:
    """A Message from its fields, of which tuples are lists in JSON. Raises BadMessage."""
    hints = _hints(cls)
    for name, value in values.items():
        if name not in hints:
            raise BadMessage(cls.__name__.lower(), f"fields of {', '.join(hints)}", name)
        if get_origin(hints[name]) is tuple and isinstance(value, list):
            values[name] = tuple(value)  # JSON has no tuples
    try:
        made = cls(**values)
    except TypeError as error:
        raise BadMessage(cls.__name__.lower(), "all of its fields", error) from error
    return made


def check_types(message: Any) -> None:
    hints = _hints(type(message))
    for f in fields(message):
        value = getattr(message, f.name)
        if not _is_a(value, hints[f.name]):
            raise BadMessage(f.name, f.type, value)


@cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """What a type is made of; thousands of jobs are listed, and each field is looked at."""
    return get_origin(hint), get_args(hint)


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value is of this type; numbers must be finite, and True is no number."""
    origin, args = _parts(hint)
    if origin is UnionType:
        return any(_is_a(value, arg) for arg in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_a(v, args[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _is_a(k, args[0]) and _is_a(v, args[1]) for k, v in value.items()
        )
    if hint is Any:
        return True
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < 2**63 and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, hint)


def expect(what: str, expected: object, got: object, holds: bool) -> None:
    if not holds:
        raise BadMessage(what, expected, got)


def _short(got: object) -> str:
    if isinstance(got, Exception):
        return str(got)[:80]
    if isinstance(got, str) and got.replace(",", "").isdigit():
        return got  # a count
    shown = repr(got[:80] if isinstance(got, str | bytes) else got)
    return shown if len(shown) <= 80 else shown[:77] + "..."
