"""`refine`: an artist's own object, made better without being touched (stage 3, or texture and refine)."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator as Events
from collections.abc import Iterator
from hashlib import sha256
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from backend.config import Preset
from backend.errors import InputError
from backend.files import disk_errors, write_bytes, write_text
from backend.jobs.priors import built_in_control
from backend.jobs.record import begin_again, drop_objects, read_record
from backend.jobs.recorder import Control, Delivery, Outcome, Start, no_control
from backend.jobs.run import run
from backend.jobs.telemetry import RunLog
from backend.meshes.read import kept_source, read_mesh
from backend.meshes.write import png_bytes
from backend.results.deliver_refined import (
    Refined,
    deliver_refined,
    materials_json,
    result_arrays,
)
from backend.scene.mesh import Mesh, Sheet
from backend.scene.scene import Scene, new_scene
from backend.stages.chain import run_stages
from backend.stages.checkpoint import RunState, restore_scene, restore_stage
from backend.stages.guides import standing
from backend.stages.happenings import Fitting, Happening, Note
from backend.stages.memory import USABLE, capacity_gb
from backend.stages.setup import Setup
from backend.texture.colour_field import FITS, Fit, FitSettings, HeldField, fit_psnr, learned_colour
from backend.texture.mask import border
from backend.texture.placement import find_placement
from backend.texture.repaint import TEXEL, Canvas, paint, prepare
from backend.texture.sheets import plan_sheets
from backend.texture.source_colours import source_colours
from dreamflow_blender.contract import meshfile
from dreamflow_blender.contract.files import read_plain
from dreamflow_blender.contract.jobfolder import JobFolder, indexed_filename
from dreamflow_blender.contract.meshfile import ObjectArrays
from dreamflow_blender.contract.protocol import Event, Job

VIEWS = 64  # cameras that decide what is seen
VIEW_SIZE = 256  # pixels a side of what they see
SNAPSHOT = 512  # pixels a side, at most, of a texture on the way
HALF = 0.55  # metres, of the field's box


def refine(job: Job, control: Control = no_control) -> Events[Event, None, None]:
    """Run a refine job in its existing folder, as `generate.generate` does a generate job.

    Raises InputError where the mesh cannot be refined, before anything is begun.
    """

    def start() -> Start:
        mesh, source = Path(job.mesh), kept_source(Path(job.mesh))
        return Start(Refining(job, *read_mesh(mesh), source))

    return run(Path(job.folder), start, control)


class Refining:
    """The work of a refine job (see recorder.Work). Everything but the field follows from job and mesh."""

    def __init__(self, job: Job, mesh: ObjectArrays, notes: list[str], source: dict[str, bytes]) -> None:
        """source: what kept_source says of the object's file."""
        self._arrays, self._notes, self._source = mesh, list(notes), source
        self._weight = allowed(mesh, job.material)
        self._placement = find_placement(mesh.v_pos, mesh.t_pos_idx, job.front)
        self._placed = self._placement.place(mesh.v_pos)
        self.job = job
        if "texture" not in job.stages and source_colours(mesh, "cpu").is_plain_grey:
            self.job = dataclasses.replace(job, stages=("texture", "refine"))
            self._notes.append("The object has one plain grey: its texture is made from nothing first.")
        if (
            "texture" in self.job.stages
            and job.prior == "mini"
            and not (job.control or job.texturer)
            and built_in_control().is_dir()
        ):
            # so that parts are painted where they lie
            self.job = dataclasses.replace(self.job, control=("mini",))
        self._sheets: list[Sheet] = []
        self._canvases: list[Canvas] = []  # for snapshots
        self.figures: dict[str, float] = {}

    @classmethod
    def again(cls, job: Job) -> Refining:
        """For a run that goes on: the object as it was kept. Raises InputError where it is another."""
        folder = JobFolder(job.folder)
        again = f"Begin the job again: {begin_again(job.folder)}"
        kept = read_record(folder.path).get("object")
        files = {path.name: path for path in folder.object_files}
        if not isinstance(kept, dict) or folder.object_npz.name not in kept or set(kept) - set(files):
            raise InputError(f"{folder.job} does not say which object is refined.", again)
        for name, digest in kept.items():
            content = b""
            if files[name].is_file():
                with disk_errors(files[name]):
                    content = read_plain(files[name], meshfile.MOST_BYTES)
            if sha256(content).hexdigest() != digest:
                raise InputError(f"{files[name]} is not the object that this job was begun with.", again)
        drop_objects(folder, kept)
        return cls(job, *read_mesh(folder.object_npz), {})

    def kept(self) -> dict[str, bytes]:
        """See Work: object.npz, and the file that it was read from."""
        return {JobFolder("").object_npz.name: meshfile.to_bytes(self._arrays), **self._source}

    def happenings(self, setup: Setup, saved: RunState | None) -> Iterator[Happening]:
        """See Work: the field first learns the colours that there are, and then the stages."""
        fit = self._fit(setup, saved)
        if saved is not None and saved.stage == Fit.name:
            saved = None  # no stage has begun
        return chain(fit, run_stages(setup, saved, lambda _attempt: self._scene))

    def _fit(self, setup: Setup, saved: RunState | None) -> Iterator[Happening]:
        """All that the stages need; the fit itself is left out where a checkpoint has its result."""
        preset, device = setup.preset, setup.device
        folder, job = JobFolder(self.job.folder), self.job
        self._mesh = Mesh(
            torch.from_numpy(self._placed).to(device),
            torch.from_numpy(self._arrays.t_pos_idx.astype(np.int64)).to(device),
        )
        self._colours = source_colours(self._arrays, device)
        self._shares = torch.from_numpy(self._weight).to(device)
        kept = self._weight.max(1) == 0
        self._edge = border(self._placed, self._arrays.t_pos_idx.astype(np.int64), kept)
        self._sheets = plan_sheets(
            self._arrays, self._placed, self._weight, job.keep_uvs, job.texture_size,
            preset.delivery.texture_size, lambda: False,
        )  # fmt: skip
        viewer = setup.prior_for("refine" if "refine" in job.stages else "texture")
        generator = torch.Generator(device).manual_seed(job.seed)
        poses = standing(viewer.spec, self._mesh).poses
        self._cameras = poses.sample(generator, VIEWS, VIEW_SIZE, VIEW_SIZE)

        settings = fit_settings(job)
        scene = fresh_scene(preset, settings, device, job.seed)
        scene.mesh = self._mesh
        fit = Fit(scene.field, settings, generator)
        notes = (*self._notes, *said_of(self._sheets), *room_note(self._sheets, capacity_gb(device)))
        for note in notes if saved is None else ():
            yield Note(note)
        if saved is None or saved.stage == fit.name:
            first = 0
            if saved is not None:
                restore_scene(saved, scene)
                restore_stage(saved, fit)
                first = saved.iteration
            yield Fitting(scene, fit, first, settings.iterations)
            for done in fit.steps(first, self._mesh, self._colours):
                yield Fitting(scene, fit, done, settings.iterations)
            self.figures["fit_psnr"] = fit_psnr(scene.field, self._mesh, self._colours)
            yield Note(f"The field shows the object's own colours at {self.figures['fit_psnr']:.1f} dB.")
        if kept.any():
            scene.field = HeldField(scene.field, self._mesh, self._shares)
        self._scene = scene
        self._canvases = [self.canvas(sheet, SNAPSHOT) for sheet in self._sheets]
        if job.snapshot_faces:  # which UVs the snapshots belong to
            write_bytes(folder.uvs, meshfile.to_bytes(result_arrays(self._arrays, self._sheets)))
            write_text(folder.materials, materials_json(self._arrays, self._sheets))

    def canvas(self, sheet: Sheet, longest: int | None = None) -> Canvas:
        return prepare(
            sheet, self._mesh, self._colours, self._shares, self._edge, self._cameras,
            longest, "texture" in self.job.stages,
        )  # fmt: skip

    def snapshot(self, scene: Scene, stage: str) -> Path:
        """snapshot.png, and snapshot_2.png and so on beside it where there are more textures."""
        picture = JobFolder(self.job.folder).snapshot_png
        for number, canvas in enumerate(self._canvases, 1):
            image = paint(canvas, self._mesh, self._colours, learned_colour(scene), polished=False)
            write_bytes(indexed_filename(picture, number), png_bytes(image))
        return picture

    def deliver(self, setup: Setup, outcome: Outcome, log: RunLog, control: Control) -> Delivery:
        """See Work."""
        refined = Refined(
            self.job, self._arrays, self._sheets, self._mesh, self._colours, self.canvas, self.figures
        )
        curves = {name: each.arrays() for name, each in log.curves.items()}
        return deliver_refined(refined, outcome.scene, curves, log.sheets)


