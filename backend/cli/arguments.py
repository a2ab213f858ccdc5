"""What is typed: the arguments of every command, and the jobs that they describe."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from backend import __version__
from backend.cli import doctor
from backend.cli import jobs as cli_jobs
from backend.cli import models as cli_models
from backend.errors import InputError
from backend.jobs.folder import (
    clean_prompt,
    default_folder,
)
from dreamflow_blender.contract.protocol import (
    DEVICES,
    MAX_SEED,
    MAX_STRENGTH,
    MIN_STRENGTH,
    PRESETS,
    STAGES,
    BadMessage,
    Job,
    clean_text,
)
from dreamflow_blender.contract.settings import read_setting

REFINE_EXAMPLES = """\
examples:
  python -m backend refine mug.glb "a red mug"
  python -m backend refine robot.glb "a rusty robot" --strength 0.45 --material Body --texture-size 2048
  python -m backend refine scan.obj "an old oak tree" --new-uvs --prior sd --refiner sdxl-refiner --device cuda

The object is not moved and its mesh not changed: the job's folder gets albedo.png (more where it has several
images), mesh.glb and mesh.npz. Of a GLB all that is not its base colour comes back as it was.
"""


def add_refine(
    commands: argparse._SubParsersAction, whole_number: Callable[[str], int], setting: Callable[[str], Any]
) -> None:
    """Its arguments."""
    r = commands.add_parser(
        "refine",
        help="give an object of your own a better texture",
        description="Refine the texture of an object of your own, in its own UVs where they are usable.",
        epilog=REFINE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    r.add_argument("mesh", metavar="MESH", type=Path, help="a .glb, .obj, .ply, or Blender's object.npz")
    r.add_argument("prompt", metavar="PROMPT", help='what it is, as in "a red mug"')
    r.add_argument("--out", metavar="DIR", type=Path, help="the job's folder (default: out/PROMPT-SEED)")
    r.add_argument(
        "--strength", type=float,
        help=f"{MIN_STRENGTH} (cleans up) over 0.3 (adds detail) to {MAX_STRENGTH} (repaints); default: 0.3."
        " The same as --set refine.start, with the preset's levels spaced to fit",
    )  # fmt: skip
    r.add_argument(
        "--texture", action="store_true", help="make the texture anew first, whatever colours there are"
    )
    r.add_argument("--new-uvs", action="store_true", help="make new UVs even where its own are usable")
    r.add_argument(
        "--texture-size", metavar="PIXELS", type=whole_number, default=0,
        help="a side (default: its own image's, else the preset's)",
    )  # fmt: skip
    r.add_argument("--material", metavar="NAME", default="", help="change this material alone")
    r.add_argument(
        "--front", metavar="DEGREES", type=float, default=0.0,
        help="which way it faces: 0 is -Y (in a GLB +Z), 90 is +X",
    )  # fmt: skip
    r.add_argument("--preset", choices=PRESETS, default="draft", help="how well, how long (default: draft)")
    r.add_argument("--prior", metavar="NAME_OR_FOLDER", default="mini", help="as of generate (default: mini)")
    r.add_argument("--refiner", metavar="NAME_OR_FOLDER", default="", help="as of generate")
    r.add_argument(
        "--seed", metavar="N", type=whole_number, default=42, help=f"0 to {MAX_SEED} (default: 42)"
    )
    r.add_argument("--negative", metavar="TEXT", default="", help="what it should not look like")
    r.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: auto)")
    r.add_argument(
        "--threads", metavar="N", type=whole_number, default=0, help="of the CPU (default: automatic)"
    )
    r.add_argument(
        "--set", metavar="STAGE.SETTING=VALUE", type=setting, action="append", default=[],
        help="replace one of the preset's settings, as in refine.levels=40",
    )  # fmt: skip
    r.add_argument("--overwrite", action="store_true", help="replace an older job in the folder")
    r.add_argument("--json", action="store_true", help="one JSON event a line, and nothing else on stdout")


def to_refine_job(args: argparse.Namespace) -> Job:
    """The job that the arguments describe; raises InputError."""
    prompt = clean_prompt(args.prompt)
    if not args.mesh.is_file():
        raise InputError(
            f"There is no file {args.mesh}.", "Give the path of a .glb, .obj, .ply or .npz file."
        )
    try:
        return Job(
            id=uuid.uuid4().hex[:12],
            kind="refine",
            prompt=prompt,
            folder=str(args.out or default_folder(prompt, args.seed, Path("out"))),
            negative=clean_text(args.negative),
            seed=args.seed,
            preset=args.preset,
            prior=args.prior,
            refiner=args.refiner,
            stages=("texture", "refine") if args.texture else ("refine",),
            device=args.device,
            threads=args.threads,
            overrides=dict(args.set),
            mesh=str(args.mesh),
            strength=args.strength,
            keep_uvs=not args.new_uvs,
            texture_size=args.texture_size,
            material=args.material,
            front=args.front,
        )
    except BadMessage as error:
        raise InputError(str(error), "See python -m backend refine --help.") from error


EXAMPLES = """\
examples:
  python -m backend generate "a red mug"
  python -m backend generate "a blue teapot with a yellow lid" --preset fast --seed 7 --out teapots/blue
  python -m backend generate "a red duck" --set delivery.max_faces=null --set delivery.texture_size=2048
  python -m backend generate "a green tree" --stages nerf,geometry,texture --json > events.jsonl
  python -m backend generate "an astronaut" --prior models/sd-2.1 --refiner models/sdxl-refiner --device cuda

