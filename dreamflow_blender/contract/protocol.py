"""What the two processes say to each other: jobs one way, events the other. Standard library only.

A message is one JSON object on one line of UTF-8, at most 1 MiB. The first event is `ready`, and its
`protocol` is the version of this table.

    event        fields                                                    meaning
    ready        protocol, versions, devices, kernels, threads, memory_gb  what will do the work
    started      stage, total                                              a stage begins, `total` iterations
    progress     stage, level, levels, iteration, total,                   after an iteration (not every one);
                 seconds_left, loss, gap                                   gap = ||eps_p - eps_phi||
    preview      path                                                      a newer picture of the object
    snapshot     path                                                      a newer coarse mesh
    checkpoint   path                                                      the run can resume from here
    warned       message                                                   it goes on, but read this
    paused                                                                 it stands still until told to go on
    finished     paths, figures                                            the end: everything was delivered
    cancelled    paths                                                     the end: it was asked to stop; what there is
    failed       kind, message, todo, detail                               the end: `kind` as in backend/errors.py,
                                                                           or "internal" for a bug of ours

A job has exactly one of the last three, and it is the last. `started` and `progress` name one of STAGES or
"deliver" (unwrap, bake, export). `figures` are numbers by name: "seconds" and "seconds_STAGE" (s), "faces",
"texture_px", and whatever else a stage measured.
"""

from __future__ import annotations

import json
import math
import unicodedata
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

VERSION = 1
MAX_LINE = 1 << 20  # bytes, the newline included
MAX_PROMPT = 1_000  # characters; CLIP reads about 75 words, so this is already generous
MAX_SEED = 2**31 - 1  # the largest integer that a Blender property holds

KINDS = ("generate", "refine")
STAGES = ("nerf", "geometry", "texture", "refine")
PRESETS = ("paper", "fast", "draft")
DEVICES = ("auto", "cuda", "cpu", "mps")

_AS_SPACE = {"Cc", "Cs", "Zl", "Zp", "Zs"}  # Unicode categories: controls, surrogates, separators


class BadMessage(ValueError):
    """A message, or a field of one, that is not what the table says."""

    def __init__(self, what: str, expected: object, got: object) -> None:
        super().__init__(f"{what}: expected {expected}, got {_short(got)}.")
        self.what = what


def clean_text(text: str) -> str:
    """One line of what was typed: line breaks, controls and broken characters become single spaces."""
    spaced = (" " if unicodedata.category(c) in _AS_SPACE else c for c in text)
    return " ".join("".join(spaced).split())


@dataclass(frozen=True)
class Job:
    """One piece of work, small enough for one line of JSON; raises BadMessage on a bad field."""

    id: str
    kind: str  # one of KINDS
    prompt: str  # as clean_text leaves it, 1 to MAX_PROMPT characters
    folder: str  # where everything of this job is written
    negative: str = ""  # what it should not look like; as clean_text leaves it
    seed: int = 42  # 0 to MAX_SEED
    preset: str = "draft"  # one of PRESETS
    prior: str = "exact"  # a prior's name, or a folder in diffusers' layout
    refiner: str = ""  # the same for the last stage; empty: the one that belongs to the prior
    stages: tuple[str, ...] = STAGES  # of STAGES, in their order
    device: str = "auto"  # one of DEVICES
    threads: int = 0  # of the CPU; 0: as many as torch chooses
    overrides: dict[str, Any] = field(
        default_factory=dict
    )  # "stage.setting" -> JSON value, over the preset's

    def __post_init__(self) -> None:
        _check_types(self)
        _expect("id", "a short name", self.id, 0 < len(self.id) <= 200)
        _expect("kind", " or ".join(KINDS), self.kind, self.kind in KINDS)
        _expect("prompt", "a few words", self.prompt, self.prompt != "")
        for name, text in (("prompt", self.prompt), ("negative", self.negative)):
            _expect(name, f"at most {MAX_PROMPT:,} characters", f"{len(text):,}", len(text) <= MAX_PROMPT)
            _expect(name, "one line of plain text", text, text == clean_text(text))
        _expect("folder", "a path", self.folder, self.folder.strip() != "" and "\0" not in self.folder)
        _expect("seed", f"a whole number from 0 to {MAX_SEED:,}", self.seed, 0 <= self.seed <= MAX_SEED)
        _expect("preset", " or ".join(PRESETS), self.preset, self.preset in PRESETS)
        _expect("prior", "a prior's name or folder", self.prior, self.prior != "")
        _expect("device", " or ".join(DEVICES), self.device, self.device in DEVICES)
        _expect("threads", "0 (automatic) to 1,024", self.threads, 0 <= self.threads <= 1024)
        check_stages(self.stages, self.kind)
        _dump(self.overrides, "overrides")


def check_stages(stages: tuple[str, ...], kind: str = "generate") -> None:
    """Raises BadMessage unless these stages can run one after the other."""
    for stage in stages:
        _expect("stages", f"names of {', '.join(STAGES)}", stage, stage in STAGES)
    said = ",".join(stages)
    in_order = list(stages) == [s for s in STAGES if s in stages]
    _expect("stages", f"each at most once, in the order {','.join(STAGES)}", said, in_order)
    if kind == "generate":
        _expect("stages", "nerf as the first, since every later stage starts from it", said, "nerf" in stages)
    else:
        made = "nerf" in stages or "geometry" in stages
        _expect("stages", "texture and refine only, on a mesh that exists", said, bool(stages) and not made)


