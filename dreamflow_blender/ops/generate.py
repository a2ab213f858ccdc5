"""Generate, and the buttons of the running job and of the waiting ones."""

# ruff: noqa: N801  Blender's own naming

import random

import bpy
from bpy.props import BoolProperty, IntProperty, StringProperty

from ..backlog import work
from ..backlog.entries import CANDIDATE
from ..contract import protocol as p
from ..contract.language.reading import put_word
from ..session import importing, jobs, models, service
from ..settings import addon
from ..settings import generate as generate_settings
from ..ui import prompt as ui_prompt
from ..ui.parts import DIALOG, in_dialog
from .base import BaseOperator, JobOperator


def model_of(settings: bpy.types.PropertyGroup) -> dict[str, str]:
    """The job's prior and refiner. Raises ValueError where no model was named."""
    if settings.model == "STABLE_DIFFUSION":
        finer = work.SDXL_REFINER if models.takes_refiner(settings) else ""
        return {"prior": models.stable_diffusion(settings), "refiner": finer}
    if settings.model == "SDXL_BASE":
        # the backend takes the refiner that belongs to it, if it is here
        return {"prior": work.SDXL, "refiner": ""}
    if settings.model == "FOLDER":
        prior, refiner = addon.setting("prior_folder", ""), addon.setting("refiner_folder", "")
        if not prior:
            raise ValueError("Choose a model's file or folder")
        return {"prior": bpy.path.abspath(prior), "refiner": bpy.path.abspath(refiner) if refiner else ""}
    return {"prior": work.BUILT_IN, "refiner": ""}


def make_job(settings: bpy.types.PropertyGroup, seed: int | None = None) -> p.Job:
    """What the panel says, with this seed or its own. Raises ValueError with a sentence for the user."""
    seed = settings.seed if seed is None else seed
    folder = work.new_folder(addon.jobs_folder(), settings.prompt, seed)
    return work.new_job(
        folder,
        settings.prompt,
        settings.negative,
        seed=seed,
        preset=settings.preset,
        stages=generate_settings.stages(settings),
        overrides=generate_settings.overrides(settings),
        device=addon.setting("device", "auto"),
        threads=addon.setting("threads", 0),
        checkpoint_seconds=float(addon.setting("checkpoint_seconds", 60.0)),
        snapshot_seconds=8.0,
        snapshot_faces=5_000 if addon.setting("live_mesh", True) else 0,
        **generate_settings.beside(settings),
        **model_of(settings),
    )


def add_to_queue(context: bpy.types.Context) -> None:
    """The panel's job, or its candidates: all for the same place, since one is to be chosen. Raises ValueError."""
    settings = context.scene.dreamflow
    count = int(settings.candidates)
    first = min(settings.seed, p.MAX_SEED + 1 - count)
    made = [make_job(settings, first + number) for number in range(count)]
    target = importing.import_target(context, jobs.open_entries())
    if count > 1:
        target[CANDIDATE] = work.new_id()
    for job in made:
        jobs.add(job, target)


class DREAMFLOW_OT_generate(BaseOperator):
    bl_idname = "dreamflow.generate"
    bl_label = "Generate"
    bl_description = "Make a textured mesh from the prompt while you keep working in Blender"
    bl_options = {"REGISTER"}  # noqa: RUF012

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        return cls.not_ready(context) or models.cannot_generate_reason(context.scene.dreamflow)

    @classmethod
    def not_ready(cls, context: bpy.types.Context) -> str:
        """Why nothing at all can be made now."""
        if context.scene is None or context.scene.library is not None:
            return "Switch to a scene of this file first"
        if service.python() is None:
            return "Set up DreamFlow first"
        if bpy.app.background and context.mode != "OBJECT":  # where the result is imported at the end
            return "Switch to Object Mode first"
        return ""

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if bpy.app.background:
            return self.execute(context)
        try:
            add_to_queue(context)
        except ValueError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        return {"FINISHED"}

    def run(self, context: bpy.types.Context) -> None:
        """Blocking, for scripts."""
        interpreter = service.python()
        assert interpreter is not None, "poll"
        job, target = make_job(context.scene.dreamflow), importing.import_target(context)
        client = service.make_client(interpreter, addon.jobs_folder())
        try:
            work.run_job(client, job, "new", lambda event: None)
        finally:
            client.close()
        bpy.ops.dreamflow.import_result(
            "EXEC_DEFAULT", True, folder=job.folder, height=target["height"], location=target["location"]
        )


