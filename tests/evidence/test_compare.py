"""`compare` as it is typed: it finishes, goes on where it was stopped, and refuses another comparison's folder."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backend import __main__ as cli
from backend.evidence import cells, compare, flat, page
from backend.evidence.cells import Cell, Terms, job_of, read_result
from backend.evidence.commands import rows_of
from backend.evidence.rows import ABLATIONS, ROWS
from backend.jobs.record import resolve_job
from backend.objects import exact_prior
from backend.objects.exact_prior import ExactPrior
from dreamflow_blender.contract.settings import METHODS
from tests.tools.oracle import Oracle

FIGURES = {"distance", "coverage", "seconds"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 prompts, 1 seed, 2 methods of a few updates."""
    folder = tmp_path_factory.mktemp("compared") / "öut"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat, "SIZE", 8)
        patch.setattr(exact_prior, "TRACED", 16)
        patch.setattr(exact_prior.ExactPrior.__init__, "__defaults__", ("cpu", 12))
        cells.prior_of.cache_clear()
        assert cli.main(typed(folder)) == 0
        cells.prior_of.cache_clear()
    return folder


def typed(out: Path, *more: str) -> list[str]:
    prompts = out.parent / "prompts.txt"
    prompts.write_text("# two\na ball\n\na red ball\n", encoding="utf-8")
    return [
        "compare", "--space", "2d", "--methods", "apfo,sds", "--prompts", str(prompts), "--budget", "5",
        "--particles", "2", "--out", str(out), *more,
    ]  # fmt: skip


def test_every_cell_leaves_figures_curves_and_a_picture(done: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((done / "cells.csv").read_text(encoding="utf-8"))))
    assert {(r["prompt"], r["method"], r["updates"]) for r in rows} == {
        (prompt, method, "5") for prompt in ("a ball", "a red ball") for method in ("apfo", "sds")
    }  # fmt: skip
    found = read_result(Cell("a ball", 1, "sds", 5), done)
    assert found is not None and set(found.figures) == FIGURES and not found.failed
    assert {name: len(values) for name, values in found.curves.items()} == {
        "loss": 5,
        "gap": 5,
        "gradient": 5,
    }
    html = (done / "index.html").read_text(encoding="utf-8")
    assert "<b>sds</b>: <code>nerf nerf.method=sds</code>" in html
    assert html.count("<img") == len(rows) + 1 and "http" not in html  # the curves
    assert html.count("data:image/png;base64,iVBOR") == html.count("<img")


def test_what_is_done_is_not_done_again(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = done / "a-red-ball-1-sds-5.json"
    kept, told = one.read_text(encoding="utf-8"), list[Cell]()
    one.unlink()

    def stopped(cell: Cell, *_: object) -> None:
        told.append(cell)
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "carry_out", stopped)
    assert cli.main(typed(done)) == 130
    assert told == [Cell("a red ball", 1, "sds", 5)]
    said = capsys.readouterr().out
    assert "4 cells, 1 to do" in said and "goes on from here" in said
    one.write_text(kept, encoding="utf-8")


