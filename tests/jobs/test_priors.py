"""Which networks a job's words lead to: D_phi's own or shared, another model's texture, and the prior's refiner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from backend.cli.arguments import parser, to_job
from backend.diffusion.view_words import COMPASS, VIEWS
from backend.errors import InputError, ModelError
from backend.jobs import priors, refine
from backend.jobs.priors import default_refiner, default_texturer, open_others, open_prior
from backend.jobs.record import resolve_job
from backend.models.model_folder import open_folder
from backend.objects import grammar
from backend.objects.exact_prior import ExactPrior
from backend.weights import sources
from dreamflow_blender.contract.job import Job
from tests.tools.made_meshes import painted_ball


def test_phi_is_shared_or_a_model_of_its_own(base_folder: Path, v_folder: Path) -> None:
    assert open_prior(base_folder, "cpu").describe()["phi"] == "shared"
    assert open_prior(base_folder, "cpu", "shared").describe()["phi"] == "shared"
    own = open_prior(base_folder, "cpu", v_folder).describe()["phi"]
    assert own["folder"] == str(v_folder) and own["prediction"] == "v_prediction"


def test_stable_diffusion_takes_its_own_phi_unless_it_is_told_to_share(
    base_folder: Path, v_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"sd": base_folder, "sd-phi": v_folder}
    monkeypatch.setattr(sources, "find", lambda model: here.get(model.name))
    assert open_prior("sd", "cpu").describe()["phi"]["folder"] == str(v_folder)
    assert open_prior("sd", "cpu", "shared").describe()["phi"] == "shared"


def test_the_refiner_of_stable_diffusion_is_sdxls_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find", lambda model: Path("somewhere"))
    xl = "sdxl-refiner"  # as an SDXL folder states
    assert default_refiner("sd") == default_refiner("mvdream") == "sdxl-refiner"
    assert default_refiner("/a/folder", xl) == "sdxl-refiner" and default_refiner("/a/folder") == ""
    monkeypatch.setattr(sources, "find", lambda model: None)
    assert default_refiner("sd") == default_refiner("exact") == default_refiner("/a", xl) == ""


def test_stable_diffusion_textures_what_mvdream_has_made(
    base_folder: Path, v_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {"sd": base_folder, "sd-phi": v_folder}
    monkeypatch.setattr(sources, "find", lambda model: here.get(model.name))
    assert (default_texturer("mvdream"), default_texturer("sd"), default_texturer("mini")) == ("sd", "", "")
    prior = open_prior(base_folder, "cpu")  # stands in for MVDream

    def others(**changes: Any) -> dict[str, tuple[str, Any]]:
        job = Job("1", "generate", "a red mug", "out", prior="mvdream", **changes)
        found = {
            stage: other.describe() for stage, other in open_others(job, prior, torch.device("cpu")).items()
        }
        return {stage: (Path(said["prior"]["folder"]).name, said["phi"]) for stage, said in found.items()}

    told = others()
    assert {stage: said[0] for stage, said in told.items()} == {"texture": "sd21-base", "refine": "sd21-base"}
    assert told["texture"][1]["folder"] == str(v_folder)
    assert others(phi="shared")["texture"] == ("sd21-base", "shared")
    assert set(others(refiner="mvdream")) == {"texture"}  # which does its own last stage
    assert others(lora=("a.safetensors",)) == {}  # an addition of MVDream's own network, so that it textures
    assert others(texturer=str(v_folder), lora=("a.safetensors",))["texture"][0] == "sd21"
    with pytest.raises(InputError, match="takes its place"):
        others(texturer="sd", control=("depth",))
    here.clear()
    assert others() == {}


def test_the_command_line_takes_phi() -> None:
    told = to_job(parser().parse_args(["generate", "a red mug", "--prior", "sd", "--phi", "shared"]))
    assert told.phi == "shared"
    assert to_job(parser().parse_args(["generate", "a red mug"])).phi == ""


def test_no_phi_is_a_setting_of_every_stage_that_has_one(base_folder: Path) -> None:
    job = Job("1", "generate", "a red mug", "out", phi="none", overrides={"refine.phi": "lora"})
    resolved = resolve_job(job, open_prior(base_folder, "cpu", job.phi), {}).preset
    assert [stage.phi for stage in (resolved.nerf, resolved.texture, resolved.refine)] == [
        "none",
        "none",
        "lora",
    ]


def test_networks_are_loaded_late_and_let_go_of(base_folder: Path) -> None:
    prior = open_prior(base_folder, "cpu")
    assert not {"_network", "_vae"} & set(vars(prior))
    prior.load()
    assert {"_network", "_vae"} <= set(vars(prior))
    prior.release()
    assert not {"_network", "_phi_network", "_vae"} & set(vars(prior))


def test_a_jobs_prompt_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many stages check and prepare it, for the prior and for its refiner."""
    parsed = []
    parse = grammar.parse_object
    monkeypatch.setattr(grammar, "parse_object", lambda *args: parsed.append(args) or parse(*args))  # type: ignore[func-returns-value]
    for prior in (open_prior("mini", "cpu"), open_prior("mini-refiner", "cpu")):
        for _ in range(3):
            prior.check("the purple teapot.", "", "colour", 64)
            prior.prepare("the purple teapot.", "", "colour", 64)
    assert len(parsed) == 1


