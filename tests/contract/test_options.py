"""A job's options on the command line, in batches and in CSV files: one table, the fields of Job."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest

from backend.cli import arguments as cli
from backend.errors import InputError
from dreamflow_blender.contract import prompts, wire
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.contract.options import FIELDS, add_options, read_option

JOB = p.Job("1", "generate", "a red mug", "out", overrides={"nerf.levels": 3})


@pytest.mark.parametrize(
    "names", [cli.GENERATE, cli.REFINE, prompts.OPTIONS], ids=["generate", "refine", "batch"]
)
def test_nothing_typed_is_a_job_s_own_default(names: tuple[str, ...]) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, names)
    args = vars(parser.parse_args([]))
    assert args == {name: FIELDS[name].default for name in names}


def test_every_option_that_says_what_it_is_can_be_typed() -> None:
    """An option that one command forgot: `refine` had no --phi, batches neither."""
    said = {name for name, field in FIELDS.items() if "help" in field.metadata}
    workers_own = {"checkpoint_seconds", "snapshot_seconds", "snapshot_faces"}
    of_refine = {name for name in said if FIELDS[name].metadata["help"].startswith("refine: ")}
    assert set(cli.GENERATE) == set(prompts.OPTIONS) == said - workers_own - of_refine
    assert set(cli.REFINE) == said - workers_own - {"stages"} | of_refine


def test_typed_options_become_the_job(tmp_path: Path) -> None:
    typed = [
        "--seed",
        "7",
        "--preset",
        "fast",
        "--stages",
        "nerf, texture",
        "--threads",
        "2",
        "--phi",
        "shared",
    ]
    job = cli.to_job(cli.parser().parse_args(["generate", "a mug", "--negative", "a\nhat", *typed]))
    assert (job.seed, job.preset, job.stages, job.threads, job.phi) == (
        7,
        "fast",
        ("nerf", "texture"),
        2,
        "shared",
    )
    more = cli.to_job(
        cli.parser().parse_args(["generate", "a mug", "--lora", "a,b.st:0.5", "--lora", "c.st"])
    )
    assert more.lora == ("a,b.st:0.5", "c.st") == read_option("lora", "a,b.st:0.5; c.st") and job.lora == ()
    assert more.key() != replace(more, lora=()).key() and not more.is_same(replace(more, lora=()))
    assert job.negative == "a hat" and job.folder == str(Path("out/a-mug-7"))
    (tmp_path / "a.glb").write_bytes(b"")
    typed = [
        "--strength",
        "0.2",
        "--texture-size",
        "512",
        "--front",
        "-90",
        "--texture",
        "--new-uvs",
        "--phi",
        "shared",
    ]
    job = cli.to_job(cli.parser().parse_args(["refine", str(tmp_path / "a.glb"), "a mug", *typed]))
    assert (job.strength, job.texture_size, job.front, job.keep_uvs) == (0.2, 512, -90.0, False)
    assert job.stages == ("texture", "refine") and job.phi == "shared"


def test_a_csv_has_the_same_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,seed,stages,phi,height\na mug,7,"nerf,texture",shared,0.5\n')
    (line,) = prompts.read_prompts(tmp_path / "a.csv")
    assert line.values == {"seed": 7, "stages": ("nerf", "texture"), "phi": "shared", "height": 0.5}
    (tmp_path / "a.csv").write_text("prompt,seed\na mug,seven\n")
    with pytest.raises(prompts.BadPrompts, match="Line 2"):
        prompts.read_prompts(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("seed", -1, "0 to 2,147,483,647, got -1"),
        ("threads", 1025, "0 to 1,024, got 1025"),
        ("texture_size", 12, "0 or 64 to 8,192 pixels, got 12"),
        ("front", 400.0, "-360 to 360 degrees"),
        ("snapshot_seconds", -1.0, "0 to 86,400 s"),
        ("preset", "best", "paper or fast or draft"),
        ("strength", 0.6, "0.1 to 0.5"),
    ],
)
def test_bounds_and_choices_are_checked_from_the_same_table(name: str, value: object, says: str) -> None:
    with pytest.raises(wire.BadMessage, match=f"{name}: expected {says}"):
        dataclasses.replace(JOB, **{name: value})  # type: ignore[arg-type]


def test_help_names_default_and_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["refine", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "0 to 2,147,483,647; default: 42",
        "0 or 64 to 8,192 pixels",
        "--set refine.start",
        "default: draft",
    ):
        assert words in shown


@pytest.mark.parametrize(("name", "text"), [("seed", "1.5"), ("seed", "9" * 5000), ("front", "north")])
def test_what_cannot_be_read_is_refused(name: str, text: str) -> None:
    kind = "a number" if name == "front" else "a whole number"
    with pytest.raises(ValueError, match=f"expected {kind}, got '{text[:40]}'"):
        read_option(name, text)
    with pytest.raises(InputError, match=f"{name}: expected {kind}"):
        cli.parser().parse_args(["refine", "a.glb", "a mug", f"--{name}", text])


def test_a_share_of_a_card_without_an_end_is_refused() -> None:
    """It ended in an OverflowError."""
    with pytest.raises(InputError, match="expected a number, got 'inf'"):
        cli.parser().parse_args(["batch", "a.txt", "--out", "o", "--gpus-per-job", "inf"])


def test_a_job_s_types_are_checked_once_when_it_is_made_and_once_when_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[type] = []
    checks = wire.check_types

    def check(message: object) -> None:
        checked.append(type(message))
        checks(message)

    monkeypatch.setattr("dreamflow_blender.contract.wire.check_types", check)
    monkeypatch.setattr("dreamflow_blender.contract.job.check_types", check)
    job = dataclasses.replace(JOB)
    line = p.encode_request(p.Generate(job))
    assert checked == [p.Job, p.Generate]
    checked.clear()
    read = p.decode_request(line)
    assert checked == [p.Job, p.Generate]
    assert read == p.Generate(job)
