"""A job: what one run is to make, with the help, bounds and choices of each of its options. Standard library only.

The command line, batches and their CSV columns are built from this table (options.py).
"""

from __future__ import annotations

import json
from dataclasses import Field, dataclass, field, fields
from hashlib import sha256
from typing import Any

from .wire import Message, check_types, clean_text, dump, expect

MAX_PROMPT = 1_000  # characters; about 200 tokens, which CLIP reads in chunks of 75
MAX_SNAPSHOT_FACES = 20_000
MAX_SEED = 2**31 - 1  # the largest integer that a Blender property holds
MESHES = (".glb", ".gltf", ".obj", ".ply", ".npz")  # what a refine job can begin with
MIN_STRENGTH, MAX_STRENGTH = 0.1, 0.5

KINDS = ("generate", "refine")
STAGES = ("nerf", "geometry", "texture", "refine")
RECIPES = {  # the stages of each; their settings are in backend/config.py
    "dreamflow": STAGES,
    "magic3d": ("nerf", "geometry"),
    "fantasia3d": ("geometry", "texture"),
    "prolificdreamer": ("nerf", "geometry", "texture"),
}
PRESETS = ("paper", "fast", "draft")
DEVICES = ("auto", "cuda", "cpu", "mps")
A_PRIOR = "mini, sd, exact, a model's .safetensors file, or a folder in diffusers' layout"


_SAME = (
    "kind", "prompt", "negative", "seed", "preset", "prior", "refiner", "phi", "stages", "overrides",
    "mesh", "strength", "keep_uvs", "texture_size", "material", "front",
)  # fmt: skip


_LATER = (
    "texturer",
    "lora",
    "control",
    "recipe",
    "scene",
    "image",
    "image_adapter",
    "like",
)  # jobs that leave them as they are have the keys that they had before


def option(default: Any, help: str, **more: Any) -> Any:
    """A field with metadata. more: low and high, choices, unit, metavar; zero=True: 0 is allowed besides."""
    return field(default=default, metadata={"help": help, **more})


def bounds_text(metadata: Any) -> str:
    """ "0 or 64 to 8,192 pixels"."""
    zero = "0 or " if metadata.get("zero") else ""
    return f"{zero}{metadata['low']:,} to {metadata['high']:,} {metadata.get('unit', '')}".strip()


