"""What the embedded prior can do, alone and in the pipeline; the true objects are known, so these are real errors.

    python -m benchmarks.mini [--parts prior,refiner,pipeline] [--prior FOLDER] [--grid grid.png] [--jobs 2]

prior: rings of two pairs a kind and of ten held-out ones, judged by the nearest true picture over the whole vocabulary,
and of each kind that turns 24 azimuths, judged by the true pictures there.
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
from backend.jobs.priors import open_prior
from backend.jobs.record import resolve_job
from backend.objects.kinds import COLOURS
from backend.objects.shapes import KINDS, build
from backend.objects.sphere_trace import Views, render
from backend.training.dataset import LEARNED, held_out, open_album
from backend.training.rings.rings import FRAMES
from backend.training.samples import blurred, plain_picture, sample, save_sheet, sdedit
from benchmarks import mini_pipeline
from benchmarks.judge import judge, true_pictures
from benchmarks.rings_judge import azimuth_match, judged_cameras
from dreamflow_blender.contract.language.reading import Description
from dreamflow_blender.contract.language.vocabulary import THINGS
from dreamflow_blender.contract.protocol import Job

JUDGED = [kind for kind in LEARNED if kind in KINDS]  # whose true pictures are known
HELD_OUT = 10  # pairs of kind and colour, each a ring
KIND, COLOUR, AZIMUTH, HELD_OUT_LOSS = 0.95, 0.97, 0.90, 0.10
GREY = 0.5
FAR, APART = 45.0, 7e-4  # a kind turns where views more than FAR degrees apart differ by so much
EVALUATION_VIEWS, EVALUATION_SEED = 200, 1  # an album that training has not seen
REFINED, GAIN, KEPT = 32, 2.0, 30.0  # pictures, dB
MEAN_IOU, LEAST_IOU, COLOUR_ERROR, SECONDS, GIGABYTES = 0.92, 0.80, 0.04, 180.0, 2.0  # of the pipeline
BEST, BEST_IOU, DEPTH = ("mug", "teapot", "duck"), 0.94, 0.6  # of a mug's cavity


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
    left = {kind: [c for c in COLOURS if held_out(kind, c) == held] for kind in JUDGED}
    while len(found) < count and any(left.values()):
        for kind, colours in left.items():
            if colours:
                found.append((kind, colours.pop(int(torch.randint(len(colours), (1,), generator=generator)))))
    return found[:count]


def settings_of(prior: Prior) -> Preset:
    """Those that a run with it has, preset draft."""
    return resolve_job(Job("mini", "generate", "a ball", "unused"), prior, {}).preset


def turns(truth: Views) -> bool:
    """Whether a kind's pictures at the judged cameras say which is which: a ball looks the same from everywhere."""
    image = truth.over((GREY, GREY, GREY)).flatten(1)
    apart = torch.cdist(image, image).square() / image.shape[1]
    azimuth = judged_cameras().azimuth
    off = ((azimuth[:, None] - azimuth + 180) % 360 - 180).abs()
    return float(apart[off > FAR].min()) >= APART


def test_prior(prior: Prior, cache: Path, grid: Path | None) -> list[Line]:
    """Point 1: samples against the nearest true picture, and against the true picture at each azimuth."""
    truths = true_pictures([open_album(cache, k, EVALUATION_VIEWS, 64, EVALUATION_SEED) for k in JUDGED])
    generator, scale = Generator().manual_seed(0), settings_of(prior).nerf.guidance_scale
    camera = judged_cameras()
    results, pictures, ranks = {}, [], {}
    for name, count in (("trained", 2 * len(JUDGED)), ("held out", HELD_OUT)):
        asked = pairs(count, name == "held out", generator)
        images = [sample(prior, f"a {c} {k}", camera[:FRAMES], scale, generator) for k, c in asked]
        pictures += images
        descriptions = [Description(kind, colour) for kind, colour in asked for _ in range(FRAMES)]
        verdicts = judge(torch.cat(images), descriptions, truths)
        results[name] = list(zip(descriptions, verdicts, strict=True))
    every = results["trained"] + results["held out"]
    print(f"{'kind':10} {'kind':>6} {'colour':>6} {'rank 3':>6}")
    for kind in JUDGED:
        own = [v for d, v in every if d.kind == kind]
        row = [share([getattr(v, f"right_{what}") for v in own]) for what in ("kind", "colour")]
        colour = THINGS[kind].natural
        true = render(build(Description(kind, colour)), camera)
        if turns(true):
            images = sample(prior, f"a {colour} {kind}", camera, scale, generator)
            ranks[kind] = azimuth_match(images, true)["rank <= 3"]
            row.append(ranks[kind])
        print(f"{kind:10} " + " ".join(f"{figure:6.2f}" for figure in row), flush=True)
    if grid is not None:
        save_sheet(torch.cat(pictures), grid, 16)

    def right(what: str, which: str = "") -> float:
        return share([getattr(v, f"right_{what}") for _, v in (results[which] if which else every)])

    return [
        Line("kind right", right("kind"), KIND),
        Line("colour right", right("colour"), COLOUR),
        Line("true azimuth among the best 3 of 24, least kind", min(ranks.values()), AZIMUTH),
    ] + [
        Line(f"held-out pairs: {w} right", right(w, "held out"), right(w, "trained") - HELD_OUT_LOSS)
        for w in ("kind", "colour")
    ]


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """[N] dB of pictures [N,H,W,3]."""
    return -10 * (a - b).square().mean((1, 2, 3)).clamp(min=1e-9).log10()


def test_refiner(prior: Prior, cache: Path, count: int, grid: Path | None) -> list[Line]:
    """Point 3: blurred renders get nearer to the true one, clean ones stay themselves."""
    albums = [open_album(cache, k, EVALUATION_VIEWS, 128, EVALUATION_SEED) for k in JUDGED]
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
    """Point 2: what came back."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    faces = [r.face for r in found if r.face is not None]
    best = [r.iou for r in found if r.kind in BEST]
    depths = [r.depth for r in found if r.kind == "mug"]
    alone = (
        [Line("pipeline: longest run, s", max(r.seconds for r in found), SECONDS, True)] if jobs == 1 else []
    )
    return [
        Line("pipeline: mean iou", mean([r.iou for r in found]), MEAN_IOU),
        Line("pipeline: least iou", min(r.iou for r in found), LEAST_IOU),
        *([Line(f"pipeline: least iou of {', '.join(BEST)}", min(best), BEST_IOU)] if best else []),
        *([Line("pipeline: least depth of a mug", min(depths), DEPTH)] if depths else []),
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
