"""What is typed: the arguments of every command, and the jobs that they describe."""

from __future__ import annotations

import argparse
import uuid
from pathlib import Path
from typing import Any, NoReturn

from backend import __version__
from backend.cli import batch, doctor, evidence, export
from backend.cli import jobs as cli_jobs
from backend.cli import models as cli_models
from backend.cli import settings as cli_settings
from backend.errors import InputError
from backend.jobs.folder import clean_prompt, default_folder
from dreamflow_blender.contract.files import is_file
from dreamflow_blender.contract.job import MESHES, RECIPES, STAGES
from dreamflow_blender.contract.options import add_options, finite_number, typed, whole_number
from dreamflow_blender.contract.protocol import CANDIDATE_SHARE, BadMessage, Job, clean_text
from dreamflow_blender.contract.settings import read_setting

BOTH = (
    "preset", "prior", "texturer", "refiner", "phi", "lora", "control", "image", "image_adapter", "seed", "negative",
    "device", "threads",
)  # fmt: skip
MOST_CANDIDATES = 16
GENERATE = (*BOTH, "stages")
REFINE = ("strength", "texture_size", "material", "front", *BOTH)
SIZES = {  # of what `generate` delivers: the option's value, its help, and the setting that it is
    "faces": (
        "N",
        "at most so many triangles (default: the preset's, or the profile's of --deliver)",
        "delivery.max_faces",
    ),
    "texture_size": (
        "PIXELS",
        "a side of the texture (default: the preset's, or the profile's of --deliver)",
        "delivery.texture_size",
    ),
}

EXAMPLES = """\
examples:
  python -m backend generate "a red mug"
  python -m backend generate "a blue teapot with a yellow lid" --preset fast --seed 7 --out teapots/blue
  python -m backend generate "a red duck" --faces 1500 --texture-size 512
  python -m backend generate "a red duck" --set delivery.max_faces=null
  python -m backend generate "a green tree" --stages nerf,geometry,texture --json > events.jsonl
  python -m backend generate "an astronaut" --prior models/sd-2.1 --refiner models/sdxl-refiner --device cuda
  python -m backend generate "a red mug" --candidates 4
  python -m backend generate "a red mug" --deliver game --height 0.1 --origin base
  python -m backend generate "a red mug" --continue

The last one begins the job, goes on with it, or does nothing where it is done: a script may repeat it.
Ctrl-C, SIGTERM or closing the terminal stops after the iteration that is running and keeps what there is;
Ctrl-C twice stops at once.
Exit codes: 0 done, 1 failed, 2 the request cannot be carried out as written, 130 stopped.
"""

REFINE_EXAMPLES = """\
examples:
  python -m backend refine mug.glb "a red mug"
  python -m backend refine robot.glb "a rusty robot" --strength 0.45 --material Body --texture-size 2048
  python -m backend refine scan.obj "an old oak tree" --new-uvs --prior sd --refiner sdxl-refiner --device cuda

The object is not moved and its mesh not changed: the job's folder gets albedo.png (more where it has several
images), mesh.glb and mesh.npz. Of a GLB all that is not its base colour comes back as it was.
"""


