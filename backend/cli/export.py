"""`python -m backend export`: a finished job's mesh in the formats of other programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, TextIO

from dreamflow_blender.contract.files import is_link
from dreamflow_blender.contract.options import typed, whole_number
from dreamflow_blender.contract.wire import show_text

FORMATS = "glb,obj,ply,stl,3mf,usdz,usd"
EXAMPLES = """\
examples:
  python -m backend export out/a-red-mug-42 --format obj,ply
  python -m backend export out/a-red-mug-42 --format glb --height 0.1 --origin base
  python -m backend export out/a-red-mug-42 --profile game --faces 800 --texture-size 512
  python -m backend export out/a-red-mug-42 --profile quads --faces 8000
  python -m backend export out/a-red-mug-42 --profile print --height 0.08 --flat-base --out prints

STL and 3MF are for printers: in millimetres, without a texture; --profile print also makes
sure that they are closed. USDZ and USD take usd-core, which is not installed by setup.
"""


def add_parser(commands: Any) -> None:
    """Add the command to what `argparse` gave for the subcommands."""
    e = commands.add_parser(
        "export", help="write a finished job's mesh for other programs",
        description="Write a finished job's mesh as OBJ, PLY, STL, 3MF, USDZ, USD, or as a GLB of another size.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    e.add_argument("folder", metavar="FOLDER", type=Path, help="the job's folder")
    what = e.add_mutually_exclusive_group(required=True)
    what.add_argument("--format", metavar="LIST", help=f"one or several of {FORMATS}")
    what.add_argument(
        "--profile", choices=("game", "quads", "print"),
        help="game: GLBs of few triangles with normal and occlusion maps, LODs, and a collision hull;"
        " quads: an OBJ of quads with the same maps, and a GLB of it;"
        " print: a closed STL and 3MF in millimetres",
    )  # fmt: skip
    e.add_argument(
        "--faces",
        metavar="N",
        type=typed(whole_number),
        help="of a game's mesh (default: 1500), or quads (8000)",
    )
    e.add_argument(
        "--texture-size", metavar="PIXELS", type=typed(whole_number),
        help="of a game's maps (default: 1024), or those of quads (2048)",
    )  # fmt: skip
    e.add_argument("--flat-base", action="store_true", help="press the lowest part of a print flat")
    e.add_argument("--height", metavar="METRES", type=float, help="from base to top (default: as it is)")
    e.add_argument(
        "--origin", default="keep",
        help="keep (default), base: on the ground below its middle, centre: the middle of its bounds, or middle: the"
        " centre of mass of its surface",
    )  # fmt: skip
    e.add_argument("--up", default="", help="y or z (default: what the format's readers expect)")
    e.add_argument("--out", metavar="DIR", type=Path, help="where the files go (default: FOLDER/export)")
    e.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """The exit code. Raises DreamFlowError."""
    from backend.errors import InputError
    from backend.jobs.folder import read_job
    from backend.results.export import Placing, export

    if args.profile not in ("game", "quads") and (args.faces is not None or args.texture_size is not None):
        raise InputError(
            "--faces and --texture-size are about a game's mesh, or quads.",
            "Add --profile game, or --profile quads.",
        )
    if args.profile != "print" and args.flat_base:
        raise InputError("--flat-base is about a print.", "Add --profile print.")
    formats = [name.strip().lower() for name in (args.format or "").split(",") if name.strip()]
    placing = Placing(args.height, args.origin, args.up)
    where = args.out or args.folder / "export"
    if args.out is None and is_link(where):  # in a job's folder that somebody sent
        raise InputError(f"{where} is a link to another place.", "Choose a folder of your own with --out.")
    if args.profile in ("game", "quads"):
        return _baked(args, placing, where, out)
    if args.profile == "print":
        return _print(args, placing, where, out)
    done = export(read_job(args.folder), formats, placing, where)
    if args.json:
        paths = [str(path) for path in done.paths]
        out.write(json.dumps({"files": paths, "size": done.size, "open_edges": done.open_edges}) + "\n")
        return 0
    out.writelines(f"{show_text(str(path))}\n" for path in done.paths)
    out.write("{:.3f} x {:.3f} x {:.3f} m".format(*done.size))
    closed = "closed" if not done.open_edges else f"{done.open_edges} open edges: a slicer has to mend it"
    out.write(f", {closed}\n")
    return 0


def _baked(args: argparse.Namespace, placing: Any, where: Path, out: TextIO) -> int:
    from backend.errors import InputError
    from backend.game.game import Game, export_game
    from backend.game.quads import Quads, export_quads
    from backend.jobs.folder import read_job

    if placing.up not in ("", "y"):
        raise InputError("GLB is always y up: the standard says so.", "Leave out --up.")
    given = {"faces": args.faces, "texture_size": args.texture_size}
    sizes = {name: value for name, value in given.items() if value is not None}
    job = read_job(args.folder)
    if args.profile == "quads":
        made = export_quads(job, Quads(**sizes), placing, where)
        faces = f"Quads: {made.faces[0]:,}"
        faces += f", and {made.faces[1]:,} more cut in two by a seam" if made.faces[1] else ""
    else:
        made = export_game(job, Game(**sizes), placing, where)
        faces = f"Faces: {', '.join(f'{count:,}' for count in made.faces)}"
    if args.json:
        out.write(json.dumps({"files": [str(path) for path in made.paths], "faces": made.faces}) + "\n")
        return 0
    out.writelines(f"{show_text(str(path))}\n" for path in made.paths)
    out.write(f"{faces}\n")
    return 0


def _print(args: argparse.Namespace, placing: Any, where: Path, out: TextIO) -> int:
    from backend.jobs.folder import read_job
    from backend.results.printing import Print, export_print

    made = export_print(read_job(args.folder), Print(flat_base=args.flat_base), placing, where)
    if args.json:
        said = {"files": [str(path) for path in made.paths], "millimetres": made.size, "volume": made.volume}
        out.write(json.dumps(said) + "\n")
        return 0
    out.writelines(f"{show_text(str(path))}\n" for path in made.paths)
    out.write("{:.1f} x {:.1f} x {:.1f} mm".format(*made.size) + f", {made.volume:.1f} cm3, closed\n")
    return 0
