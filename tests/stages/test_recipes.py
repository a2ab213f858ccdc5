"""A recipe is another method's stages and losses: each runs on the exact prior, and does what its paper says."""

from __future__ import annotations

import pytest
import torch

from backend import __main__ as cli
from backend.config import RECIPES
from backend.errors import InputError
from backend.jobs.record import resolve_job
from backend.objects import exact_prior
from backend.objects.exact_prior import ExactPrior
from backend.scene.mesh import is_closed
from backend.scene.scene import surface
from backend.stages.chain import run_stages
from backend.stages.happenings import StageBegan, StageEnded
from backend.stages.setup import set_up
from dreamflow_blender.contract import job as contract
from dreamflow_blender.contract.protocol import Job
from tests.tools.command import OVERRIDES
from tests.tools.here import here

TINY = OVERRIDES | {"nerf.levels": 20}


def job_of(*typed: str, **overrides: object) -> Job:
    settings = [
        part for name, value in overrides.items() for part in ("--set", f"{name.replace('__', '.')}={value}")
    ]
    return cli.to_job(
        cli.parser().parse_args(["generate", "a red ball", "--prior", "exact", *typed, *settings])
    )


@pytest.mark.parametrize("recipe", contract.RECIPES)
def test_each_runs_its_stages_on_the_exact_prior(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_prior, "TRACED", 32)
    job = job_of("--recipe", recipe, **{name.replace(".", "__"): value for name, value in TINY.items()})
    prior = ExactPrior(views=8)
    preset = resolve_job(job, prior, {}).preset
    began, tables = list[str](), dict[str, torch.Tensor]()
    for happening in run_stages(set_up(job, preset, prior, {}, here())):
        if isinstance(happening, StageBegan):
            name, scene = happening.at.stage.name, happening.at.scene
            began.append(name)
            tables[name] = scene.field.table.detach().clone()
            if name == "geometry" and recipe == "fantasia3d":  # a ball, of nothing that was learnt
                ball = surface(scene)
                radius = ball.v_pos.detach().norm(dim=1)
                assert is_closed(ball) and float(radius.std() / radius.mean()) < 0.05
                assert 0.25 < float(radius.mean()) < 0.6
                before = ball.v_pos.detach()
        if isinstance(happening, StageEnded) and happening.at.stage.name == "geometry":
            mesh, rates = (
                happening.at.scene.mesh,
                [g["rate"] for g in happening.at.stage.optimizer.param_groups],
            )
            assert mesh is not None and is_closed(mesh)
            assert len(rates) == (4 if recipe == "magic3d" else 2)  # with the field's colours
            if recipe == "fantasia3d":
                assert mesh.v_pos.shape != before.shape or not torch.equal(mesh.v_pos, before)
            learnt = not torch.equal(happening.at.scene.field.table, tables["geometry"])
            assert learnt or recipe != "magic3d"
    assert tuple(began) == contract.RECIPES[recipe] == job.stages


def test_a_recipe_stands_under_what_the_prior_states_and_what_is_set() -> None:
    assert set(RECIPES) == set(contract.RECIPES)
    prior = ExactPrior(views=1)
    prior.spec.settings["nerf.method"] = "dreamtime"
    resolved = resolve_job(job_of("--recipe", "magic3d", geometry__method="vsd"), prior, {})
    preset, set_by = resolved.preset, resolved.set_by
    assert (preset.nerf.method, set_by["nerf.method"]) == ("dreamtime", "prior")
    assert (preset.geometry.method, set_by["geometry.method"]) == ("vsd", "job")
    assert (preset.geometry.shows, set_by["geometry.shows"]) == ("colours", "recipe")
    assert resolve_job(job_of(), ExactPrior(views=1), {}).set_by.keys() == {
        f"{stage}.guidance_scale" for stage in contract.STAGES
    }


def test_stages_that_are_asked_for_are_those_that_run() -> None:
    assert job_of("--recipe", "fantasia3d").stages == ("geometry", "texture")
    assert job_of("--recipe", "fantasia3d", "--stages", "geometry").stages == ("geometry",)
    assert job_of("--stages", "nerf,texture").recipe == "dreamflow"
    with pytest.raises(InputError, match="chosen in stage nerf"):
        job_of("--recipe", "fantasia3d", "--candidates", "2")
    with pytest.raises(InputError, match="--recipe"):
        job_of("--recipe", "dreamfusion")
