"""A run's whole state to disk and back.

    FOLDER/checkpoints/NUMBER-STAGE-ITERATION/state.safetensors   every tensor
                                              state.json          where the run stands, and the rest

A checkpoint is written under a hidden name, flushed and renamed, so one that can be seen is whole. The
last two are kept. It is copied to the CPU between two iterations and written by a thread of its own while
the run goes on.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from backend.config import STAGES
from backend.errors import DeviceError, NumericsError
from backend.files import disk_errors
from backend.scene.camera import Camera
from backend.scene.isosurface import count_vertices, tetrahedral_grid
from backend.scene.mesh import Mesh
from backend.scene.optimizer import AFTER_A_NAN
from backend.scene.scene import GridBox, ReferenceViews, Scene
from backend.stages.damage import (
    check_facts,
    check_like,
    check_log,
    check_mesh,
    check_sums,
    check_tensor,
    digest,
    digest_facts,
    expect,
    found_in,
)
from backend.stages.happenings import Fitting, Reached
from backend.stages.stages import Stage
from backend.texture.colour_field import Fit
from dreamflow_blender.contract.files import is_link, read_plain

MOST_BYTES = 1 << 36  # of a checkpoint
VERSION = 2  # of the layout below
PLACES = (Fit.name, *STAGES)  # where a checkpoint can be taken, in the order of a job


@dataclass(frozen=True)
class RunState:
    """A run between two iterations; the tensors are copies, on the CPU."""

    stage: str
    iteration: int  # of the stage, done
    attempt: int  # at stage 1
    ended: bool  # with what comes after the stage's last iteration
    mean_opacity: float
    box: GridBox | None  # of the tetrahedral grid
    tensors: dict[str, Tensor]
    notes: dict[str, Any]  # of jobs/run.py: see damage.NOTES
    name: str = ""  # of the folder that it was read from

    def passed(self, stage: str) -> bool:
        """Whether this stage is finished."""
        here, there = PLACES.index(self.stage), PLACES.index(stage)
        return there < here or (there == here and self.ended)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        return {name[len(prefix) :]: t for name, t in self.tensors.items() if name.startswith(prefix)}


def capture(at: Reached | Fitting, others: Mapping[str, Tensor], notes: dict[str, Any]) -> RunState:
    """A copy of everything that the rest of the run depends on. Quick: the run waits for it.

    Raises NumericsError where a number in it is a NaN or an infinity: on a card the loop looks every 16 iterations
    only, and both checkpoints that are kept could be taken in between.
    """
    scene, stage = at.scene, at.stage
    found: dict[str, Tensor] = dict(others)
    for name, module in _modules(scene).items():
        found |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    if scene.sdf is not None and scene.offsets is not None:
        found |= {"sdf": scene.sdf, "offsets": scene.offsets}
    if scene.mesh is not None:
        found |= {"mesh.v_pos": scene.mesh.v_pos, "mesh.t_pos_idx": scene.mesh.t_pos_idx}
    if scene.seen is not None:
        camera = scene.seen.camera
        found |= {"seen.c2w": camera.c2w, "seen.proj": camera.proj}
        found |= {"seen.image": scene.seen.image, "seen.opacity": scene.seen.opacity}
    for row, parameter in enumerate(_parameters(stage)):
        moments = stage.optimizer.state.get(parameter, {})
        found |= {f"optimizer.{row}.{name}": value for name, value in moments.items()}
    if stage.phi is not None:
        found |= {f"phi.{name}": value for name, value in stage.phi.state_dict().items()}
    found["generator"] = stage.generator.get_state()
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in found.items()}
    for name, copy in copies.items():
        if copy.is_floating_point() and not torch.isfinite(copy).all():
            raise NumericsError(
                f"stage {stage.name}, iteration {at.done}: {name} holds a NaN or an infinity, and is not saved.",
                AFTER_A_NAN,
            )
    return RunState(
        stage.name,
        at.done,
        at.attempt,
        at.ended,
        scene.mean_opacity,
        scene.box,
        copies,
        json.loads(json.dumps(notes)),
    )


def restore_scene(saved: RunState, scene: Scene) -> None:
    """Into a fresh scene of the same settings. Raises Damaged where something would not fit, before anything is set."""
    device = scene.field.table.device
    modules = _modules(scene)
    with found_in(saved.name):
        for name, module in modules.items():
            check_like(saved.part(f"{name}."), module.state_dict(), name)
        _check_surface(saved)
        if scene.mesh is not None:  # a refine job's own
            expect("its mesh is another", torch.equal(saved.tensors["mesh.v_pos"], scene.mesh.v_pos.cpu()))
    for name, module in modules.items():
        module.load_state_dict(saved.part(f"{name}."))
    scene.mean_opacity = saved.mean_opacity
    on_device = {name: t.to(device) for name, t in saved.tensors.items() if not name.startswith("optimizer.")}
    if saved.box is not None:
        scene.box = saved.box
        scene.grid = tetrahedral_grid(saved.box.cells, saved.box.lower, saved.box.upper).to(device)
        scene.sdf = nn.Parameter(on_device["sdf"])
        scene.offsets = nn.Parameter(on_device["offsets"])
    if "mesh.v_pos" in on_device:
        scene.mesh = Mesh(on_device["mesh.v_pos"], on_device["mesh.t_pos_idx"])
    if "seen.image" in on_device:
        image = on_device["seen.image"]
        camera = Camera(on_device["seen.c2w"], on_device["seen.proj"], image.shape[1], image.shape[2])
        scene.seen = ReferenceViews(camera, image, on_device["seen.opacity"])


def restore_stage(saved: RunState, stage: Stage | Fit) -> None:
    """Into a fresh stage of the restored scene. Raises Damaged as restore_scene, and DeviceError."""
    drawn = saved.tensors.get("generator")
    expected = stage.generator.get_state()
    with found_in(saved.name):
        _check_moments(saved, stage)
        expect("there is no generator", drawn is not None and drawn.dtype == expected.dtype)
    assert drawn is not None
    if drawn.shape != expected.shape:  # the kinds of devices draw in different ways
        raise DeviceError(
            f"This job was begun on another device, not on {stage.generator.device.type}.",
            "Resume it on the device that it was begun on, or generate the object again.",
        )
    with found_in(saved.name):
        stage.generator.set_state(drawn)
        if stage.phi is not None:
            stage.phi.load_state_dict(saved.part("phi."))
    for row, parameter in enumerate(_parameters(stage)):
        moments = saved.part(f"optimizer.{row}.")
        state = stage.optimizer.state[parameter] if moments else {}
        for name, value in moments.items():
            # where AdamW keeps its step: on the CPU unless it is fused
            here = name != "step" or bool(stage.optimizer.defaults.get("fused"))
            state[name] = value.to(parameter.device if here else "cpu", copy=True)


def _check_surface(saved: RunState) -> None:
    """ValueError where what lies between the stages is missing or does not fit together."""
    tensors, box = saved.tensors, saved.box
    if saved.stage in ("texture", "refine", "geometry") or any(name.startswith("mesh.") for name in tensors):
        check_mesh(tensors)
    expect("it has no tetrahedral grid", box is not None or saved.stage != "geometry")
    expect("it has half of a grid", (box is not None) == ("sdf" in tensors) == ("offsets" in tensors))
    if box is not None:
        count = count_vertices(box.cells, box.lower, box.upper)
        check_tensor(tensors, "sdf", (count,), torch.float32)
        check_tensor(tensors, "offsets", (count, 3), torch.float32)
    if any(name.startswith("seen.") for name in tensors) or saved.stage == "geometry":
        views = len(check_tensor(tensors, "seen.c2w", (None, 4, 4), torch.float32))
        check_tensor(tensors, "seen.proj", (views, 4, 4), torch.float32)
        height, width = check_tensor(tensors, "seen.image", (views, None, None, 3), torch.float32).shape[1:3]
        check_tensor(tensors, "seen.opacity", (views, height, width, 1), torch.float32)


def _check_moments(saved: RunState, stage: Stage | Fit) -> None:
    """ValueError unless AdamW's moments are like its parameters: its fused kernel would write beyond shorter ones."""
    expect(f"it is of iteration {saved.iteration}", saved.iteration <= stage.iterations)
    wanted: dict[str, Tensor] = {}
    for row, parameter in enumerate(_parameters(stage)):
        if any(name.startswith(f"optimizer.{row}.") for name in saved.tensors):
            wanted |= {
                f"{row}.exp_avg": parameter,
                f"{row}.exp_avg_sq": parameter,
                f"{row}.step": torch.ones(()),
            }
    check_like(saved.part("optimizer."), wanted, "the optimizer")


