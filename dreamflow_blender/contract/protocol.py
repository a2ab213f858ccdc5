"""What the two processes say to each other: requests one way, events the other. Standard library only.

The backend is started as `python -m backend worker`. A message is one JSON object on one line of UTF-8, at most
1 MiB. A request is such a line to its standard input, as {"request": "generate", "job": {"id": "1", "kind":
"generate", "prompt": "a red mug", "folder": "out/mug"}}; an event is one of its standard output, as {"event":
"preview", "path": "out/mug/preview.png"}. The first event is `ready`, and its `protocol` is the version of these
tables; requests may be sent before it. Paths are relative to the backend's working directory or absolute, and
those of a job's events lie in the job's folder. Fields that a table does not name are refused.

    request      fields     meaning
    hello        protocol   asks for `ready`; refused where the versions differ
    generate     job        do it; `job` has the fields of Job below, of which id, kind, prompt, folder must be given;
                            the folder is new or empty
    refine       job        the same, from the mesh file that `job.mesh` names: meshfile.py says what object.npz holds
    resume       folder     go on with the job in this folder, from its newest checkpoint
    pause                   stand still: `paused`, within 2 s
    continue                go on after that
    finish                  end the stage at work now, then deliver what there is: `finished`, in up to half a minute
    cancel                  stop after this iteration, keep the newest snapshot and checkpoint: `cancelled`. A client
                            that has waited long enough kills the process: a job's folder survives that
    status                  the newest event about what goes on now is said again; `ready` where nothing does
    shutdown                stop as for cancel, and end the process; the end of standard input means the same, and
                            the process is gone within 5 s

One job at a time: whoever has more keeps them until the last event of the one at work. The process may end after
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
    paused                                                                 it stands still until told to go on
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
"faces", "texture_px", and whatever else was measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from .wire import MAX_LINE as MAX_LINE
from .wire import BadMessage, build, check_types, clean_text, dump, expect, load

VERSION = 1
MAX_PROMPT = 1_000  # characters; CLIP reads about 75 words, so this is already generous
MAX_SNAPSHOT_FACES = 20_000
MAX_SEED = 2**31 - 1  # the largest integer that a Blender property holds
MESHES = (".glb", ".obj", ".ply", ".npz")  # what a refine job can begin with
MIN_STRENGTH, MAX_STRENGTH = 0.1, 0.5

KINDS = ("generate", "refine")
STAGES = ("nerf", "geometry", "texture", "refine")
PRESETS = ("paper", "fast", "draft")
DEVICES = ("auto", "cuda", "cpu", "mps")


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
    prior: str = "mini"  # a prior's name, or a folder in diffusers' layout
    refiner: str = ""  # the same for the last stage; empty: the one that belongs to the prior
    phi: str = ""  # D_phi's own model, likewise; "shared": the prior's network; empty: the prior's choice
    stages: tuple[str, ...] = STAGES  # of STAGES, in their order
    device: str = "auto"  # one of DEVICES
    threads: int = 0  # of the CPU; 0: as many as torch chooses
    checkpoint_seconds: float = 60.0  # between checkpoints; 0: after every iteration
    snapshot_seconds: float = 30.0  # between snapshots; 0: after every iteration
    snapshot_faces: int = 5_000  # at most, 0 to MAX_SNAPSHOT_FACES; 0: no snapshots
    overrides: dict[str, Any] = field(
        default_factory=dict
    )  # "stage.setting" -> JSON value, over the preset's
    mesh: str = ""  # refine: the object's file, one of MESHES
    strength: float | None = (
        None  # refine: its refine.start, MIN_STRENGTH to MAX_STRENGTH; None: as the preset or the overrides say
    )
    keep_uvs: bool = True  # refine: paint into the object's own UVs where they are usable
    texture_size: int = 0  # refine: pixels a side, 64 to 8,192; 0: the object's image's, else the preset's
    material: str = ""  # refine: the one material to change; empty: all of them
    front: float = 0.0  # refine: azimuth that the object faces, degrees; 0 is -Y, 90 is +X

    def __post_init__(self) -> None:
        check_types(self)
        expect("id", "a short name", self.id, 0 < len(self.id) <= 200)
        expect("kind", " or ".join(KINDS), self.kind, self.kind in KINDS)
        expect("prompt", "a few words", self.prompt, self.prompt != "")
        for name, text in (("prompt", self.prompt), ("negative", self.negative)):
            expect(name, f"at most {MAX_PROMPT:,} characters", f"{len(text):,}", len(text) <= MAX_PROMPT)
            expect(name, "one line of plain text", text, text == clean_text(text))
        expect("folder", "a path", self.folder, self.folder.strip() != "" and "\0" not in self.folder)
        expect("seed", f"a whole number from 0 to {MAX_SEED:,}", self.seed, 0 <= self.seed <= MAX_SEED)
        expect("preset", " or ".join(PRESETS), self.preset, self.preset in PRESETS)
        expect("prior", "a prior's name or folder", self.prior, self.prior != "")
        expect("device", " or ".join(DEVICES), self.device, self.device in DEVICES)
        expect("threads", "0 (automatic) to 1,024", self.threads, 0 <= self.threads <= 1024)
        for name in ("checkpoint_seconds", "snapshot_seconds"):
            expect(name, "0 to 86,400 s", getattr(self, name), 0 <= getattr(self, name) <= 86_400)
        faces = self.snapshot_faces
        expect("snapshot_faces", f"0 to {MAX_SNAPSHOT_FACES:,}", faces, 0 <= faces <= MAX_SNAPSHOT_FACES)
        check_stages(self.stages, self.kind)
        dump(self.overrides, "overrides")
        self._check_mesh()

    def _check_mesh(self) -> None:
        if self.kind == "generate":
            expect("mesh", "nothing: to generate is to begin from nothing", self.mesh, self.mesh == "")
            return
        fits = self.mesh.lower().endswith(MESHES) and "\0" not in self.mesh
        expect("mesh", f"the path of a {', '.join(MESHES)} file", self.mesh, fits)
        said = f"{MIN_STRENGTH} to {MAX_STRENGTH}"
        strength = self.strength
        expect("strength", said, strength, strength is None or MIN_STRENGTH <= strength <= MAX_STRENGTH)
        size = self.texture_size
        expect("texture_size", "0 or 64 to 8,192 pixels", size, size == 0 or 64 <= size <= 8192)
        expect("front", "-360 to 360 degrees", self.front, -360 <= self.front <= 360)


def check_stages(stages: tuple[str, ...], kind: str = "generate") -> None:
    """Raises BadMessage unless these stages can run one after the other."""
    for stage in stages:
        expect("stages", f"names of {', '.join(STAGES)}", stage, stage in STAGES)
    said = ",".join(stages)
    in_order = list(stages) == [s for s in STAGES if s in stages]
    expect("stages", f"each at most once, in the order {','.join(STAGES)}", said, in_order)
    if kind == "generate":
        expect("stages", "nerf as the first, since every later stage starts from it", said, "nerf" in stages)
    else:
        made = "nerf" in stages or "geometry" in stages
        expect("stages", "texture and refine only, on a mesh that exists", said, bool(stages) and not made)


@dataclass(frozen=True)
class Ready:
    versions: dict[str, str]  # of dreamflow, python, torch, ...
    devices: tuple[str, ...]  # the one in use first, as a person would name it
    kernels: dict[str, str]  # "hashgrid" -> "warp", ...
    threads: int
    memory_gb: float | None = None  # of the device in use
    kernels_why: dict[str, str] = field(default_factory=dict)  # why nothing faster is used; "" where it is
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
class Warning:
    message: str


@dataclass(frozen=True)
class Paused: ...


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


@dataclass(frozen=True)
class Refused:
    message: str


Event = (
    Ready | Started | Progress | Preview | Snapshot | Checkpoint | Warning | Paused
    | Finished | Cancelled | Failed | Refused
)  # fmt: skip
EVENTS: dict[str, type] = {cls.__name__.lower(): cls for cls in get_args(Event)}


@dataclass(frozen=True)
class Hello:
    protocol: int = VERSION


@dataclass(frozen=True)
class Generate:
    job: Job


@dataclass(frozen=True)
class Refine:
    job: Job


@dataclass(frozen=True)
class Resume:
    folder: str

    def __post_init__(self) -> None:
        check_types(self)
        expect("folder", "a path", self.folder, self.folder.strip() != "" and "\0" not in self.folder)


@dataclass(frozen=True)
class Pause: ...


@dataclass(frozen=True)
class Continue: ...


@dataclass(frozen=True)
class Finish: ...


@dataclass(frozen=True)
class Cancel: ...


@dataclass(frozen=True)
class Status: ...


@dataclass(frozen=True)
class Shutdown: ...


Request = Hello | Generate | Refine | Resume | Pause | Continue | Finish | Cancel | Status | Shutdown
REQUESTS: dict[str, type] = {cls.__name__.lower(): cls for cls in get_args(Request)}


def encode(event: Event) -> str:
    """One line of ASCII JSON without its newline; raises BadMessage on a NaN or a wrong type."""
    check_types(event)
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
    check_types(request)
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
