"""The commands that compare and judge: their arguments. What they do is in backend/evidence/."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dreamflow_blender.contract.job import RECIPES
from dreamflow_blender.contract.options import finite_number, typed, whole_number
from dreamflow_blender.contract.settings import METHODS, NOISES, read_setting

EXAMPLES = """\
examples:
  python -m backend compare --prompts prompts.txt --out compared --space 2d --budget 100,200
  python -m backend compare --prompts prompts.txt --out compared --seeds 3
"""
JUDGED_EXAMPLES = """\
examples:
  python -m backend evaluate out/a-red-mug-42 --prompts prompts.txt --truth
"""


def add(commands: argparse._SubParsersAction[Any]) -> None:
    """Their arguments."""
    c = commands.add_parser(
        "compare",
        help="methods side by side on the same prior",
        description="APFO beside the methods that the paper names: a page, a CSV and a table. Goes on where it was"
        " stopped: what is done in DIR is not done again.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    for name, known, what in (
        ("methods", METHODS, "of stage 1 (default: all, where nothing else is asked for)"),
        (
            "recipe",
            RECIPES,
            "whole jobs, as others go from coarse to fine; the budget is shared by their stages",
        ),
        ("noise", NOISES, "of stages nerf and texture, the latter's noise"),
    ):
        c.add_argument(
            f"--{name}", metavar="NAME,...", type=_names, default=[], help=f"{', '.join(known)}: {what}"
        )
    c.add_argument("--ablations", action="store_true", help="APFO, and APFO with one thing changed at a time")
    c.add_argument(
        "--space",
        choices=("2d", "3d"),
        default="3d",
        help="pictures themselves, or stage 1 of jobs (default)",
    )
    c.add_argument(
        "--prior",
        metavar="NAME_OR_DIR",
        default="exact",
        help="as generate's: exact (default), exact-compass, mini, or a model's folder",
    )
    c.add_argument("--prompts", metavar="FILE", type=Path, required=True, help="one prompt a line")
    c.add_argument("--seeds", metavar="N", type=typed(_count), default=1, help="seeds 1 to N (default: 1)")
    c.add_argument(
        "--budget", metavar="UPDATES,...", type=typed(_counts),
        help="updates of a cell (default: 100,200,500 in 2d, 1500 in 3d)",
    )  # fmt: skip
    c.add_argument(
        "--particles",
        metavar="N",
        type=typed(_count),
        default=16,
        help="pictures of a cell in 2d (default: 16)",
    )
    c.add_argument(
        "--rate", metavar="R", type=typed(_rate), default=0.03,
        help="AdamW's, of a picture's values in 2d (default: 0.03, ProlificDreamer's)",
    )  # fmt: skip
    c.add_argument("--threads", metavar="N", type=typed(_count), default=1, help="CPU threads (default: 1)")
    c.add_argument(
        "--set", metavar="STAGE.SETTING=VALUE", type=typed(read_setting), action="append", default=[],
        help="of every job in 3d, as generate's",
    )  # fmt: skip
    c.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the cells go")
    e = commands.add_parser(
        "evaluate",
        help="judge finished jobs from outside",
        description="CLIP R-precision (section D.4 of the paper), what a network that knows ImageNet sees in a result,"
        " and how near a procedural object comes to the truth.",
        epilog=JUDGED_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    e.add_argument("jobs", metavar="JOB", nargs="+", type=Path, help="the folder of a finished job")
    e.add_argument(
        "--prompts", metavar="FILE", type=Path, required=True,
        help="one a line, or a JSON list: what a prompt is told from",
    )  # fmt: skip
    e.add_argument(
        "--clip", metavar="FOLDER_OR_ID", default="",
        help="a CLIP model in transformers' layout, such as openai/clip-vit-large-patch14",
    )  # fmt: skip
    e.add_argument(
        "--recognise", action="store_true",
        help="EfficientNet-Lite0 and ConSE, from the packages of requirements-judges.txt",
    )  # fmt: skip
    e.add_argument(
        "--truth", action="store_true",
        help="IoU, PSNR, colour error, chamfer distance, normals, nearest kind; prompts must name procedural objects",
    )  # fmt: skip
    e.add_argument(
        "--export", nargs=2, metavar=("gpteval3d", "FOLDER"), action=_Export,
        help="120 colour and normal renders of each job in that benchmark's layout",
    )  # fmt: skip


class _Export(argparse.Action):
    """The folder, of `gpteval3d FOLDER`."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        if values[0] != "gpteval3d":
            parser.error(f"argument --export: expected gpteval3d FOLDER, got {values[0]!r}")
        setattr(namespace, self.dest, Path(values[1]))


def _names(text: str) -> list[str]:
    return text.split(",")


def _count(text: str) -> int:
    number = whole_number(text)
    if not 1 <= number <= 100_000:
        raise ValueError(f"expected 1 to 100,000, got {number:,}")
    return number


def _rate(text: str) -> float:
    rate = finite_number(text)
    if not 0 < rate <= 10:
        raise ValueError(f"expected a rate above 0 and at most 10, got {text[:40]}")
    return rate


def _counts(text: str) -> list[int]:
    return [_count(part) for part in text.split(",")]