def a_control(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of the built-in model's own, as its training writes it, but untrained."""
    model = open_folder(priors.built_in("mini"))
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(model.configs["unet"])
    net = ControlNetModel.from_unet(
        unet,
        load_weights_from_unet=False,
        conditioning_channels=6,
        conditioning_embedding_out_channels=(16, 32, 64),
    )
    net.to_empty(device="cpu").half().save_pretrained(folder)
    (folder / "dreamflow.json").write_text('{"shows": ["depth", "normal"]}', "utf-8")
    monkeypatch.setattr(priors, "built_in_control", lambda: folder)
    monkeypatch.setattr(refine, "built_in_control", lambda: folder)
    return folder


def test_the_built_in_model_has_a_controlnet_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no need of one."""
    monkeypatch.setattr(priors, "built_in_control", lambda: tmp_path / "none")
    with pytest.raises(ModelError, match="has no ControlNet"):
        open_prior("mini", "cpu", controls=["mini"])
    a_control(tmp_path / "control", monkeypatch)
    (said,) = open_prior("mini", "cpu", controls=["mini:0.5"]).describe()["controls"]
    assert said["name"] == "control" and said["weight"] == 0.5 and said["shows"] == ("depth", "normal")
    assert "controls" not in open_prior("mini", "cpu", controls=["mini:0"]).describe()


def test_a_texture_from_nothing_is_told_the_shape_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(stages: tuple[str, ...] = ("refine",), **more: object) -> tuple[str, ...]:
        job = Job("1", "refine", "a red ball", str(tmp_path), mesh="ball.npz", stages=stages, **more)  # type: ignore[arg-type]
        return refine.Refining(job, grey, [], {}).job.control

    grey = painted_ball(image=[-1], images=(), base=[(0.6, 0.6, 0.6, 1.0)])
    monkeypatch.setattr(refine, "built_in_control", lambda: tmp_path / "none")
    assert told() == ()
    a_control(tmp_path / "control", monkeypatch)
    assert told() == ("mini",) and told(control=("mini:0",)) == ("mini:0",) and told(prior="sd") == ()
    grey = painted_ball()
    assert told() == () and told(("texture", "refine")) == ("mini",)


@pytest.mark.parametrize(("name", "words"), [("exact", VIEWS), ("exact-compass", COMPASS)])
def test_the_exact_priors_differ_by_what_they_are_told(name: str, words: tuple[str, ...]) -> None:
    prior = open_prior(name, "cpu")
    assert isinstance(prior, ExactPrior) and (prior.name, prior.words) == (name, words)
    assert prior.describe()["name"] == name
    with pytest.raises(InputError, match="no network for a LoRA"):
        open_prior(name, "cpu", loras=("a.safetensors",))
