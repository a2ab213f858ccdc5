"""A list of prompts: a text file, one a line, `#` begins a comment; or a CSV with a header. Standard library only.

    prompt,seed,preset,height,nerf.levels
    a red mug,1,draft,0.1,
    a blue chair,,,0.9,400

Commas, semicolons or tabs part the cells, whichever the header has, as spreadsheets write them in different
countries; beside the last two, a number may have a decimal comma. Columns beside `prompt` are optional: those of
COLUMNS and any setting as "stage.setting". An empty cell is the command line's own value.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .options import finite_number, read_option, whole_number
from .protocol import STAGES, Job, clean_text
from .settings import read_value

OPTIONS = (
    "preset",
    "prior",
    "texturer",
    "refiner",
    "phi",
    "lora",
    "control",
    "image",
    "image_adapter",
    "seed",
    "stages",
    "negative",
    "device",
    "threads",
)  # of a Job
COLUMNS: dict[str, Callable[[str], Any]] = {
    "prompt": str, **{name: partial(read_option, name) for name in OPTIONS},
    "height": finite_number, "faces": whole_number, "texture": whole_number,
}  # fmt: skip
_SETTINGS = (*STAGES, "delivery")
_MAX_BYTES = 16 << 20


class BadPrompts(ValueError):
    """A list that cannot be carried out as it is written."""


@dataclass(frozen=True)
class Line:
    """One prompt and what its line says beside it, by column."""

    number: int  # in the file, from 1
    prompt: str
    values: dict[str, Any] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)


def read_prompts(path: Path) -> list[Line]:
    """Raises BadPrompts, with the line's number."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadPrompts(f"{path} is too large to be a list of prompts.")
        content = path.read_bytes()
        utf16 = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # Excel's "Unicode text"
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except OSError as error:
        raise BadPrompts(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadPrompts(f"{path} is not UTF-8 text.") from error
    try:
        lines = _from_csv(text) if path.suffix.lower() == ".csv" else _from_text(text)
    except csv.Error as error:
        raise BadPrompts(f"{path} cannot be read as a CSV: {error}.") from error
    if not lines:
        raise BadPrompts(f"There is no prompt in {path}.")
    return lines


def _from_text(text: str) -> list[Line]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        prompt = clean_text(line)
        if prompt and not prompt.startswith("#"):
            found.append(Line(number, prompt))
    return found


def _from_csv(text: str) -> list[Line]:
    named, _, rest = text.partition("\n")
    if named.lower().startswith("sep="):  # Excel's own way to name it
        text, first_line = rest, 2
    else:
        first_line = 1
    heading = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
    separator = max(",;\t", key=heading.count)
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    header: list[str] = []
    found = []
    for row in reader:
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#"):
            continue
        if not header:
            header = [cell.lower() for cell in cells]
            _check_header(header)
            continue
        number = reader.line_num + first_line - 1
        if any(cells[len(header) :]):
            raise BadPrompts(f"Line {number} has {len(cells)} cells, the header {len(header)}.")
        found.append(_line(number, dict(zip(header, cells, strict=False)), separator != ","))
    return found


def _check_header(header: list[str]) -> None:
    if "prompt" not in header:
        raise BadPrompts("The first line of a CSV names its columns, and one of them has to be prompt.")
    for name in header:
        if name not in COLUMNS and name.partition(".")[0] not in _SETTINGS:
            raise BadPrompts(
                f"There is no column {name!r}: expected {', '.join(COLUMNS)}, or a setting as nerf.levels."
            )
        if header.count(name) > 1:
            raise BadPrompts(f"The column {name!r} is there twice.")


def _line(number: int, cells: dict[str, str], decimal_commas: bool) -> Line:
    prompt = clean_text(cells.pop("prompt", ""))
    if not prompt:
        raise BadPrompts(f"Line {number} has no prompt.")
    values: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    for name, cell in cells.items():
        if not cell:
            continue
        if decimal_commas and re.fullmatch(r"[+-]?\d+,\d+", cell):
            cell = cell.replace(",", ".")
        try:
            if name in COLUMNS:
                values[name] = COLUMNS[name](cell)
            else:
                overrides[name] = read_value(name, cell)
        except ValueError as error:
            raise BadPrompts(f"Line {number}: {name}: {error}.") from error
    return Line(number, prompt, values, overrides)


def job_fields(line: Line, given: Mapping[str, Any]) -> dict[str, Any]:
    """A job's options and overrides: the line's own cells over what the command line has given for all lines.

    given  OPTIONS by name, "set" as pairs of a setting and its value, and "faces" and "texture" where it has them
    """
    values = {**given, **line.values}
    overrides = {**dict(given["set"]), **line.overrides}
    if values.get("faces"):
        overrides["delivery.max_faces"] = values["faces"]
    if values.get("texture"):
        overrides["delivery.texture_size"] = values["texture"]
    return {**{name: values[name] for name in OPTIONS}, "overrides": overrides}


Shard = tuple[int, int]  # which one, from 1, of how many


def read_shard(text: str, environment: Mapping[str, str] = os.environ) -> Shard:
    """ "3/8"; or "/8", with which one it is from the array job that this process belongs to. Raises ValueError."""
    index, slash, count = (part.strip() for part in text.partition("/"))
    if not slash:
        raise ValueError(f"expected I/N as in 3/8, got {text[:40]!r}")
    if not index and "JOB_COMPLETION_INDEX" in environment:
        index = str(whole_number(environment["JOB_COMPLETION_INDEX"]) + 1)
    elif not index and "SLURM_ARRAY_TASK_ID" in environment:
        index = str(_place_in_array(environment))
    elif not index:
        raise ValueError(
            f"{text!r} leaves out which shard this is, and neither JOB_COMPLETION_INDEX nor SLURM_ARRAY_TASK_ID says it"
        )
    shard = whole_number(index), whole_number(count)
    if not 1 <= shard[0] <= shard[1]:
        raise ValueError(f"expected I/N with I from 1 to N, got {shard[0]}/{shard[1]}")
    return shard


def shard_of_array(environment: Mapping[str, str] = os.environ) -> Shard | None:
    """Of a SLURM array job, where this process belongs to one. Raises ValueError."""
    if not {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"} <= set(environment):
        return None
    return read_shard(f"{_place_in_array(environment)}/{environment['SLURM_ARRAY_TASK_COUNT']}")


def _place_in_array(environment: Mapping[str, str]) -> int:
    """From 1, whatever number the array begins with (--array=0-7, 1-8 or 0-14:2)."""
    number, first, step = (
        whole_number(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", ""), ("MIN", "0"), ("STEP", "1"))
    )
    return (number - first) // max(1, step) + 1


def in_shard(job: Job, shard: Shard | None) -> bool:
    """Whether the job belongs to this shard. Its own key decides, so that another line in the list moves no job."""
    return shard is None or int(job.key(), 16) % shard[1] == shard[0] - 1