def test_the_short_version_has_every_method_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 prompts, 1 seed, 60 levels, all methods: what they come to is known; a broken one is elsewhere."""
    monkeypatch.setattr(flat, "SIZE", 8)
    monkeypatch.setattr(exact_prior, "TRACED", 16)
    monkeypatch.setattr(exact_prior.ExactPrior.__init__, "__defaults__", ("cpu", 12))
    cells.prior_of.cache_clear()
    (tmp_path / "prompts.txt").write_text("a duck\na red mug\n", encoding="utf-8")
    assert cli.main(
        ["compare", "--space", "2d", "--prompts", str(tmp_path / "prompts.txt"), "--budget", "60", "--rate", "0.1",
         "--particles", "4", "--out", str(tmp_path / "short")]
    ) == 0  # fmt: skip
    cells.prior_of.cache_clear()
    table = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("60 ")]
    assert [row[1:4] for row in table] == [[method, "2", "0"] for method in METHODS]
    distance = {row[1]: float(row[4]) for row in table}
    expected = {
        "apfo": 0.026, "sdedit": 0.025, "sds": 0.096, "vsd": 0.115, "vsd-linear": 0.057, "dreamtime": 0.072,
    }  # fmt: skip
    assert distance == pytest.approx(expected, rel=0.15)
    learnt = {row[1]: float(row[5]) for row in table}  # the coverage: a D_phi drives pictures apart
    assert learnt["apfo"] > learnt["sdedit"] and learnt["vsd"] > learnt["sds"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--particles", "3"], "other terms"),
        (["--methods", "apfo,ism"], "no method 'ism'"),
        (["--recipe", "magic3d"], "magic3d is about stages"),
        (["--noise", "surface"], "noise-surface is about stages"),
        (["--rate", "0.1"], "other terms"),
        (["--rate", "nan"], "expected a number, got 'nan'"),
        (["--budget", "0"], "expected 1 to 100,000, got 0"),
        (["--prompts", "{empty}"], "holds no prompts"),
    ],
)
def test_mistakes_are_met_before_anything_runs(
    done: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = done.parent / "empty.txt"
    empty.write_text("# nothing\n", encoding="utf-8")
    before = sorted(p.name for p in done.iterdir())
    assert cli.main(typed(done, *(part.format(empty=empty) for part in more))) == 2
    assert says in capsys.readouterr().err
    assert sorted(p.name for p in done.iterdir()) == before


def test_a_cell_in_3d_is_an_ordinary_job(tmp_path: Path) -> None:
    terms = Terms("3d", "mini", {"nerf.phi": "lora", "nerf.views": 2}, 1, 0.03, 1)
    job = job_of(Cell("a red mug", 4, "vsd", 30), terms, tmp_path)
    assert (job.seed, job.prior, job.stages) == (4, "mini", ("nerf",))
    assert job.overrides == {"nerf.phi": "lora", "nerf.views": 2, "nerf.method": "vsd", "nerf.levels": 15}
    assert "nerf.phi" not in job_of(Cell("a red mug", 4, "sds", 30), terms, tmp_path).overrides
    with pytest.raises(cells.InputError, match="31 updates is no whole number of levels of 2"):
        job_of(Cell("a red mug", 4, "sds", 31), terms, tmp_path)


def test_a_budget_is_the_same_with_a_prior_that_states_its_own_views(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four views a level and not the preset's five; a job's own win."""
    prior = Oracle()
    prior.spec = replace(prior.spec, settings={"nerf.views": 4, "geometry.views": 3, "geometry.levels": 40})
    monkeypatch.setattr(cells, "prior_of", lambda name: prior)
    terms = Terms("3d", "a/folder", {}, 1, 0.03, 1)

    def levels(row: str, budget: int) -> dict[str, object]:
        found = job_of(Cell("a red mug", 1, row, budget), terms, tmp_path).overrides
        return {name: value for name, value in found.items() if name.endswith(".levels")}

    assert levels("apfo", 500) == {"nerf.levels": 125}
    assert levels("apfo-views-10", 500) == {"nerf.levels": 50}
    # 300 levels of 4 updates beside 40 of 3: ten elevenths and one
    assert levels("magic3d", 660) == {"nerf.levels": 150, "geometry.levels": 20}
    with pytest.raises(cells.InputError, match="502 updates is no whole number of levels of 4"):
        levels("apfo", 502)


def test_medians_and_failures_are_counted_by_method() -> None:
    results = [
        cells.Result(
            Cell("a ball", seed, "apfo", 9), {"iou": iou}, "IoU under 0.7" if iou < 0.7 else "", {}, b""
        )
        for seed, iou in ((1, 0.5), (2, 0.75), (3, 0.875))
    ]
    results.append(cells.Result(Cell("a ball", 1, "sds", 9), {}, "no object", {"loss": torch.ones(3)}, b""))
    assert compare.table(results) == [
        ["updates", "method", "cells", "failed", "iou"],
        ["9", "apfo", "3", "1", "0.750"],
        ["9", "sds", "1", "1", "-"],
    ]
    assert json.dumps(compare.as_text([["a", "bb"], ["ccc", "d"]])) == json.dumps("a    bb\nccc  d\n")


def test_a_methods_cells_are_held_against_all_true_pictures_together(tmp_path: Path) -> None:
    """Each cell has one side of what is true, so that both together are nearer than either alone."""
    results = []
    for seed, side in ((1, -1.0), (2, 1.0)):
        own = torch.tensor([[side, 0.0], [side + 0.1, 0.0]], dtype=torch.float64)
        features = {
            "own": own,
            "true": torch.zeros(2).double(),
            "true covariance": torch.eye(2).double(),
        }
        cell = Cell("a ball", seed, "apfo", 9)
        alone = flat.frechet_of_all([features])
        made = cells.Result(cell, {"frechet": alone}, "", {"loss": torch.ones(3)}, b"a picture", features)
        cells._write(made, tmp_path)
        again = read_result(cell, tmp_path)
        assert (
            again is not None and again.curves.keys() == {"loss"} and again.features.keys() == features.keys()
        )
        results.append(again)
    (heading, row) = compare.table(results)
    figures = dict(zip(heading, row, strict=True))
    # along x of variances 4.01 / 3, and 0.005 alone, beside 1; along y 0 beside 1
    assert float(figures["frechet of all"]) == pytest.approx(0.05**2 + (1.1562 - 1) ** 2 + 1, abs=2e-3)
    assert float(figures["frechet"]) == pytest.approx(1 + 0.05**2 + (0.0707 - 1) ** 2 + 1, abs=2e-3)
    older = replace(results[0], features={})  # of a folder that was begun before cells kept them
    other = replace(results[0], cell=Cell("a ball", 1, "sds", 9), features={})
    assert [row[-1] for row in compare.table([*results, older, other])] == ["frechet of all", "-", "-"]