def _modules(scene: Scene) -> dict[str, nn.Module]:
    return {"field": scene.field, "backdrop": scene.backdrop, "occupancy": scene.occupancy}


def _parameters(stage: Stage | Fit) -> list[nn.Parameter]:
    return [p for group in stage.optimizer.param_groups for p in group["params"]]


def write(path: Path, saved: RunState) -> None:
    """A checkpoint's folder, whole or not at all; raises DiskError."""
    temporary = path.with_name(f".{path.name}.part")
    facts = {"version": VERSION, **vars(saved), "box": None if saved.box is None else vars(saved.box)}
    del facts["tensors"], facts["name"]
    sums = {name: digest(name, tensor) for name, tensor in saved.tensors.items()}
    facts = json.loads(json.dumps(facts))
    facts["sha256"] = sums | {"state.json": digest_facts(facts)}
    try:
        with disk_errors(path):
            _remove(temporary)  # of a process that was killed, or somebody's link
            temporary.mkdir(parents=True)
            _write_tensors(temporary / "state.safetensors", saved.tensors)
            with (temporary / "state.json").open("wb") as file:
                file.write(json.dumps(facts, indent=1).encode())
                _to_the_disk(file)
            temporary.rename(path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # there only if something failed


def _remove(folder: Path) -> None:
    if is_link(folder):
        folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def load(path: Path) -> RunState:
    """The checkpoint in this folder. Raises DiskError, as Damaged where it is that or of another version."""
    with disk_errors(path):
        text, blob = read_plain(path / "state.json"), read_plain(path / "state.safetensors", MOST_BYTES)
    with found_in(path.name):
        facts = json.loads(text)
        expect("it is of another version of DreamFlow", facts["version"] == VERSION)
        try:
            tensors = safetensors.torch.load(blob)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        check_sums(facts, tensors)
        check_facts(facts)
        check_log(tensors)
        box = facts.pop("box")
        if box is not None:
            box = GridBox(box["cells"], tuple(box["lower"]), tuple(box["upper"]))
        expect(f"there is no stage {facts['stage']}", facts["stage"] in PLACES)
        del facts["version"]
        return RunState(box=box, tensors=tensors, name=path.name, **facts)


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """safetensors writes and renames but does not flush, and tells an operating system's error as text alone."""
    path.touch()  # safetensors makes its file for the owner alone: another of a farm could not resume the job
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        safetensors.torch.save_file(tensors, path)
        path.chmod(mode)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, str(error), str(path), number) from error  # the last is Windows's own number
    with path.open("rb+") as file:
        _to_the_disk(file)


def _to_the_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """So that the rename itself outlives a power cut; Windows has no such call and does without."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
