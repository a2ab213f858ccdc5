"""What the embedded prior can do, alone and in the pipeline; the true objects are known, so these are real errors.

    python -m benchmarks.mini [--parts prior,refiner,pipeline] [--prior FOLDER] [--grid grid.png] [--jobs 2]

prior: 200 samples, 50 pairs in four views, judged by the nearest true picture over the whole vocabulary.
refiner: SDEdit from t = 0.3 on blurred and on clean renders. pipeline: prompt to mesh, preset draft; how long a run
takes counts only where it has all cores (--jobs 1).
Ends with `mini: N of M met` and exits 1 where a figure misses.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from platformdirs import user_cache_path
from torch import Generator, Tensor

from backend.config import Preset
from backend.device import prepare_device
from backend.diffusion.prior import Prior
from backend.diffusion.view_words import VIEWS
from backend.jobs.priors import open_prior
from backend.jobs.record import resolve_job
from backend.objects.kinds import COLOURS
from backend.training.dataset import LEARNED, Album, Picture, draw, held_out, open_album
from backend.training.samples import blurred, plain_picture, sample, save_sheet, sdedit
from benchmarks import mini_pipeline
from benchmarks.judge import Truth, judge, true_pictures
from dreamflow_blender.contract.language.reading import Description
from dreamflow_blender.contract.protocol import Job

PAIRS, HELD_OUT = 50, 10  # of kind and colour, each in the four views
KIND, COLOUR, VIEW, HELD_OUT_LOSS = 0.90, 0.97, 0.90, 0.10
TRUE_PICTURES, TELLING = 20, 0.95  # a kind's views count where the judge tells so many of these right
EVALUATION_VIEWS, EVALUATION_SEED = 200, 1  # an album that training has not seen
REFINED, GAIN, KEPT = 32, 2.0, 30.0  # pictures, dB
MEAN_IOU, LEAST_IOU, COLOUR_ERROR, SECONDS, GIGABYTES = 0.80, 0.60, 0.06, 240.0, 2.0  # of the pipeline


@dataclass(frozen=True)
class Line:
    what: str
    figure: float
    wanted: float
    at_most: bool = False  # whether `wanted` is an upper bound

    @property
    def met(self) -> bool:
        return self.figure <= self.wanted if self.at_most else self.figure >= self.wanted

    def __str__(self) -> str:
        verdict = "met" if self.met else "missed"
        sign = "<=" if self.at_most else ">="
        return f"{self.what:52} {self.figure:8.3f}   wants {sign} {self.wanted:7.3f}   {verdict}"


def share(values: list[bool]) -> float:
    return sum(values) / max(1, len(values))


def pairs(count: int, held: bool, generator: Generator) -> list[tuple[str, str]]:
    """Kinds, each as often as the others, in random colours: pairs that training has seen, or those held out."""
    found: list[tuple[str, str]] = []
    left = {kind: [c for c in COLOURS if held_out(kind, c) == held] for kind in LEARNED}
    while len(found) < count and any(left.values()):
        for kind, colours in left.items():
            if colours:
                found.append((kind, colours.pop(int(torch.randint(len(colours), (1,), generator=generator)))))
    return found[:count]


def sample_all(prior: Prior, asked: list[tuple[str, str]], generator: Generator) -> Tensor:
    """[4 N,64,64,3]: every pair in all views."""
    scale = settings_of(prior).nerf.guidance_scale
    return torch.cat([sample(prior, f"a {c} {k}", list(VIEWS), scale, generator, 64) for k, c in asked])


def settings_of(prior: Prior) -> Preset:
    """Those that a run with it has, preset draft."""
    return resolve_job(Job("mini", "generate", "a ball", "unused"), prior, None).preset


def telling_kinds(albums: list[Album], truths: list[Truth]) -> set[str]:
    """Kinds whose views the judge tells apart on true pictures; a ball looks the same from everywhere."""
    generator = Generator().manual_seed(7)
    shown: list[Picture] = []
    for album in albums:
        own: list[Picture] = []
        while len(own) < TRUE_PICTURES:
            picture = draw([album], generator, coarse_share=1.0)
            if not picture.description.normal_map and not picture.description.parts:
                own.append(picture)
        shown += own
    images = torch.stack([picture.image.permute(1, 2, 0) for picture in shown])
    verdicts = judge(images, [picture.description for picture in shown], truths)
    right = [
        (album.kind, share([v.right_view for v in verdicts[i * TRUE_PICTURES : (i + 1) * TRUE_PICTURES]]))
        for i, album in enumerate(albums)
    ]
    return {kind for kind, figure in right if figure >= TELLING}


def test_prior(prior: Prior, cache: Path, grid: Path | None) -> list[Line]:
    """Point 1: samples against the nearest true picture."""
    truths = true_pictures([open_album(cache, k, EVALUATION_VIEWS, 64, EVALUATION_SEED) for k in LEARNED])
    telling = telling_kinds([open_album(cache, k, 60, 64, EVALUATION_SEED + 1) for k in LEARNED], truths)
    print(f"views are counted for: {', '.join(k for k in LEARNED if k in telling)}")
    generator = Generator().manual_seed(0)
    results, pictures = {}, []
    for name, count in (("trained", PAIRS - HELD_OUT), ("held out", HELD_OUT)):
        asked = pairs(count, name == "held out", generator)
        images = sample_all(prior, asked, generator)
        pictures.append(images)
        descriptions = [Description(kind, colour, view=view) for kind, colour in asked for view in VIEWS]
        verdicts = judge(images, descriptions, truths)
        results[name] = list(zip(descriptions, verdicts, strict=True))
    every = results["trained"] + results["held out"]
    print(f"{'kind':10} {'kind':>6} {'colour':>6} {'view':>6}")
    for kind in LEARNED:
        own = [v for d, v in every if d.kind == kind]
        row = [share([getattr(v, f"right_{what}") for v in own]) for what in ("kind", "colour", "view")]
        print(f"{kind:10} " + " ".join(f"{figure:6.2f}" for figure in row))
    if grid is not None:
        save_sheet(torch.cat(pictures), grid, 16)

    def right(what: str, which: str = "") -> float:
        rows = results[which] if which else every
        if what == "view":
            rows = [(d, v) for d, v in rows if d.kind in telling]
        return share([getattr(v, f"right_{what}") for _, v in rows])

    lines = [
        Line("kind right", right("kind"), KIND),
        Line("colour right", right("colour"), COLOUR),
        Line("view right", right("view"), VIEW),
    ]
    return lines + [
        Line(f"held-out pairs: {w} right", right(w, "held out"), right(w, "trained") - HELD_OUT_LOSS)
        for w in ("kind", "colour")
    ]


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """[N] dB of pictures [N,H,W,3]."""
    return -10 * (a - b).square().mean((1, 2, 3)).clamp(min=1e-9).log10()


def test_refiner(prior: Prior, cache: Path, count: int, grid: Path | None) -> list[Line]:
    """Point 3: blurred renders get nearer to the true one, clean ones stay themselves."""
    albums = [open_album(cache, k, EVALUATION_VIEWS, 128, EVALUATION_SEED) for k in LEARNED]
    generator = Generator().manual_seed(1)
    gains: list[float] = []
    kept: list[float] = []
    rows: list[Tensor] = []
    scale = settings_of(prior).refine.guidance_scale
    while len(gains) < count:
        clean, description = plain_picture(albums, generator)
        worse = blurred(clean)
        sharper, again = (sdedit(prior, image, description, scale, generator) for image in (worse, clean))
        gains.append(float(psnr(sharper, clean) - psnr(worse, clean)))
        kept.append(float(psnr(again, clean)))
        rows += [clean, worse, sharper, again]
    if grid is not None:
        save_sheet(torch.cat(rows), grid.with_stem(grid.stem + "-refiner"), 12)
    return [
        Line("refiner: mean gain on blurred renders, dB", sum(gains) / count, GAIN),
        Line("refiner: clean renders kept, mean dB", sum(kept) / count, KEPT),
    ]


def pipeline_lines(found: list[mini_pipeline.Result], jobs: int) -> list[Line]:
    """Point 2: what came back from 10 prompts with 2 seeds."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    faces = [r.face for r in found if r.face is not None]
    alone = (
        [Line("pipeline: longest run, s", max(r.seconds for r in found), SECONDS, True)] if jobs == 1 else []
    )
    return [
        Line("pipeline: mean iou", mean([r.iou for r in found]), MEAN_IOU),
        Line("pipeline: least iou", min(r.iou for r in found), LEAST_IOU),
        Line("pipeline: mean colour error", mean([r.colour_error for r in found]), COLOUR_ERROR, True),
        Line("pipeline: the right kind is nearest", share([r.nearest == r.kind for r in found]), 1.0),
        *([Line("pipeline: no second face", share(faces), 1.0)] if faces else []),
        *alone,
        Line("pipeline: most memory, GB", max(r.gigabytes for r in found), GIGABYTES, True),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="prior,refiner,pipeline")
    parser.add_argument("--prior", default="mini")
    parser.add_argument("--refiner", default="mini-refiner")
    parser.add_argument("--grid", type=Path, default=None, help="write the samples here as a picture")
    parser.add_argument("--only", default="", help="kinds of the pipeline part, separated by commas")
    parser.add_argument("--seeds", type=int, default=len(mini_pipeline.SEEDS))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, each with its share of cores")
    parser.add_argument("--out", type=Path, default=None, help="keep the pipeline's job folders here")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], help="as in `backend generate`"
    )
    args = parser.parse_args()
    prepare_device(torch.device("cpu"), torch.get_num_threads())
    cache = user_cache_path("dreamflow") / "mini"
    cache.mkdir(parents=True, exist_ok=True)
    parts = args.parts.split(",")
    lines: list[Line] = []
    if "prior" in parts:
        lines += test_prior(open_prior(args.prior, "cpu"), cache, args.grid)
    if "refiner" in parts:
        lines += test_refiner(open_prior(args.refiner, "cpu"), cache, REFINED, args.grid)
    if "pipeline" in parts:
        out = args.out or Path(tempfile.mkdtemp(prefix="mini-"))
        runs = mini_pipeline.results(
            args.prior, args.refiner, out, args.jobs, args.only, args.seeds, args.settings
        )
        lines += pipeline_lines(list(runs), args.jobs)
    for line in lines:
        print(line)
    met = sum(line.met for line in lines)
    print(f"mini: {met} of {len(lines)} met")
    return 0 if met == len(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