@dataclass(frozen=True)
class Job(Message):
    """One job, small enough for one line of JSON; raises BadMessage on a bad field."""

    id: str
    kind: str  # one of KINDS
    prompt: str  # as clean_text leaves it, 1 to MAX_PROMPT characters
    folder: str  # where everything of this job is written
    negative: str = option("", "what it should not look like", metavar="TEXT")
    seed: int = option(42, "another seed, another result", low=0, high=MAX_SEED, metavar="N")
    preset: str = option("draft", "quality and duration", choices=PRESETS)
    prior: str = option("mini", A_PRIOR, metavar="NAME_OR_FOLDER")
    refiner: str = option(
        "", f"{A_PRIOR} (default: the one that belongs to the prior)", metavar="NAME_OR_FOLDER"
    )
    texturer: str = option(
        "",
        f"{A_PRIOR}, which textures in the prior's place (default: sd for mvdream where it has been fetched)",
        metavar="NAME_OR_FOLDER",
    )
    phi: str = option(
        "",
        "D_phi's own model; shared: the prior's network, which takes less memory; or none: D_phi(x) = x, which"
        " takes the least (default: sd-phi for sd where it has been fetched, else shared)",
        metavar="NAME_OR_FOLDER",
    )
    lora: tuple[str, ...] = option(
        (),
        "a LoRA for the prior, as FILE or FILE:WEIGHT; given again, another",
        metavar="FILE[:WEIGHT]",
        more=True,
    )
    control: tuple[str, ...] = option(
        (),
        "a ControlNet that shows the prior depth or normal maps of the mesh while it is textured, as FOLDER or"
        " FOLDER:WEIGHT, or MV-Adapter's FILE, by which six sides are painted at once; given again, another; mini: the"
        " built-in model's own",
        metavar="PATH[:WEIGHT]",
        more=True,
    )
    image: str = option(
        "",
        "a picture that the prior looks at, as FILE or FILE:WEIGHT: ImageDream in all stages, others by an"
        " image-adapter while the mesh is textured",
        metavar="FILE[:WEIGHT]",
    )
    image_adapter: str = option(
        "", "the IP-Adapter that shows the image to the prior, its image_encoder beside it", metavar="FILE"
    )
    stages: tuple[str, ...] = option(STAGES, "which stages to run, in this order", metavar="LIST")
    device: str = option("auto", "where to compute", choices=DEVICES)
    threads: int = option(0, "CPU threads, 0 = automatic", low=0, high=1024, metavar="N")
    checkpoint_seconds: float = option(
        60.0, "between checkpoints; 0: every iteration", low=0, high=86_400, unit="s"
    )
    snapshot_seconds: float = option(
        30.0, "between snapshots; 0: every iteration", low=0, high=86_400, unit="s"
    )
    snapshot_faces: int = option(5_000, "of a snapshot; 0: no snapshots", low=0, high=MAX_SNAPSHOT_FACES)
    overrides: dict[str, Any] = field(
        default_factory=dict
    )  # "stage.setting" -> JSON value, over the preset's
    recipe: str = (
        "dreamflow"  # generate: of RECIPES, settings under what the prior states; its stages are in `stages`
    )
    scene: bool = False  # generate: what lies round the cameras, not an object; stage nerf alone
    mesh: str = ""  # refine: the object's file, one of MESHES
    strength: float | None = option(
        None,
        "refine: 0.1 cleans up, 0.3 adds detail, 0.5 repaints. The same as --set refine.start, with the preset's"
        " levels scaled to fit",
        low=MIN_STRENGTH,
        high=MAX_STRENGTH,
    )
    keep_uvs: bool = True  # refine: paint into the object's own UVs where they are usable
    texture_size: int = option(
        0, "refine: a side (default: its own image's, else the preset's)",
        low=64, high=8192, zero=True, unit="pixels", metavar="PIXELS",
    )  # fmt: skip
    material: str = option("", "refine: change this material alone (default: all of them)", metavar="NAME")
    front: float = option(
        0.0, "refine: which way it faces: 0 is -Y (in a GLB +Z), 90 is +X",
        low=-360, high=360, unit="degrees", metavar="DEGREES",
    )  # fmt: skip

    like: int | None = None  # generate: the seed of stage 1's first half, where that is another one's

    @property
    def first_seed(self) -> int:
        """Of stage 1, to half of its schedule."""
        return self.seed if self.like is None else self.like

    def is_same(self, other: Job) -> bool:
        """Whether both would give the same object on one machine; which folder, threads or device does not count."""
        return all(getattr(self, name) == getattr(other, name) for name in (*_SAME, *_LATER))

    def key(self) -> str:
        """64 hexadecimal digits that are equal for two jobs that are the same, on every machine."""
        said = {name: getattr(self, name) for name in _SAME}
        usual = {one.name: one.default for one in fields(self)}
        said |= {name: value for name in _LATER if (value := getattr(self, name)) != usual[name]}
        return sha256(json.dumps(said, sort_keys=True).encode("ascii")).hexdigest()

    def __post_init__(self) -> None:
        check_types(self)
        expect("id", "a short name", self.id, 0 < len(self.id) <= 200)
        expect("kind", " or ".join(KINDS), self.kind, self.kind in KINDS)
        expect("prompt", "a few words", self.prompt, self.prompt != "")
        for name, text in (("prompt", self.prompt), ("negative", self.negative)):
            expect(name, f"at most {MAX_PROMPT:,} characters", f"{len(text):,}", len(text) <= MAX_PROMPT)
            expect(name, "one line of plain text", text, text == clean_text(text))
        expect("folder", "a path", self.folder, self.folder.strip() != "" and "\0" not in self.folder)
        expect("prior", "a prior's name or folder", self.prior, self.prior != "")
        for one in fields(self):
            _check_option(one, getattr(self, one.name))
        check_stages(self.stages, self.kind)
        expect(
            "stages",
            "nerf alone, for a scene",
            ",".join(self.stages),
            not self.scene or self.stages == ("nerf",),
        )
        expect("recipe", " or ".join(RECIPES), self.recipe, self.recipe in RECIPES)
        dump(self.overrides, "overrides")
        expect("like", f"a seed from 0 to {MAX_SEED:,}", self.like, 0 <= self.first_seed <= MAX_SEED)
        if self.kind == "generate":
            expect("mesh", "nothing: to generate is to begin from nothing", self.mesh, self.mesh == "")
        else:
            fits = self.mesh.lower().endswith(MESHES) and "\0" not in self.mesh
            expect("like", "nothing: to refine has no stage 1", self.like, self.like is None)
            expect("mesh", f"the path of a {', '.join(MESHES)} file", self.mesh, fits)


def _check_option(one: Field[Any], value: Any) -> None:
    """Raises BadMessage where it is out of bounds or none of the choices."""
    if choices := one.metadata.get("choices"):
        expect(one.name, " or ".join(choices), value, value in choices)
    if "low" in one.metadata and value is not None:
        inside = one.metadata["low"] <= value <= one.metadata["high"]
        expect(one.name, bounds_text(one.metadata), value, inside or (value == 0 and "zero" in one.metadata))


def check_stages(stages: tuple[str, ...], kind: str = "generate") -> None:
    """Raises BadMessage unless these stages can run one after the other."""
    for stage in stages:
        expect("stages", f"names of {', '.join(STAGES)}", stage, stage in STAGES)
    said = ",".join(stages)
    in_order = list(stages) == [s for s in STAGES if s in stages]
    expect("stages", f"each at most once, in the order {','.join(STAGES)}", said, in_order)
    made = "nerf" in stages or "geometry" in stages
    if kind == "generate":
        expect("stages", "nerf as the first, or geometry, which then begins with a ball", said, made)
    else:
        expect("stages", "texture and refine only, on a mesh that exists", said, bool(stages) and not made)
