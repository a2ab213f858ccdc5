"""What the two processes say to each other: requests one way, events the other. Standard library only.

The backend is started as `python -m backend worker`. A message is one JSON object on one line of UTF-8, at most
1 MiB. A request is such a line to its standard input, as {"request": "generate", "job": {"id": "1", "kind":
"generate", "prompt": "a red mug", "folder": "out/mug"}}; an event is one of its standard output, as {"event":
"preview", "path": "out/mug/preview.png"}. The first event is `ready`, and its `protocol` is the version of these
tables; requests may be sent before it. Paths are relative to the backend's working directory or absolute, and
those of a job's events lie in the job's folder. Fields that a table does not name are refused.

    request      fields     meaning
    hello        protocol   asks for `ready`; refused where the versions differ
    generate     job,       run it; `job` has the fields of Job (job.py), of which id, kind, prompt and folder must be
                 until      given; the folder is new or empty. `until`, 0 for all of it: a candidate, `cancelled` after
                            this share of stage 1 with candidate.png and candidate.json; `resume` goes on with it
    refine       job        the same, from the mesh file that `job.mesh` names: meshfile.py says what object.npz holds
    resume       folder,    go on with the job in this folder, from its newest checkpoint
                 until
    pause                   stand still: `paused`, within 2 s
    continue                go on after that
    finish                  end the running stage now, then deliver what there is: `finished`, in up to half a minute
    cancel                  stop after this iteration, keep the newest snapshot and checkpoint: `cancelled`. A client
                            that has waited long enough kills the process: a job's folder survives that
    status                  the newest event about what goes on now is said again; `ready` where nothing does
    shutdown                stop as for cancel, and end the process; the end of standard input means the same, and
                            the process is gone within 5 s

One job at a time: a client that has more keeps them until the last event of the running one. The process may end after
`cancelled` (exit code 0), and does after a `failed` before any `ready`: start another for the next job. A request
that is malformed, too long, unknown, or out of place is answered by `refused` and changes nothing.

    event        fields                                                    meaning
    ready        protocol, versions, devices, kernels, kernels_why,        what will do the work, and why
                 threads, memory_gb                                        nothing faster does
    started      stage, total                                              a stage begins, `total` iterations
    progress     stage, level, levels, iteration, total,                   after an iteration (not every one);
                 seconds_left, loss, gap                                   gap = ||eps_p - eps_phi||
    preview      path                                                      a newer picture of the object
    snapshot     path                                                      a newer coarse mesh
    checkpoint   path                                                      the run can resume from here
    warning      message                                                   it goes on, but read this
    paused                                                                 it waits for `continue`
    finished     paths, figures                                            the end: everything was delivered
    cancelled    paths                                                     the end: it was asked to stop; what there is
    failed       kind, message, todo, detail                               the end: `kind` as in backend/errors.py,
                                                                           or "internal" for a bug of ours
    refused      message                                                   a request was not carried out, and
                                                                           changed nothing

A job has exactly one of finished, cancelled and failed, and it is the last. `started` and `progress` name
one of STAGES, "deliver" (charts, bake, export), or at the beginning of a refine job "fit" (its colours are learnt).
The snapshots of a refine job are pictures: the texture as it stands, in the UVs that the result will have.
`figures` are numbers by name: "seconds" and "seconds_STAGE" (s), "memory_gb" (the most that the process held so far),
"networks_read" (from the disk), "faces", "texture_px", and whatever else was measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import get_args

from .job import DEVICES as DEVICES
from .job import MAX_PROMPT as MAX_PROMPT
from .job import MAX_SEED as MAX_SEED
from .job import MAX_STRENGTH as MAX_STRENGTH
from .job import MIN_STRENGTH as MIN_STRENGTH
from .job import PRESETS as PRESETS
from .job import STAGES as STAGES
from .job import Job as Job
from .wire import MAX_LINE as MAX_LINE
from .wire import BadMessage as BadMessage
from .wire import Message, build, dump, expect, load
from .wire import clean_text as clean_text

VERSION = 1
CANDIDATE_SHARE = 0.1  # of stage 1, unless another is asked for


@dataclass(frozen=True)
class Ready(Message):
    versions: dict[str, str]  # of dreamflow, python, torch, ...
    devices: tuple[str, ...]  # the one in use first, as a person would name it
    kernels: dict[str, str]  # "hashgrid" -> "warp", ...
    threads: int
    memory_gb: float | None = None  # of the device in use
    kernels_why: dict[str, str] = field(default_factory=dict)  # why nothing faster is used; "" where it is
    protocol: int = VERSION


@dataclass(frozen=True)
class Started(Message):
    stage: str
    total: int  # iterations


@dataclass(frozen=True)
class Progress(Message):
    stage: str
    level: int  # noise levels done, 0 to levels
    levels: int
    iteration: int  # iterations done, 0 to total
    total: int
    seconds_left: float | None = None  # of this stage; None: not known yet
    loss: float | None = None
    gap: float | None = None  # ||eps_p - eps_phi||, root mean square


@dataclass(frozen=True)
class Preview(Message):
    path: str


@dataclass(frozen=True)
class Snapshot(Message):
    path: str


@dataclass(frozen=True)
class Checkpoint(Message):
    path: str


@dataclass(frozen=True)
class Warning(Message):
    message: str


@dataclass(frozen=True)
class Paused(Message): ...


@dataclass(frozen=True)
class Finished(Message):
    paths: dict[str, str]  # "mesh.glb" -> where it lies, ...
    figures: dict[str, float]


@dataclass(frozen=True)
class Cancelled(Message):
    paths: dict[str, str]


@dataclass(frozen=True)
class Failed(Message):
    kind: str
    message: str  # what happened, one sentence
    todo: str = ""  # what to do about it
    detail: str = ""  # for a report: where, versions, the traceback's end


@dataclass(frozen=True)
class Refused(Message):
    message: str


Event = (
    Ready | Started | Progress | Preview | Snapshot | Checkpoint | Warning | Paused
    | Finished | Cancelled | Failed | Refused
)  # fmt: skip
EVENTS: dict[str, type] = {cls.__name__.lower(): cls for cls in get_args(Event)}


@dataclass(frozen=True)
class Hello(Message):
    protocol: int = VERSION


@dataclass(frozen=True)
class Generate(Message):
    job: Job
    until: float = 0.0  # a share of stage 1; 0: to the end

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share(self.until)


@dataclass(frozen=True)
class Refine(Message):
    job: Job


@dataclass(frozen=True)
class Resume(Message):
    folder: str
    until: float = 0.0  # as Generate's

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share(self.until)
        expect("folder", "a path", self.folder, self.folder.strip() != "" and "\0" not in self.folder)


@dataclass(frozen=True)
class Pause(Message): ...


@dataclass(frozen=True)
class Continue(Message): ...


@dataclass(frozen=True)
class Finish(Message): ...


@dataclass(frozen=True)
class Cancel(Message): ...


@dataclass(frozen=True)
class Shutdown(Message): ...


def _check_share(until: float) -> None:
    expect("until", "a share from 0 to less than 1", until, 0 <= until < 1)


Request = Hello | Generate | Refine | Resume | Pause | Continue | Finish | Cancel | Shutdown
REQUESTS: dict[str, type] = {cls.__name__.lower(): cls for cls in get_args(Request)}


def encode(event: Event) -> str:
    """One line of ASCII JSON without its newline; raises BadMessage on a NaN or a wrong type."""
    return dump({"event": type(event).__name__.lower(), **asdict(event)})


def decode(line: str | bytes) -> Event:
    """The event on this line; raises BadMessage on anything else."""
    message = load(line)
    name = message.pop("event", None)
    cls = EVENTS.get(name) if isinstance(name, str) else None
    if cls is None:
        raise BadMessage("event", " or ".join(EVENTS), name)
    event: Event = build(cls, message)
    return event


def encode_request(request: Request) -> str:
    """One line of ASCII JSON without its newline."""
    return dump({"request": type(request).__name__.lower(), **asdict(request)})


def decode_request(line: str | bytes) -> Request:
    """The request on this line; raises BadMessage on anything else."""
    message = load(line)
    name = message.pop("request", None)
    cls = REQUESTS.get(name) if isinstance(name, str) else None
    if cls is None:
        raise BadMessage("request", " or ".join(REQUESTS), name)
    if cls in (Generate, Refine) and isinstance(message.get("job"), dict):
        message["job"] = job = build(Job, message["job"])
        expect("job.kind", name, job.kind, job.kind == name)
    return build(cls, message)


def encode_job(job: Job) -> str:
    """One line of ASCII JSON without its newline."""
    return dump(asdict(job))


def decode_job(line: str | bytes) -> Job:
    """The job on this line; raises BadMessage on anything else."""
    return build(Job, load(line))
