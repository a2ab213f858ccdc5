"""Blender's extension as a zip, and a static repository's index beside it: `python build.py package`.

The zip mirrors the repository: the manifest, both packages, the list of what the backend needs, and a generated
`__init__.py`. Its bytes depend on these files and on zlib's build: names are sorted, dates are fixed, line ends are
line feeds. Text is compressed; weights, most of it, hardly shrink and are not.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("backend", "dreamflow_blender")
BESIDE = ("blender_manifest.toml", "LICENSE", "requirements.txt")
PAGES = ("blender.md", "refine.md")  # of docs/, as one text that every system opens
TEXT = {".py", ".json", ".txt", ".toml", ""}  # everything else but weights stays out
WEIGHTS = {".safetensors"}
LEFT_OUT = ("backend/training/",)  # made the built-in prior; nothing that ships imports it
LARGEST = 25_000_000  # bytes of the zip
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest date that a zip file can hold
INIT = """\
from .dreamflow_blender import register as register
from .dreamflow_blender import unregister as unregister
"""


def contents(root: Path) -> dict[str, bytes]:
    """Path in the zip -> content, in the order in which they are written."""
    found = {"__init__.py": INIT.encode()}
    paths = [root / name for name in BESIDE]
    for package in PACKAGES:
        paths += [
            path for path in (root / package).rglob("*") if path.suffix in TEXT | WEIGHTS and path.is_file()
        ]
    for path in paths:
        name = path.relative_to(root).as_posix()
        if name.startswith(LEFT_OUT) or any(
            part.startswith((".", "__pycache__")) for part in name.split("/")
        ):
            continue
        raw = path.read_bytes()
        found[name] = raw.replace(b"\r\n", b"\n") if path.suffix in TEXT else raw
    pages = [(root / "docs" / name).read_text(encoding="utf-8") for name in PAGES]
    found["documentation.txt"] = "\n\n".join(pages).encode()
    return dict(sorted(found.items()))


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    """The same files always give the same bytes."""
    temporary = path.with_name(f".{path.name}.part")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3  # or else the bytes would tell Windows from Linux
            entry.external_attr = 0o100644 << 16
            kept = Path(name).suffix in WEIGHTS
            archive.writestr(entry, content, zipfile.ZIP_STORED if kept else zipfile.ZIP_DEFLATED)
    temporary.replace(path)


def index(archive: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """What Blender reads from a repository of static files, as its own `extension server-generate` writes it."""
    raw = archive.read_bytes()
    entry = {
        **{name: value for name, value in manifest.items() if name not in ("build", "wheels")},
        "archive_url": f"./{archive.name}",
        "archive_size": len(raw),
        "archive_hash": f"sha256:{hashlib.sha256(raw).hexdigest()}",
    }
    return {"version": "v1", "blocklist": [], "data": [entry]}


def package(root: Path, out: Path) -> Path:
    """Write dreamflow-VERSION.zip and index.json into `out`; the zip's path."""
    manifest = tomllib.loads((root / "blender_manifest.toml").read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    archive = out / f"{manifest['id']}-{manifest['version']}.zip"
    write_zip(archive, contents(root))
    size = archive.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{archive} has {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}.")
    text = json.dumps(index(archive, manifest), indent=2) + "\n"
    temporary = out / ".index.json.part"
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(out / "index.json")
    return archive


if __name__ == "__main__":
    made = package(ROOT, Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist")
    sys.stdout.write(f"{made}  ({made.stat().st_size / 1e6:.1f} MB)\n{made.parent / 'index.json'}\n")
