"""`python -m backend export`: a finished job's mesh in the formats of other programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, TextIO

from dreamflow_blender.contract.files import is_link
from dreamflow_blender.contract.job import Job
from dreamflow_blender.contract.options import typed, whole_number
from dreamflow_blender.contract.wire import show_text

FORMATS = "glb,obj,ply,stl,3mf,usdz,usd,fbx-through-blender"
BAKED = ("game", "quads")  # profiles that make a mesh and maps of their own
UP = {
    "game": ("y", "GLB is always y up"),
    "quads": ("y", "GLB is always y up"),
    "print": ("z", "A print is z up"),
}
EXAMPLES = """\
examples:
  python -m backend export out/a-red-mug-42 --format obj,ply
  python -m backend export out/a-red-mug-42 --format glb --height 0.1 --origin base
  python -m backend export out/a-red-mug-42 --deliver game --faces 800 --texture-size 512
  python -m backend export out/a-red-mug-42 --deliver quads --faces 8000
  python -m backend export out/a-red-mug-42 --deliver print --height 0.08 --flat-base --out prints

STL and 3MF are for printers: in millimetres, without a texture; --deliver print also makes
sure that they are closed. USDZ and USD take usd-core, which is not installed by setup; FBX
is written by a Blender of yours.
"""


def add_parser(commands: Any) -> None:
    """Add the command to what `argparse` gave for the subcommands."""
    e = commands.add_parser(
        "export", help="write a finished job's mesh for other programs",
        description="Write a finished job's mesh for a game, as quads, for a printer, or in other programs' formats.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    e.add_argument("folder", metavar="FOLDER", type=Path, help="the job's folder")
    add_options(e)
    add_sizes(e)
    e.add_argument("--out", metavar="DIR", type=Path, help="where the files go (default: FOLDER/export)")
    e.add_argument("--json", action="store_true", help="one JSON object")


def add_options(command: argparse.ArgumentParser) -> None:
    """What is delivered, and where it stands."""
    command.add_argument(
        "--deliver", "--profile", dest="profile", choices=("detailed", *UP),
        help="detailed: the mesh as it is, in the formats of --format;"
        " game: GLBs of few triangles with normal and occlusion maps, LODs, and a collision hull;"
        " quads: an OBJ of quads with the same maps, and a GLB of it;"
        " print: a closed STL and 3MF in millimetres",
    )  # fmt: skip
    command.add_argument("--format", metavar="LIST", help=f"one or several of {FORMATS}")
    command.add_argument(
        "--blender", metavar="FILE", default="blender",
        help="the Blender that writes FBX (default: the one on PATH)",
    )  # fmt: skip
    command.add_argument("--flat-base", action="store_true", help="press the lowest part of a print flat")
    command.add_argument(
        "--height", metavar="METRES", type=float, help="from base to top (default: as it is)"
    )
    command.add_argument(
        "--origin", default="keep",
        help="keep (default), base: on the ground below its middle, centre: the middle of its bounds, or middle: the"
        " centre of mass of its surface",
    )  # fmt: skip
    command.add_argument("--up", default="", help="y or z (default: what the format's readers expect)")


def add_sizes(command: argparse.ArgumentParser) -> None:
    """Of what a profile makes; `generate` has them for its own mesh."""
    command.add_argument(
        "--faces", metavar="N", type=typed(whole_number),
        help="of a game's mesh (default: 1500), or quads (8000)",
    )  # fmt: skip
    command.add_argument(
        "--texture-size", metavar="PIXELS", type=typed(whole_number),
        help="of a game's maps (default: 1024), or those of quads (2048)",
    )  # fmt: skip


def is_wanted(args: argparse.Namespace) -> bool:
    """Whether anything is to be delivered beside the job's own files; raises InputError for words that need that."""
    from backend.errors import InputError

    if args.command != "generate" and args.profile not in BAKED and _sizes(args):
        raise InputError(
            "--faces and --texture-size are about a game's mesh, or quads.",
            "Add --deliver game, or --deliver quads.",
        )
    if args.profile or args.format:
        return True
    if args.flat_base or args.up or args.origin != "keep" or args.height is not None:
        raise InputError(
            "--height, --origin, --up and --flat-base are about what is delivered.",
            "Add --deliver or --format, as in --format glb.",
        )
    return False