def allowed(mesh: ObjectArrays, material: str) -> NDArray[np.float32]:
    """[F,3] how much may change, of the one material where one is named. Raises InputError where nothing may."""
    weight = mesh.weight.copy()
    if material:
        rows = np.nonzero(mesh.names == material)[0]
        if not len(rows):
            known = ", ".join(repr(str(name)) for name in mesh.names[:8])
            raise InputError(f"The object has no material {material!r}.", f"It has {known}.")
        weight[~np.isin(mesh.material, rows)] = 0
    if not weight.any():
        raise InputError(
            "Nothing of the object may change: no face is selected, or all weights are zero.",
            "Select some faces.",
        )
    return weight


def fit_settings(job: Job) -> FitSettings:
    """The preset's; `refine.levels` and its like are stage 3's own."""
    return FITS[job.preset]


def fresh_scene(preset: Preset, fit: FitSettings, device: torch.device, seed: int) -> Scene:
    """A field as fine as the fit wants; nothing of its density is used."""
    settings = dataclasses.replace(
        preset.nerf, half=HALF, grid_levels=fit.grid_levels, grid_features=fit.grid_features,
        grid_log2_size=fit.grid_log2_size, grid_finest=fit.grid_finest, hidden=fit.hidden, occupancy=2,
    )  # fmt: skip
    return new_scene(settings, device, seed)


def room_note(sheets: list[Sheet], capacity: float) -> list[str]:
    """Whether the largest texture may not fit into a device of `capacity` GB; they are repainted one by one."""
    side = max((max(sheet.height, sheet.width) for sheet in sheets), default=0)
    needed = TEXEL * side**2 / 1e9
    if needed <= USABLE * capacity:
        return []
    return [
        f"A texture of {side:,} pixels takes about {needed:.1f} GB while it is repainted, and {capacity:.1f} GB are"
        " there: choose a smaller one. --texture-size sets it."
    ]


def said_of(sheets: list[Sheet]) -> list[str]:
    """What was decided about the UVs, for a person."""
    found = []
    for sheet in sheets:
        if sheet.new_uvs and sheet.why:
            found.append(f"{sheet.why} New UVs are made beside them.")
        copies = int(sheet.copy.sum())
        if copies:
            found.append(
                f"{copies:,} faces share the texels of others, as copies do: they get the same colours."
            )
    return found
