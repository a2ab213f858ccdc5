"""Damaged checkpoints for fuzz.py: each trial is made of its seed alone, from the checkpoints of two tiny jobs.

Most are signed again after the change, as somebody would who means harm: their checksums fit.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from backend.errors import DiskError
from backend.jobs import generate, refine, resume
from backend.stages import checkpoint_writer
from backend.stages.damage import digest, digest_facts
from benchmarks.fuzz_files import damaged
from benchmarks.fuzz_jobs import changed
from dreamflow_blender.contract import protocol as p
from dreamflow_blender.contract.jobfolder import JobFolder
from tests.tools.made_meshes import a_glb
from tests.tools.refine_run import refine_job, shorten
from tests.tools.tiny import tiny_job

SHAPES: list[Any] = [[], [0], [1], [10**12], [-1], [2**63], [2, 2], [1] * 70]
TYPES: list[Any] = ["F64", "I64", "F16", "BOOL", "U8", "X", 5, "F8_E4M3", "BF16"]
OFFSETS: list[Any] = [[0, 0], [0, 2**62], [-1, 4], [5, 3], None]
KEPT = ("job.json", "object.npz", "object.glb")


def try_checkpoint(seed: str, root: Path) -> None:
    """Resume from a damaged checkpoint for three iterations. Raises what resume should not."""
    chance = random.Random(f"checkpoint {seed}")
    kept = root / "kept" / chance.choice(["generate", "refine"])
    source = chance.choice(sorted(JobFolder(kept).checkpoints.iterdir()))
    folder = root / "resumed"
    shutil.rmtree(folder, ignore_errors=True)
    target = JobFolder(folder).checkpoints / source.name
    shutil.copytree(source, target)
    for name in KEPT:
        if (kept / name).exists():
            shutil.copy(kept / name, folder)
    damage(target, chance)
    steps, last, said = 0, None, []

    def after_three() -> str | None:
        return "cancel" if steps > 3 else None

    for event in resume.resume(folder, after_three):
        steps += isinstance(event, p.Progress | p.Started)
        said += [event.message] if isinstance(event, p.Warning) else []
        last = event
    assert isinstance(last, p.Cancelled | p.Finished), last
    if refused := [text for text in said if "is damaged" in text]:
        raise DiskError(refused[0], "The job was begun again.")


def make_checkpoints(root: Path) -> None:
    """A generate and a refine job below `root`, with every checkpoint that they took, for all trials."""
    shorten()
    root = root / "kept"
    if root.exists():
        return
    always, checkpoint_writer.clean.__defaults__ = checkpoint_writer.clean.__defaults__, (1000,)
    root.mkdir()
    mesh = root / "a.glb"
    mesh.write_bytes(a_glb())
    often = {"checkpoint_seconds": 0.0}
    list(generate.generate(tiny_job(root / "generate", **often)))
    list(refine.refine(refine_job(root / "refine", mesh, stages=("texture", "refine"), **often)))
    checkpoint_writer.clean.__defaults__ = always


def damage(folder: Path, chance: random.Random) -> None:
    """Up to two changes of its facts, its tensors' descriptions or bytes."""
    facts, blob = folder / "state.json", folder / "state.safetensors"
    document = json.loads(facts.read_bytes())
    raw = blob.read_bytes()
    for _ in range(chance.choice([1, 1, 2])):
        what = chance.randrange(4)
        if what == 0:
            sums = document.pop("sha256", {})
            document = changed(document, chance) | {"sha256": sums}
        elif what == 1 and len(raw) > 16:
            raw = _described_otherwise(raw, chance)
        elif what == 2 and len(raw) > 16:
            at = chance.randrange(8, len(raw))
            raw = raw[:at] + chance.randbytes(min(4, len(raw) - at)) + raw[at + 4 :]
        elif what == 3 and chance.random() < 0.3:
            raw = damaged(raw, chance, 3)
    if chance.random() < 0.8:
        document["sha256"] = _sums(document, raw)
    text = json.dumps(document).encode()
    facts.write_bytes(damaged(text, chance, chance.choice([0] * 9 + [2])))
    blob.write_bytes(raw)


def _described_otherwise(raw: bytes, chance: random.Random) -> bytes:
    """One tensor of it missing, of another shape, type or place, shorter, or in another's place."""
    size = struct.unpack_from("<Q", raw)[0]
    try:
        head = json.loads(raw[8 : 8 + size])
        body, name = raw[8 + size :], chance.choice(sorted(head))
        about = head[name]
        match chance.randrange(6):
            case 0:
                del head[name]
            case 1:
                about["shape"] = chance.choice([*SHAPES, about["shape"][::-1], [1, *about["shape"]]])
            case 2:
                about["dtype"] = chance.choice(TYPES)
            case 3:
                about["data_offsets"] = chance.choice(OFFSETS)
            case 4:
                other = chance.choice(sorted(head))
                head[name], head[other] = head[other], head[name]
            case _:
                head, body = _shortened(head, body, name)
    except (ValueError, KeyError, TypeError, AttributeError):  # changed before
        return raw
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def _shortened(head: dict[str, Any], body: bytes, victim: str) -> tuple[dict[str, Any], bytes]:
    """A file that is right, but one tensor of it has a single element."""
    out = b""
    for name, about in head.items():
        first, last = about["data_offsets"]
        piece = body[first:last]
        if name == victim:
            count = max(1, len(piece) // max(1, _elements(about["shape"])))
            piece, about["shape"] = piece[:count], [1]
        about["data_offsets"] = [len(out), len(out) + len(piece)]
        out += piece
    return head, out


def _elements(shape: list[int]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _sums(document: dict[str, Any], raw: bytes) -> Any:
    """The checksums that fit."""
    try:
        tensors = safetensors.torch.load(raw)
    except (SafetensorError, ValueError, KeyError, OverflowError):
        return document.get("sha256")
    return {name: digest(name, t) for name, t in tensors.items()} | {"state.json": digest_facts(document)}