def check(args: argparse.Namespace) -> None:
    """Everything that can be known before there is a mesh. Raises InputError."""
    from backend.errors import InputError
    from backend.game.game import Game
    from backend.game.quads import Quads, check_library
    from backend.results.export import check_formats

    if args.profile in UP:
        up, why = UP[args.profile]
        if args.format:
            raise InputError(
                f"--deliver {args.profile} has its own formats.", "Leave out --format, or --deliver."
            )
        if args.up not in ("", up):
            raise InputError(f"{why}.", "Leave out --up.")
    if args.profile != "print" and args.flat_base:
        raise InputError("--flat-base is about a print.", "Add --deliver print.")
    if args.profile in BAKED:
        {"game": Game, "quads": Quads}[args.profile](**_sizes(args))
    if args.profile == "quads":
        check_library()
    check_formats(_formats(args), _placing(args), args.blender)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """The exit code. Raises DreamFlowError."""
    from backend.errors import InputError

    if not is_wanted(args):
        raise InputError(
            "What is to be exported?", "Give --deliver game, quads or print, or --format, as in --format obj."
        )
    check(args)
    where = args.out or args.folder / "export"
    if args.out is None and is_link(where):  # in a job's folder that somebody sent
        raise InputError(f"{where} is a link to another place.", "Choose a folder of your own with --out.")
    return write(args, args.folder, where, out)


def write(args: argparse.Namespace, folder: Path, where: Path, out: TextIO) -> int:
    """Of the finished job in `folder`, what the arguments want. The exit code. Raises DreamFlowError."""
    from backend.jobs.folder import read_job
    from backend.results.export import export

    job, placing = read_job(folder), _placing(args)
    if args.profile in BAKED:
        return _baked(args, job, placing, where, out)
    if args.profile == "print":
        return _print(args, job, placing, where, out)
    done = export(job, _formats(args), placing, where, args.blender)
    if args.json:
        paths = [str(path) for path in done.paths]
        out.write(json.dumps({"files": paths, "size": done.size, "open_edges": done.open_edges}) + "\n")
        return 0
    out.writelines(f"{show_text(str(path))}\n" for path in done.paths)
    out.write("{:.3f} x {:.3f} x {:.3f} m".format(*done.size))
    closed = "closed" if not done.open_edges else f"{done.open_edges} open edges: a slicer has to mend it"
    out.write(f", {closed}\n")
    return 0


def _formats(args: argparse.Namespace) -> list[str]:
    named = [name.strip().lower() for name in (args.format or "").split(",") if name.strip()]
    return named or ["glb"]


def _placing(args: argparse.Namespace) -> Any:
    from backend.results.export import Placing

    return Placing(args.height, args.origin, args.up)


def _sizes(args: argparse.Namespace) -> dict[str, int]:
    given = {"faces": args.faces, "texture_size": args.texture_size}
    return {name: value for name, value in given.items() if value is not None}


def _baked(args: argparse.Namespace, job: Job, placing: Any, where: Path, out: TextIO) -> int:
    from backend.game.game import Game, export_game
    from backend.game.quads import Quads, export_quads

    if args.profile == "quads":
        made = export_quads(job, Quads(**_sizes(args)), placing, where)
        faces = f"Quads: {made.faces[0]:,}"
        faces += f", and {made.faces[1]:,} more cut in two by a seam" if made.faces[1] else ""
    else:
        made = export_game(job, Game(**_sizes(args)), placing, where)
        faces = f"Faces: {', '.join(f'{count:,}' for count in made.faces)}"
    if args.json:
        out.write(json.dumps({"files": [str(path) for path in made.paths], "faces": made.faces}) + "\n")
        return 0
    out.writelines(f"{show_text(str(path))}\n" for path in made.paths)
    out.write(f"{faces}\n")
    return 0


def _print(args: argparse.Namespace, job: Job, placing: Any, where: Path, out: TextIO) -> int:
    from backend.results.printing import Print, export_print

    made = export_print(job, Print(flat_base=args.flat_base), placing, where)
    if args.json:
        said = {"files": [str(path) for path in made.paths], "millimetres": made.size, "volume": made.volume}
        out.write(json.dumps(said) + "\n")
        return 0
    out.writelines(f"{show_text(str(path))}\n" for path in made.paths)
    out.write("{:.1f} x {:.1f} x {:.1f} mm".format(*made.size) + f", {made.volume:.1f} cm3, closed\n")
    return 0