class Parser(argparse.ArgumentParser):
    """Raises InputError instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def parser() -> argparse.ArgumentParser:
    """Of all commands."""
    top = Parser("python -m backend", description="DreamFlow: a prompt becomes a textured mesh.")
    top.add_argument("--version", action="version", version=f"DreamFlow {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    g = commands.add_parser(
        "generate",
        help="make a textured mesh from a prompt",
        description="Make a textured mesh from a prompt: mesh.glb, albedo.png and pictures in a folder of its own.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    g.add_argument("prompt", metavar="PROMPT", help='what to make, as in "a red mug"')
    add_options(g, GENERATE)
    for name, (metavar, what, _) in SIZES.items():
        g.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, type=typed(whole_number), help=what)
    g.add_argument(
        "--recipe", choices=tuple(RECIPES), default="dreamflow",
        help="another method's stages and losses, unless --stages and --set say otherwise (default: dreamflow)",
    )  # fmt: skip
    g.add_argument(
        "--scene", action="store_true",
        help="a scene round the cameras in place of an object: its views (turntable.webp), and the faces that they see",
    )  # fmt: skip
    _add_job_arguments(g, "out/PROMPT-SEED")
    _add_candidates(g)
    export.add_options(g)
    r = commands.add_parser(
        "refine",
        help="give an object of your own a better texture",
        description="Refine the texture of an object of your own, in its own UVs where they are usable.",
        epilog=REFINE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    r.add_argument(
        "mesh", metavar="MESH", type=Path, help=f"a {', '.join(MESHES[:-1])}, or Blender's object.npz"
    )
    r.add_argument("prompt", metavar="PROMPT", help='what it is, as in "a red mug"')
    r.add_argument(
        "--texture", action="store_true", help="repaint from scratch first, whatever colours there are"
    )
    r.add_argument("--new-uvs", action="store_true", help="make new UVs even where its own are usable")
    add_options(r, REFINE)
    _add_job_arguments(r, "out/PROMPT-SEED-refined")
    cli_models.add_parser(commands)
    cli_settings.add_parser(commands)
    doctor.add_parser(commands)
    cli_jobs.add(commands)
    export.add_parser(commands)
    batch.add(commands)
    evidence.add(commands)
    return top


def _add_job_arguments(command: argparse.ArgumentParser, folder: str) -> None:
    """What every job has beside the fields of Job."""
    command.add_argument("--out", metavar="DIR", type=Path, help=f"the job's folder (default: {folder})")
    command.add_argument(
        "--set", metavar="STAGE.SETTING=VALUE", type=typed(read_setting), action="append", default=[],
        help="replace one of the preset's settings, as in nerf.levels=400 or delivery.max_faces=null (full detail)",
    )  # fmt: skip
    older = command.add_mutually_exclusive_group()
    older.add_argument("--overwrite", action="store_true", help="replace an older job in the folder")
    older.add_argument(
        "--continue", dest="go_on", action="store_true",
        help="go on with this job where it was stopped, and do nothing where it is done",
    )  # fmt: skip
    command.add_argument(
        "--json", action="store_true", help="one JSON event a line, and nothing else on stdout"
    )


def _add_candidates(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--candidates", metavar="N", type=typed(_count),
        help="begin N seeds, from --seed on, and show them side by side: go on with the one that you like",
    )  # fmt: skip
    command.add_argument(
        "--until", metavar="SHARE", type=typed(_share),
        help=f"how much of stage 1 a candidate runs (default: {CANDIDATE_SHARE})",
    )  # fmt: skip
    command.add_argument(
        "--pick",
        choices=("best",),
        help="go on at once with the candidate that the prior is most content with",
    )


def _count(text: str) -> int:
    number = whole_number(text)
    if not 2 <= number <= MOST_CANDIDATES:
        raise ValueError(f"expected 2 to {MOST_CANDIDATES}, got {number}")
    return number


def _share(text: str) -> float:
    share = finite_number(text)
    if not 0 < share < 1:
        raise ValueError(f"expected more than 0 and less than 1, got {text[:40]!r}")
    return share


def to_job(args: argparse.Namespace) -> Job:
    """The job of `generate` or `refine` that the arguments describe; raises InputError."""
    prompt = clean_prompt(args.prompt)
    refine = args.command == "refine"
    given: dict[str, Any] = {name: getattr(args, name) for name in (REFINE if refine else GENERATE)}
    if refine:
        if not is_file(args.mesh):
            raise InputError(
                f"There is no file {args.mesh}.", f"Give the path of a {', '.join(MESHES)} file."
            )
        given |= {
            "mesh": str(args.mesh),
            "keep_uvs": not args.new_uvs,
            "stages": ("texture", "refine") if args.texture else ("refine",),
        }
    else:
        own = ("nerf",) if args.scene else RECIPES[args.recipe]
        given |= {"recipe": args.recipe, "stages": own if args.stages == STAGES else args.stages}
        if args.candidates and "nerf" not in given["stages"]:
            raise InputError(
                "Candidates are chosen in stage nerf, which this job has not.", "Leave --candidates out."
            )
        given["scene"] = args.scene
        if args.scene:
            given["snapshot_faces"] = 0  # they are seen from outside
    overrides = dict(args.set)
    baked = not refine and args.profile in export.BAKED  # then they are the profile's
    for name, (_, _, setting) in () if refine or baked else SIZES.items():
        value = getattr(args, name)
        if value is not None and setting in overrides:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} and --set {setting} are the same setting.", "Give one of them.")
        overrides |= {} if value is None else {setting: value}
    given["negative"] = clean_text(args.negative)
    folder = args.out or default_folder(prompt, args.seed, Path("out"), args.command)
    try:
        return Job(uuid.uuid4().hex[:12], args.command, prompt, str(folder), overrides=overrides, **given)
    except BadMessage as error:
        raise InputError(str(error), f"See python -m backend {args.command} --help.") from error
