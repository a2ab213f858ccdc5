"""The contact sheet: safe whatever a prompt says, whole, and in a browser without a request outside its folder."""

from __future__ import annotations

import csv
import html
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from backend.batch.page import ACROSS, SIDE, sheet_of
from backend.batch.report import write_report
from backend.batch.share import Share
from backend.jobs.drive import Begin, End
from backend.jobs.folder import EventLog
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.protocol import Failed, Finished, Job
from tests.tools.chromium import PROGRAM, Chromium

PROMPTS = ['<script>alert(1)</script> & a "mug"', "=1+1", "une théière à l'envers", "fails"]


def colour(frame: int) -> tuple[int, int, int]:
    """Of a turntable's frame, so that a place in the sheet says which one it shows."""
    return (40 * (frame % ACROSS), 40 * (frame // ACROSS), 128)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch whose folders' names need escapes as well, done but for its last job."""
    root = tmp_path_factory.mktemp("my meshes & é #1")
    names = ["mug", "100% sure?" if Path("/").anchor == "/" else "sure", "thé 'x'", "fails"]
    jobs = [
        Job(f"{n}", "generate", prompt, str(root / name))
        for n, (prompt, name) in enumerate(zip(PROMPTS, names, strict=True))
    ]

    def run(job: Job, _request: Begin) -> tuple[End, list[str]]:
        files = JobFolder(job.folder)
        files.path.mkdir()
        files.job.write_text("{}")
        end: End = Failed("input", "No <b>such</b> thing.", "")
        if job.prompt != "fails":
            frames = [Image.new("RGB", (48, 48), colour(n)) for n in range(ACROSS * ACROSS)]
            frames[0].save(files.turntable, save_all=True, append_images=frames[1:], lossless=True)
            frames[9].save(files.preview)
            files.mesh_glb.write_bytes(b"glTF")
            end = Finished(files.result_files(), {})
        EventLog(files.path).write(end)
        return end, []

    share = Share(root, jobs, False, run)
    share.work()
    write_report(root, jobs, share, set())
    return root


def test_a_sheet_has_every_frame_of_the_turntable(root: Path) -> None:
    with Image.open(sheet_of(root, "mug")) as sheet:
        assert sheet.size == (SIDE * ACROSS, SIDE * ACROSS)
        for frame in (0, 7, 35):
            seen = sheet.convert("RGB").getpixel(
                (frame % ACROSS * SIDE + SIDE // 2, frame // ACROSS * SIDE + SIDE // 2)
            )
            assert all(abs(a - b) <= 6 for a, b in zip(seen, colour(frame), strict=True)), frame


def test_report_and_page_can_be_moved_and_are_safe(root: Path) -> None:
    page = (root / "index.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1 and "&lt;script&gt;" in page and "<b>" not in page
    links = [unquote(html.unescape(link)) for link in re.findall(r'(?:href|src|data-sheet)="([^"]*)"', page)]
    assert len(links) == 3 * 4 and all((root / link).is_file() for link in links)
    assert not re.search(r"https?:|//", page)
    with (root / "report.csv").open(encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)] == ["prompt", PROMPTS[0], "'=1+1", *PROMPTS[2:]]


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAM, reason="Chromium is not installed")
def test_a_browser_shows_every_job_and_asks_for_nothing_outside(root: Path) -> None:
    with Chromium() as browser:
        browser.open(root / "index.html")
        assert (
            browser.run("[...document.querySelectorAll('figcaption')].map(c => c.firstChild.textContent)")
            == PROMPTS
        )
        loaded = "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
        assert browser.run(loaded) == [48, 48, 48]
        seen = []
        for share in (0.01, 0.5, 0.99):  # of its width
            at = browser.run(
                "(() => { const b = document.querySelector('.turn').getBoundingClientRect();"
                f" return [b.left + {share} * b.width, b.top + 9]; }})()"
            )
            browser("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
            seen.append(browser.run("document.querySelector('.turn').style.backgroundPosition"))
        assert seen == ["0% 0%", "0% 60%", "100% 100%"]
        browser.run("new Promise(done => setTimeout(done, 300))")  # the sheet comes when it is first wanted
        browser.picture(root / "seen.png")
    with Image.open(root / "seen.png") as picture:
        shown = picture.convert("RGB").getpixel((round(at[0]), round(at[1])))
    assert all(abs(a - b) <= 6 for a, b in zip(shown, colour(35), strict=True)), shown
    asked = set(browser.requests.values())
    assert all(address.startswith(root.as_uri()) for address in asked) and len(asked) == 1 + 3 + 1
    assert not browser.failed and not browser.errors