class DREAMFLOW_OT_add_object(BaseOperator):
    bl_idname = "dreamflow.add_object"
    bl_label = "DreamFlow"
    bl_description = "Make a textured mesh from a prompt; the other settings are in the sidebar"
    bl_options = {"REGISTER"}  # noqa: RUF012

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        return DREAMFLOW_OT_generate.not_ready(context)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if bpy.app.background:
            return self.execute(context)
        return context.window_manager.invoke_props_dialog(self, width=DIALOG, confirm_text="Generate")

    def draw(self, context: bpy.types.Context) -> None:
        with in_dialog(DIALOG):
            ui_prompt.draw_dialog(self.layout, context)

    def run(self, context: bpy.types.Context) -> None:
        reason = DREAMFLOW_OT_generate.unavailable(context)
        if reason:
            raise ValueError(reason)
        bpy.ops.dreamflow.generate("INVOKE_DEFAULT")


class DREAMFLOW_OT_roll_seed(BaseOperator):
    bl_idname = "dreamflow.roll_seed"
    bl_label = "Random seed"
    bl_description = "Pick a random seed"
    bl_options = {"UNDO"}  # noqa: RUF012

    def run(self, context: bpy.types.Context) -> None:
        context.scene.dreamflow.seed = random.randrange(100_000)


class DREAMFLOW_OT_put_word(BaseOperator):
    bl_idname = "dreamflow.put_word"
    bl_label = "Use this word"
    bl_description = "Put this word into the prompt"
    bl_options = {"UNDO"}  # noqa: RUF012

    kind: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    colour: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    refine: BoolProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    def run(self, context: bpy.types.Context) -> None:
        if not (self.kind or self.colour):  # as from the search
            raise ValueError("Choose a word in the menus Things and Colors")
        settings = context.scene.dreamflow_refine if self.refine else context.scene.dreamflow
        settings.prompt = put_word(settings.prompt, models.known_kinds(), self.kind, self.colour)


class RunningJobOperator(BaseOperator):
    """A button of the running job."""

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        if jobs.running is None:
            return "No job is running"
        return "The job is already stopping" if jobs.running.asked in ("finish", "discard") else ""


class DREAMFLOW_OT_pause_job(RunningJobOperator):
    bl_idname = "dreamflow.pause_job"
    bl_label = "Pause"
    bl_description = "Pause after this step, or resume"

    def run(self, context: bpy.types.Context) -> None:
        jobs.pause_or_resume()


class DREAMFLOW_OT_finish_job(RunningJobOperator):
    bl_idname = "dreamflow.finish_job"
    bl_label = "Stop here"
    bl_description = "End the job now and import the object as it is, with its texture"

    def run(self, context: bpy.types.Context) -> None:
        jobs.finish()


class DREAMFLOW_OT_discard_job(RunningJobOperator):
    bl_idname = "dreamflow.discard_job"
    bl_label = "Discard"
    bl_description = "Stop the job and delete everything it has made"
    confirm = ("Discard this job?", "Everything it has made so far will be deleted.", "Discard")

    def run(self, context: bpy.types.Context) -> None:
        jobs.discard()


class DREAMFLOW_OT_move_queued(JobOperator):
    bl_idname = "dreamflow.move_queued"
    bl_label = "Move in queue"
    bl_description = "Move this job up or down in the queue"

    by: IntProperty(options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def run(self, context: bpy.types.Context) -> None:
        jobs.get_store().move(self.entry().job.id, self.by)


class DREAMFLOW_OT_remove_queued(JobOperator):
    bl_idname = "dreamflow.remove_queued"
    bl_label = "Remove from queue"
    bl_description = "Remove this job from the queue"

    def run(self, context: bpy.types.Context) -> None:
        if self.entry().state == "waiting":
            jobs.forget(self.job_id)


CLASSES = (
    DREAMFLOW_OT_generate,
    DREAMFLOW_OT_add_object,
    DREAMFLOW_OT_roll_seed,
    DREAMFLOW_OT_put_word,
    DREAMFLOW_OT_pause_job,
    DREAMFLOW_OT_finish_job,
    DREAMFLOW_OT_discard_job,
    DREAMFLOW_OT_move_queued,
    DREAMFLOW_OT_remove_queued,
)
