"""What a checkpoint's tensors and notes must be like, looked at before anything is taken from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from backend.config import STAGES
from backend.diffusion.savings import SAVINGS
from backend.errors import DiskError, ModelError

MOST_THREADS, MOST_CELLS, MOST_PIXELS = 1024, 1024, 4096
NOTES: dict[str, type] = {"job": str, "threads": int, "rung": int, "kernels": dict, "versions": dict, "seconds": dict,
                          "begun": dict}  # fmt: skip


class Damaged(DiskError):
    """A checkpoint that is not what was written, or not of this job: an older one may be."""


@contextmanager
def found_in(what: str) -> Iterator[None]:
    """Whatever is wrong with a part of a checkpoint is Damaged."""
    try:
        yield
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        RuntimeError,
        ModelError,
    ) as error:
        again = "Resume from another checkpoint, or generate the object again."
        raise Damaged(f"The checkpoint {what} is damaged ({error!s:.200}).", again) from error


def expect(what: str, holds: bool) -> None:
    """ValueError where it does not hold."""
    if not holds:
        raise ValueError(what)


def digest(name: str, tensor: Tensor) -> str:
    """sha256 of a tensor on the CPU: of its name, its type, its shape and its bytes."""
    said = sha256(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
    said.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return said.hexdigest()


def digest_facts(facts: Mapping[str, Any]) -> str:
    """sha256 of what state.json says beside its checksums."""
    return sha256(json.dumps({k: v for k, v in facts.items() if k != "sha256"}).encode()).hexdigest()


def check_sums(facts: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Takes the checksums out of the facts. ValueError where one differs."""
    sums, said = facts["sha256"], digest_facts(facts)
    del facts["sha256"]
    expect("it has other tensors than were written", set(sums) == {*tensors, "state.json"})
    expect("state.json has another checksum", sums["state.json"] == said)
    for name, tensor in tensors.items():
        expect(f"{name} has another checksum", sums[name] == digest(name, tensor))
        finite = not tensor.is_floating_point() or name.startswith("curve.") or bool(tensor.isfinite().all())
        expect(f"{name} holds a NaN or an infinity", finite)  # capture refuses those


def check_facts(facts: Mapping[str, Any]) -> None:
    """ValueError, KeyError or TypeError where a value is of another type, or out of bounds."""
    for name in ("iteration", "attempt"):
        expect(f"{name} is {facts[name]!r}", type(facts[name]) is int and 0 <= facts[name] < 10**8)
    expect("ended is neither true nor false", type(facts["ended"]) is bool)
    expect("mean_opacity is no number", math.isfinite(facts["mean_opacity"]))
    if (box := facts["box"]) is not None:
        cells, corners = box["cells"], (*box["lower"], *box["upper"])
        expect(f"its grid has {cells!r} cells", type(cells) is int and 1 < cells <= MOST_CELLS)
        expect("its grid has no box", len(corners) == 6 and all(math.isfinite(x) for x in corners))
        expect("its grid's box is empty", all(x < y for x, y in zip(box["lower"], box["upper"], strict=True)))


def check_notes(notes: Mapping[str, Any]) -> None:
    """As check_facts, of what jobs/run.py and the recorder note."""
    for name, kind in NOTES.items():
        expect(f"the note {name} is {notes.get(name)!r:.60}", type(notes.get(name)) is kind)
    expect(f"it has {notes['threads']} threads", 0 < notes["threads"] <= MOST_THREADS)
    expect(f"its rung is {notes['rung']}", 0 <= notes["rung"] < len(SAVINGS))
    expect("its seconds are no numbers", all(math.isfinite(s) for s in notes["seconds"].values()))


def check_log(tensors: Mapping[str, Tensor]) -> None:
    """As check_facts, of the curves and the contact sheets."""
    for name, tensor in tensors.items():
        if name.startswith("curve."):
            _, stage, which = name.split(".")
            known = stage in STAGES and which in ("loss", "gap", "gradient")
            expect(f"{name} is no curve", known and tensor.ndim == 1 and tensor.dtype == torch.float32)
        elif name.startswith("sheet."):
            _, stage = name.split(".")
            eight = tensor.ndim == 4 and tensor.shape[::3] == (8, 3) and max(tensor.shape) <= MOST_PIXELS
            expect(f"{name} is no contact sheet", stage in STAGES and eight and tensor.dtype == torch.float32)


def check_like(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """ValueError unless these are the same names, shapes and types; wanted[name] may be of any device."""
    expect(f"{what} has {sorted(found)!r:.80}, expected {sorted(wanted)!r:.80}", set(found) == set(wanted))
    for name, tensor in wanted.items():
        check_tensor(found, name, tuple(tensor.shape), tensor.dtype)


def check_tensor(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int | None, ...], dtype: torch.dtype
) -> Tensor:
    """The tensor; None in a shape is any length from 1. ValueError where it is another or missing."""
    expect(f"there is no {name}", name in tensors)
    found = tensors[name]
    fits = found.ndim == len(shape) and all(
        (n == m if m is not None else n > 0) for n, m in zip(found.shape, shape, strict=True)
    )
    expect(
        f"{name} is {list(found.shape)} {found.dtype}, expected {list(shape)} {dtype}",
        fits and found.dtype == dtype,
    )
    return found


def check_mesh(tensors: Mapping[str, Tensor]) -> None:
    """ValueError where the mesh's faces lead out of its vertices."""
    vertices = check_tensor(tensors, "mesh.v_pos", (None, 3), torch.float32)
    faces = check_tensor(tensors, "mesh.t_pos_idx", (None, 3), torch.int64)
    inside = int(faces.min()) >= 0 and int(faces.max()) < len(vertices)
    expect("its faces have corners that are no vertices", inside)
