"""A job's options as people type them, on a command line or in a CSV's cells. Standard library only."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from .job import Job, bounds_text

FIELDS = {field.name: field for field in fields(Job)}


def read_option(name: str, text: str) -> Any:
    """The value of the job's field `name`. Raises ValueError with what was expected."""
    kind = FIELDS[name].type
    if kind == "int":
        return whole_number(text)
    if str(kind).startswith("float"):
        return finite_number(text)
    if kind == "tuple[str, ...]":
        mark = ";" if FIELDS[name].metadata.get("more") else ","
        return tuple(part.strip() for part in text.split(mark))
    return text


def whole_number(text: str) -> int:
    """Raises ValueError with what was expected."""
    try:
        number = int(text)
    except ValueError as error:  # also what int says to more than 4,300 digits
        raise ValueError(f"expected a whole number, got {text[:40]!r}") from error
    if abs(number) >= 2**63:
        raise ValueError(f"expected a number of at most 18 digits, got {text[:40]!r}")
    return number


def finite_number(text: str) -> float:
    """A finite one. Raises ValueError with what was expected."""
    try:
        value = float(text)
        if math.isfinite(value):
            return value
    except ValueError:
        pass
    raise ValueError(f"expected a number, got {text[:40]!r}")


def typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """`read` as argparse's `type`, which shows what a ValueError says."""

    def argument(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return argument


class More(argparse.Action):
    """An option that may be given again: what it is given adds up."""

    def __call__(
        self, _parser: object, namespace: argparse.Namespace, values: Any, _option: object = None
    ) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), *values))


def add_options(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """--negative, --texture-size and so on: the job's fields of these names, each with its default."""
    for name in names:
        field = FIELDS[name]
        metadata = field.metadata
        parts = [metadata["help"].removeprefix("refine: ")]
        if "low" in metadata:
            parts.append(bounds_text(metadata))
        if field.default not in ("", None, ()) and "default" not in parts[0]:
            shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
            parts.append(f"default: {shown}")
        parser.add_argument(
            f"--{name.replace('_', '-')}", dest=name, metavar=metadata.get("metavar"), default=field.default,
            type=typed(lambda text, name=name: read_option(name, text)), choices=metadata.get("choices"),  # type: ignore[misc]
            help="; ".join(parts), action=More if metadata.get("more") else "store",
        )  # fmt: skip