def test_figures_over_budgets_are_medians_and_the_page_draws_them(tmp_path: Path) -> None:
    curves = dict.fromkeys(("loss", "gap", "gradient"), torch.ones(3))
    results = [
        cells.Result(Cell("a ball", seed, "apfo", budget), {"iou": iou, "seconds": 1.0}, "", curves, b"")
        for seed, budget, iou in ((1, 200, 0.9), (1, 100, 0.5), (2, 100, 0.75), (3, 100, 0.875))
    ]
    results.append(cells.Result(Cell("a ball", 1, "sds", 100), {}, "no object", curves, b""))
    assert page.medians(results, "iou") == {"apfo": {100: 0.75, 200: 0.9}}
    assert list(page.medians(results, "iou")["apfo"]) == [100, 200]
    terms = Terms("3d", "exact", {}, 1, 0.03, 1)
    failed = [replace(r, figures={}) for r in results]
    for shown, drawn in ((results, 1), (results[1:], 0), (failed, 0)):
        page.write_page(tmp_path / "page.html", terms, compare.table(shown), shown)
        assert (tmp_path / "page.html").read_text(encoding="utf-8").count("figures over updates") == drawn


def test_a_recipe_is_a_job_of_its_stages_which_share_the_budget(tmp_path: Path) -> None:
    terms = Terms("3d", "exact", {}, 1, 0.03, 1)
    job = job_of(Cell("a red mug", 1, "magic3d", 600), terms, tmp_path)
    assert (job.recipe, job.stages) == ("magic3d", ("nerf", "geometry"))
    assert job.overrides == {
        "nerf.levels": 100,
        "geometry.levels": 20,
    }  # 1,500 to 300 updates, five views each
    surface = job_of(Cell("a red mug", 1, "noise-surface", 170), terms, tmp_path)
    assert (surface.recipe, surface.stages) == ("dreamflow", ("nerf", "texture"))
    assert surface.overrides == {"texture.noise": "surface", "nerf.levels": 30, "texture.levels": 4}


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_job_that_its_settings_change(name: str, tmp_path: Path) -> None:
    job = job_of(Cell("a red mug", 1, name, 1500), Terms("3d", "exact", {}, 1, 0.03, 1), tmp_path)
    settings = resolve_job(job, ExactPrior(views=1), {})
    assert settings.set_by.items() >= dict.fromkeys(ROWS[name].settings, "job").items()
    updates = [getattr(settings.preset, stage).iterations for stage in job.stages]
    assert 1450 < sum(updates) <= 1500


def test_what_is_asked_for_by_name() -> None:
    def rows(*typed: str) -> list[str]:
        return rows_of(cli.parser().parse_args(["compare", "--prompts", "p", "--out", "o", *typed]))

    assert rows("--prior", "a/folder") == rows() == list(METHODS)
    assert rows("--recipe", "dreamflow,magic3d", "--noise", "carried") == [
        "dreamflow",
        "magic3d",
        "noise-carried",
    ]
    assert rows("--methods", "sds", "--ablations")[:3] == ["sds", "apfo", "apfo-phi"]
    assert set(rows("--ablations")) == {"apfo", *(f"apfo-{name}" for name in ABLATIONS)}


def test_ablations_of_pictures_change_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each knob that pictures have changes what they come to; the page names every row with its settings."""
    monkeypatch.setattr(flat, "SIZE", 8)
    monkeypatch.setattr(exact_prior, "TRACED", 16)
    prior = ExactPrior(views=12)

    def x(name: str) -> torch.Tensor:
        return flat.run_flat(prior, "a ball", cells.flat_settings(name), 10, 3, 1, 0.03).x

    plain = x("apfo")
    assert torch.equal(plain, x("apfo-phi")) and torch.equal(plain, x("apfo-views-1"))
    for name in ("no-phi", "views-5", "constant", "guidance-7.5", "rescale"):
        assert not torch.equal(plain, x(f"apfo-{name}")), name


def test_a_row_says_its_stages_and_all_of_its_settings() -> None:
    assert str(ROWS["apfo-views-1"]) == "nerf nerf.views=1"
    assert str(ROWS["magic3d"]).split() == [
        "nerf,geometry", "nerf.method=sds", "geometry.method=sds", "geometry.shows=colours",
    ]  # fmt: skip
