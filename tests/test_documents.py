"""Documents are true: links lead somewhere, every environment variable is listed, the changelog knows the version."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from benchmarks.all import FIGURES

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "backend").rglob("*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PLACE = re.compile(r"`(\.?[\w-]+(?:/[\w.-]+)*/[\w.-]*)`")
MODULE = re.compile(r"-m ((?:backend|benchmarks|tests)(?:\.\w+)*)")
VARIABLE = re.compile(
    r"\bDREAMFLOW_(?!(?:OT|PT|UL|AP|PG|MT|HT)_)[A-Z_]*[A-Z]\b"
)  # not Blender's names of classes
MEASURED = re.compile(r"Measured (?:once )?by `.+` at `[0-9a-f]{7}`.*\.")
PLACES = ("backend", "dreamflow_blender", "benchmarks", "examples", "tests", ".ci", ".github")


def anchors(text: str) -> set[str]:
    """Of a document's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in HEADING.findall(text)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    wrong = []
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        there = target.exists() and (not anchor or anchor in anchors(target.read_text(encoding="utf-8")))
        if not there:
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_places_and_modules_that_are_named_are_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    homes = [ROOT, *(ROOT / name for name in ("backend", "dreamflow_blender"))]
    below = {folder.name for home in homes for folder in home.iterdir() if folder.is_dir()}
    below -= {".build", "dist", "out"}  # which the commands make
    named = {name for name in PLACE.findall(text) if name.split("/")[0] in below}
    named |= {name.replace(".", "/") for name in MODULE.findall(text)}
    there = {
        name for name in named for home in homes for end in ("", ".py") if (home / (name + end)).exists()
    }
    assert named - there <= {"docs/card.md"}  # which benchmarks/card.py writes


def tables(text: str) -> list[tuple[list[str], str]]:
    """Each table's rows below its head, and the first line of text after it."""
    found: list[tuple[list[str], str]] = []
    rows: list[str] = []
    for line in [*text.splitlines(), "The end"]:
        if line.startswith("|"):
            rows.append(line)
        elif rows and line.strip():
            found.append((rows[2:], line))
            rows = []
    return found


def are_figures(rows: list[str]) -> bool:
    """Whether half of what stands beside the rows' names are numbers."""
    cells = [cell.strip(" *") for row in rows for cell in row.strip("|").split("|")[1:]]
    return 2 * sum(bool(re.match(r"-?[\d.]", cell)) for cell in cells) >= len(cells)


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_every_table_of_figures_names_its_command_and_its_commit(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    wrong = [rows[0] for rows, after in tables(text) if are_figures(rows) and not MEASURED.fullmatch(after)]
    assert wrong == []
    blocks = text.count("<!-- figures -->")
    assert blocks == len(FIGURES.findall(text)) == len(re.findall(r"^Measured by", text, re.MULTILINE))
    if not (ROOT / ".git").exists() or (ROOT / ".git" / "shallow").exists():
        pytest.skip("no history here")
    for commit in re.findall(r"^Measured (?:once )?by .+ at `(\w+)`", text, re.MULTILINE):
        older = ["git", "merge-base", "--is-ancestor", commit, "HEAD"]  # one on another branch is in no clone
        assert subprocess.run(older, cwd=ROOT, check=False).returncode == 0, commit


def test_what_a_table_of_figures_is() -> None:
    text = "| kind | IoU |\n|---|---|\n| mug | **0.9** |\n\nProse.\n| word | what |\n|---|---|\n| up | 3 or so |\nMore."
    (first, after), (second, _) = tables(text)
    assert are_figures(first) and after == "Prose." and not MEASURED.fullmatch(after)
    assert not are_figures(["| up | a 3 |"]) and second == ["| up | 3 or so |"]
    assert MEASURED.fullmatch(
        "Measured by `python -m benchmarks.kernels` at `1234567`, in 2.0 minutes of processor."
    )


def test_anchors_are_githubs() -> None:
    assert anchors("# Two commands\ntext\n## What `refine` does, and why\n") == {
        "two-commands",
        "what-refine-does-and-why",
    }


def test_every_environment_variable_is_listed_and_no_other() -> None:
    files = [ROOT / "build.py", *(path for place in PLACES for path in (ROOT / place).rglob("*"))]
    files = [path for path in files if path.is_file() and path.suffix in (".py", ".yml", "")]
    used = {name for path in files for name in VARIABLE.findall(path.read_text(encoding="utf-8"))}
    listed = set(VARIABLE.findall((ROOT / "docs" / "variables.md").read_text(encoding="utf-8")))
    assert used == listed


def test_the_changelog_begins_with_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = [name for name in re.findall(r"^## \[(.+?)\]", text, re.MULTILINE) if name != "Unreleased"]
    assert newest[0] == version


def test_workflows_run_what_is_there() -> None:
    """Every file and module of ours that a workflow names."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").glob("*.yml")]
    files = {name for text in texts for name in re.findall(r"(?<![\w/])(?:\.ci|tests)/\w+(?:\.py)?", text)}
    modules = {name for text in texts for name in re.findall(r"-m (benchmarks\.\w+)", text)}
    assert {".ci/run", ".ci/blender"} <= files and modules
    files |= {name.replace(".", "/") + ".py" for name in modules}
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []


def test_commits_that_blame_passes_over_are_there() -> None:
    revisions = re.findall(
        r"^[0-9a-f]{40}$", (ROOT / ".git-blame-ignore-revs").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert revisions
    if not (ROOT / ".git").exists():
        pytest.skip("no history here")
    for revision in revisions:
        known = subprocess.run(["git", "cat-file", "-e", f"{revision}^{{commit}}"], cwd=ROOT, check=False)
        if known.returncode and (ROOT / ".git" / "shallow").exists():
            pytest.skip("a shallow clone")
        assert known.returncode == 0, revision


def test_nothing_in_the_repository_leads_out_of_it() -> None:
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    assert [line for line in listed.stdout.splitlines() if line.startswith("120000")] == []  # links
