"""index.html, the contact sheet of a batch: opened from a disk or a server, it asks for nothing outside its folder.

A page that comes from a disk may show pictures but not read files, so the object turns under the mouse as a sheet of
pictures, made of the job's turntable when it ends: no viewer of meshes, and no second copy of each mesh in a script.
"""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dreamflow_blender.contract.files import write_atomic
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.words import duration

SHEETS = "pictures"  # a folder beside the jobs'
ACROSS = 6  # frames in a row of a sheet, which has as many rows
SIDE = 240  # pixels of a frame in it
STYLE = f"""body{{font:15px/1.4 sans-serif;margin:2em;background:#f4f4f4;color:#222}}
main{{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:1em}}
figure{{margin:0;background:#fff;border:1px solid #ddd;border-radius:6px;padding:.6em}}
.shown{{position:relative;aspect-ratio:1;background:#eee}}
.shown img{{width:100%;height:100%;object-fit:contain}}
.turn{{position:absolute;inset:0;background-size:{ACROSS * 100}%;touch-action:pan-y;cursor:ew-resize}}
figcaption{{overflow-wrap:anywhere}}small{{color:#666}}.failed{{border-color:#c0392b}}.error{{color:#c0392b}}"""
SCRIPT = f"""for (const turn of document.querySelectorAll(".turn")) {{
  const show = event => {{
    const box = turn.getBoundingClientRect(), n = {ACROSS};
    const frame = Math.min(n * n - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * n * n)));
    turn.style.backgroundImage = `url("${{turn.dataset.sheet}}")`;
    turn.style.backgroundPosition = `${{frame % n * 100 / (n - 1)}}% ${{Math.floor(frame / n) * 100 / (n - 1)}}%`;
  }};
  turn.addEventListener("pointermove", show);
  turn.addEventListener("pointerleave", () => turn.style.backgroundImage = "");
}}"""


def sheet_of(root: Path, folder: str) -> Path:
    """Where the sheet of a job in root/NAME is."""
    return root / SHEETS / f"{Path(folder).name}.webp"


def write_sheet(root: Path, folder: str) -> None:
    """All frames of the job's turntable in one picture; nothing where the disk is full, as the page does without."""
    from PIL import Image, ImageSequence  # not needed where nothing is left to do

    with suppress(OSError), Image.open(JobFolder(folder).turntable) as turning:
        sheet = Image.new("RGB", (SIDE * ACROSS, SIDE * ACROSS))
        for number, frame in enumerate(ImageSequence.Iterator(turning)):
            if number < ACROSS * ACROSS:
                place = (number % ACROSS * SIDE, number // ACROSS * SIDE)
                sheet.paste(frame.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), place)
        path, content = sheet_of(root, folder), io.BytesIO()
        sheet.save(content, "WEBP", quality=85)
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, content.getvalue())


def page(rows: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> str:
    """The whole document; `rows` are the report's."""
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    cards = "\n".join(map(_card, rows))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>DreamFlow batch</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<style>{STYLE}</style></head><body>\n"
        f"<h1>{len(rows)} prompts: {said}</h1>\n<main>\n{cards}\n</main>\n<script>{SCRIPT}</script></body></html>\n"
    )


def _card(row: Mapping[str, Any]) -> str:
    files = {name: html.escape(quote(path)) for name, path in row["files"].items()}
    prompt = html.escape(row["prompt"])
    named = JobFolder("")
    picture = ""
    if shown := files.get(named.preview.name):
        picture = f'<img loading="lazy" src="{shown}" alt="{prompt}">'
    if row["sheet"]:
        picture += f'<div class="turn" data-sheet="{html.escape(quote(row["sheet"]))}"></div>'
    labels = {
        named.mesh_glb: "GLB",
        named.turntable: "turntable",
        named.views: "views",
        named.albedo: "albedo",
    }
    links = " · ".join(
        f'<a href="{files[path.name]}">{label}</a>' for path, label in labels.items() if path.name in files
    )
    took = f", {duration(row['seconds'])}" if row["seconds"] else ""
    error = html.escape(row["error"].get("message", ""))
    about = f"seed {row['seed']}, {html.escape(row['preset'])}, {row['state']}{took}"
    return (
        f'<figure class="{row["state"]}"><div class="shown">{picture}</div><figcaption>{prompt}<br>'
        f'<small>{about}</small><br>{links}<div class="error">{error}</div></figcaption></figure>'
    )
