"""`python -m backend refine MESH PROMPT`: its arguments, and the job that they describe."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.errors import InputError
from backend.job import clean_prompt, default_folder
from dreamflow_blender.contract.protocol import (
    DEVICES,
    MAX_SEED,
    MAX_STRENGTH,
    MIN_STRENGTH,
    PRESETS,
    BadMessage,
    Job,
    clean_text,
)

EXAMPLES = """\
examples:
  python -m backend refine mug.glb "a red mug"
  python -m backend refine robot.glb "a rusty robot" --strength 0.45 --material Body --texture-size 2048
  python -m backend refine scan.obj "an old oak tree" --new-uvs --prior sd --refiner sdxl-refiner --device cuda

The object is not moved and its mesh not changed: the job's folder gets albedo.png (more where it has several
images), mesh.glb and mesh.npz. Of a GLB all that is not its base colour comes back as it was.
"""


def add(
    commands: argparse._SubParsersAction, whole_number: Callable[[str], int], setting: Callable[[str], Any]
) -> None:
    """Its arguments."""
    r = commands.add_parser(
        "refine",
        help="give an object of your own a better texture",
        description="Refine the texture of an object of your own, in its own UVs where they are usable.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    r.add_argument("mesh", metavar="MESH", type=Path, help="a .glb, .obj, .ply, or Blender's object.npz")
    r.add_argument("prompt", metavar="PROMPT", help="what it is, as in \"a red mug\"")
    r.add_argument("--out", metavar="DIR", type=Path, help="the job's folder (default: out/PROMPT-SEED)")
    r.add_argument(
        "--strength", type=float, default=0.3,
        help=f"{MIN_STRENGTH} (cleans up) over 0.3 (adds detail) to {MAX_STRENGTH} (paints anew); default: 0.3",
    )  # fmt: skip
    r.add_argument("--texture", action="store_true", help="make the texture anew first, whatever colours there are")
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
    r.add_argument("--seed", metavar="N", type=whole_number, default=42, help=f"0 to {MAX_SEED} (default: 42)")
    r.add_argument("--negative", metavar="TEXT", default="", help="what it should not look like")
    r.add_argument("--device", choices=DEVICES, default="auto", help="where to compute (default: auto)")
    r.add_argument("--threads", metavar="N", type=whole_number, default=0, help="of the CPU (default: automatic)")
    r.add_argument(
        "--set", metavar="STAGE.SETTING=VALUE", type=setting, action="append", default=[],
        help="replace one of the preset's settings, as in refine.levels=40",
    )  # fmt: skip
    r.add_argument("--overwrite", action="store_true", help="replace an older job in the folder")
    r.add_argument("--json", action="store_true", help="one JSON event a line, and nothing else on stdout")


def to_job(args: argparse.Namespace) -> Job:
    """The job that the arguments describe; raises InputError."""
    prompt = clean_prompt(args.prompt)
    if not args.mesh.is_file():
        raise InputError(f"There is no file {args.mesh}.", "Give the path of a .glb, .obj, .ply or .npz file.")
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