Ctrl-C stops after the iteration at work and keeps what there is; pressed twice, it stops at once.
Exit codes: 0 done, 1 failed, 2 the request cannot be carried out as written, 130 stopped by Ctrl-C.
"""


class Parser(argparse.ArgumentParser):
    """Raises InputError instead of leaving the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}.", f"See {self.prog} --help.")


def whole_number(text: str) -> int:
    try:
        number = int(text)
    except ValueError as error:  # also what int says to more than 4,300 digits
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text[:40]!r}") from error
    if abs(number) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a number of at most 18 digits, got {text[:40]!r}")
    return number


def setting(text: str) -> tuple[str, Any]:
    """ "nerf.levels=400" as its name and its value."""
    try:
        return read_setting(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    top = Parser("python -m backend", description="DreamFlow: a prompt becomes a textured mesh.")
    top.add_argument("--version", action="version", version=f"DreamFlow {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    g = commands.add_parser(
        "generate",
        help="make a textured mesh from a prompt",
        description="Make a textured mesh from a prompt: mesh.glb, albedo.png and pictures in a folder of its own.",
        epilog=EXAMPLES,
        formatter_class=raw,
        allow_abbrev=False,
    )
    g.add_argument("prompt", metavar="PROMPT", help='what to make, as in "a red mug"')
    g.add_argument("--out", metavar="DIR", type=Path, help="the job's folder (default: out/PROMPT-SEED)")
    g.add_argument("--preset", choices=PRESETS, default="draft", help="how well, how long (default: draft)")
    a_prior = "mini, sd, exact, or a folder in diffusers' layout"
    g.add_argument("--prior", metavar="NAME_OR_FOLDER", default="mini", help=f"{a_prior} (default: mini)")
    its_own = "the one that belongs to the prior"
    g.add_argument("--refiner", metavar="NAME_OR_FOLDER", default="", help=f"{a_prior} (default: {its_own})")
    its_choice = "sd-phi for sd where it has been fetched, else shared"
    g.add_argument(
        "--phi", metavar="NAME_OR_FOLDER", default="",
        help=f"D_phi's own model, or shared: the prior's network, which takes less memory (default: {its_choice})",
    )  # fmt: skip
    g.add_argument(
        "--seed", metavar="N", type=whole_number, default=42, help=f"0 to {MAX_SEED} (default: 42)"
    )
    g.add_argument("--stages", metavar="LIST", default=",".join(STAGES), help="default: %(default)s")
    g.add_argument("--negative", metavar="TEXT", default="", help="what it should not look like")
    g.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: auto)")
    g.add_argument(
        "--threads", metavar="N", type=whole_number, default=0, help="of the CPU (default: automatic)"
    )
    g.add_argument(
        "--set",
        metavar="STAGE.SETTING=VALUE",
        type=setting,
        action="append",
        default=[],
        help="replace one of the preset's settings, as in nerf.levels=400 or delivery.max_faces=null (full detail)",
    )
    g.add_argument("--overwrite", action="store_true", help="replace an older job in the folder")
    g.add_argument("--json", action="store_true", help="one JSON event a line, and nothing else on stdout")
    add_refine(commands, whole_number, setting)
    cli_models.add_parser(commands)
    doctor.add_parser(commands)
    cli_jobs.add(commands)
    return top


def to_job(args: argparse.Namespace) -> Job:
    """The job that the arguments describe; raises InputError."""
    prompt = clean_prompt(args.prompt)
    folder = args.out or default_folder(prompt, args.seed, Path("out"))
    try:
        return Job(
            id=uuid.uuid4().hex[:12],
            kind="generate",
            prompt=prompt,
            folder=str(folder),
            negative=clean_text(args.negative),
            seed=args.seed,
            preset=args.preset,
            prior=args.prior,
            refiner=args.refiner,
            phi=args.phi,
            stages=tuple(name.strip() for name in args.stages.split(",")),
            device=args.device,
            threads=args.threads,
            overrides=dict(args.set),
        )
    except BadMessage as error:
        raise InputError(str(error), "See python -m backend generate --help.") from error