@dataclass(frozen=True)
class Ready:
    versions: dict[str, str]  # of dreamflow, python, torch, ...
    devices: tuple[str, ...]  # the one in use first, as a person would name it
    kernels: dict[str, str]  # "hashgrid" -> "warp", ...
    threads: int
    memory_gb: float | None = None  # of the device in use
    protocol: int = VERSION


@dataclass(frozen=True)
class Started:
    stage: str
    total: int  # iterations


@dataclass(frozen=True)
class Progress:
    stage: str
    level: int  # noise levels done, 0 to levels
    levels: int
    iteration: int  # iterations done, 0 to total
    total: int
    seconds_left: float | None = None  # of this stage; None: not known yet
    loss: float | None = None
    gap: float | None = None  # ||eps_p - eps_phi||, root mean square


@dataclass(frozen=True)
class Preview:
    path: str


@dataclass(frozen=True)
class Snapshot:
    path: str


@dataclass(frozen=True)
class Checkpoint:
    path: str


@dataclass(frozen=True)
class Warned:
    message: str


@dataclass(frozen=True)
class Paused:
    pass


@dataclass(frozen=True)
class Finished:
    paths: dict[str, str]  # "mesh.glb" -> where it lies, ...
    figures: dict[str, float]


@dataclass(frozen=True)
class Cancelled:
    paths: dict[str, str]


@dataclass(frozen=True)
class Failed:
    kind: str
    message: str  # what happened, one sentence
    todo: str = ""  # what to do about it
    detail: str = ""  # for a report: where, versions, the traceback's end


Event = (
    Ready
    | Started
    | Progress
    | Preview
    | Snapshot
    | Checkpoint
    | Warned
    | Paused
    | Finished
    | Cancelled
    | Failed
)
EVENTS: dict[str, type] = {cls.__name__.lower(): cls for cls in get_args(Event)}
T = TypeVar("T")


def encode(event: Event) -> str:
    """One line of ASCII JSON without its newline; raises BadMessage on a NaN or a wrong type."""
    _check_types(event)
    return _dump({"event": type(event).__name__.lower(), **asdict(event)})


def decode(line: str | bytes) -> Event:
    """The event on this line; raises BadMessage on anything else."""
    message = _load(line)
    name = message.pop("event", None)
    cls = EVENTS.get(name) if isinstance(name, str) else None
    if cls is None:
        raise BadMessage("event", " or ".join(EVENTS), name)
    event: Event = _build(cls, message)
    return event


def encode_job(job: Job) -> str:
    """One line of ASCII JSON without its newline."""
    return _dump(asdict(job))


def decode_job(line: str | bytes) -> Job:
    """The job on this line; raises BadMessage on anything else."""
    return _build(Job, _load(line))


def _dump(message: dict[str, Any], what: str = "message") -> str:
    try:
        line = json.dumps(message, allow_nan=False)  # ASCII: a lone surrogate in a path survives too
    except (TypeError, ValueError, RecursionError) as error:
        raise BadMessage(what, "finite JSON values", error) from error
    _expect("message", f"less than {MAX_LINE:,} bytes", f"{len(line):,}", len(line) < MAX_LINE)
    return line


def _load(line: str | bytes) -> dict[str, Any]:
    _expect("message", f"at most {MAX_LINE:,} bytes", f"{len(line):,}", len(line) <= MAX_LINE)
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, an endless integer
        raise BadMessage("message", "one JSON object", line) from error
    if not isinstance(message, dict):
        raise BadMessage("message", "one JSON object", message)
    return message


def _build(cls: type[T], values: dict[str, Any]) -> T:
    hints = get_type_hints(cls)
    for name, value in values.items():
        if name not in hints:
            raise BadMessage(cls.__name__.lower(), f"fields of {', '.join(hints)}", name)
        if get_origin(hints[name]) is tuple and isinstance(value, list):
            values[name] = tuple(value)  # JSON has no tuples
    try:
        made = cls(**values)
    except TypeError as error:
        raise BadMessage(cls.__name__.lower(), "all of its fields", error) from error
    _check_types(made)
    return made


def _check_types(message: Any) -> None:
    hints = get_type_hints(type(message))
    for f in fields(message):
        value = getattr(message, f.name)
        if not _is_a(value, hints[f.name]):
            raise BadMessage(f.name, f.type, value)


def _is_a(value: Any, hint: Any) -> bool:
    """Whether a value is of this type; numbers must be finite, and True is no number."""
    origin, args = get_origin(hint), get_args(hint)
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


def _expect(what: str, expected: object, got: object, holds: bool) -> None:
    if not holds:
        raise BadMessage(what, expected, got)


def _short(got: object) -> str:
    if isinstance(got, Exception):
        return str(got)[:80]
    if isinstance(got, str) and got.replace(",", "").isdigit():
        return got  # a count
    shown = repr(got[:80] if isinstance(got, str | bytes) else got)
    return shown if len(shown) <= 80 else shown[:77] + "..."
