"""Generate, and what can be done to the job at work and to those that wait."""

# ruff: noqa: N801  Blender's own naming

import random

import bpy
from bpy.props import IntProperty, StringProperty

from ..backlog import work
from ..contract import protocol as p
from ..session import importing, jobs, service
from ..settings import addon
from ..settings import generate as generate_settings


def model_of(settings: bpy.types.PropertyGroup) -> dict[str, str]:
    """The job's prior and refiner. Raises ValueError where no folder was named."""
    if settings.model == "STABLE_DIFFUSION":
        return {"prior": work.STABLE_DIFFUSION, "refiner": work.SDXL_REFINER if settings.refine else ""}
    if settings.model == "FOLDER":
        prior, refiner = addon.setting("prior_folder", ""), addon.setting("refiner_folder", "")
        if not prior:
            raise ValueError("Name the model's folder in the preferences.")
        return {"prior": bpy.path.abspath(prior), "refiner": bpy.path.abspath(refiner) if refiner else ""}
    return {"prior": work.BUILT_IN, "refiner": ""}


def make_job(settings: bpy.types.PropertyGroup) -> p.Job:
    """What the panel says. Raises ValueError with a sentence for the user."""
    folder = work.new_folder(addon.jobs_folder(), settings.prompt, settings.seed)
    return work.new_job(
        folder,
        settings.prompt,
        settings.negative,
        seed=settings.seed,
        preset=settings.preset,
        stages=generate_settings.stages(settings),
        overrides=generate_settings.overrides(settings),
        device=addon.setting("device", "auto"),
        threads=addon.setting("threads", 0),
        checkpoint_seconds=float(addon.setting("checkpoint_seconds", 60.0)),
        snapshot_seconds=8.0,
        snapshot_faces=5_000 if addon.setting("live_mesh", True) else 0,
        **model_of(settings),
    )


class DREAMFLOW_OT_generate(bpy.types.Operator):
    bl_idname = "dreamflow.generate"
    bl_label = "Generate"
    bl_description = "Make a textured mesh from the prompt; Blender stays usable meanwhile"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if context.scene is None or context.scene.library is not None:
            cls.poll_message_set("Open a scene of this file first")
            return False
        if service.python() is None:
            cls.poll_message_set("Set DreamFlow up first")
            return False
        if not context.scene.dreamflow.prompt.strip():
            cls.poll_message_set("Say what to make: the prompt is empty")
            return False
        return True

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if bpy.app.background:
            return self.execute(context)
        try:
            job = make_job(context.scene.dreamflow)
        except ValueError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        jobs.add(job, importing.place(context))
        return {"FINISHED"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        """Blocking, for scripts."""
        interpreter = service.python()
        assert interpreter is not None, "poll"
        try:
            job = make_job(context.scene.dreamflow)
            client = service.make_client(interpreter, addon.jobs_folder())
            try:
                work.run_job(client, job, "new", lambda event: None)
            finally:
                client.close()
        except (ValueError, work.JobFailed, work.JobCancelled) as error:
            self.report({"ERROR"}, str(error) or "The job was stopped")
            return {"CANCELLED"}
        place = importing.place(context)
        bpy.ops.dreamflow.import_result(
            "EXEC_DEFAULT", True, folder=job.folder, height=place["height"], location=place["location"]
        )
        return {"FINISHED"}


class DREAMFLOW_OT_roll_seed(bpy.types.Operator):
    bl_idname = "dreamflow.roll_seed"
    bl_label = "Another seed"
    bl_description = "Pick a seed by chance"
    bl_options = {"UNDO", "INTERNAL"}  # noqa: RUF012

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.dreamflow.seed = random.randrange(100_000)
        return {"FINISHED"}


class _AtWork(bpy.types.Operator):
    """Buttons for the job at work."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if jobs.running is None:
            cls.poll_message_set("No job is at work")
            return False
        if jobs.running.asked in ("finish", "discard"):
            cls.poll_message_set("It is stopping")
            return False
        return True


class DREAMFLOW_OT_pause_job(_AtWork):
    bl_idname = "dreamflow.pause_job"
    bl_label = "Pause"
    bl_description = "Stand still after this step, or go on again"
    bl_options = {"INTERNAL"}  # noqa: RUF012

    def execute(self, context: bpy.types.Context) -> set[str]:
        jobs.pause_or_continue()
        return {"FINISHED"}


class DREAMFLOW_OT_finish_job(_AtWork):
    bl_idname = "dreamflow.finish_job"
    bl_label = "Stop here"
    bl_description = "End now, and import what there is: baked, with its texture"
    bl_options = {"INTERNAL"}  # noqa: RUF012

    def execute(self, context: bpy.types.Context) -> set[str]:
        jobs.finish()
        return {"FINISHED"}


class DREAMFLOW_OT_discard_job(_AtWork):
    bl_idname = "dreamflow.discard_job"
    bl_label = "Discard"
    bl_description = "Stop, and delete everything that this job has made"
    bl_options = {"INTERNAL"}  # noqa: RUF012

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(
            self,
            event,
            title="Discard this job?",
            message="What it has made so far is deleted.",
            confirm_text="Discard",
        )

    def execute(self, context: bpy.types.Context) -> set[str]:
        jobs.discard()
        return {"FINISHED"}


class DREAMFLOW_OT_move_queued(bpy.types.Operator):
    bl_idname = "dreamflow.move_queued"
    bl_label = "Move in the queue"
    bl_description = "Earlier or later"
    bl_options = {"INTERNAL"}  # noqa: RUF012

    number: StringProperty(options={"SKIP_SAVE"})  # type: ignore[valid-type]
    by: IntProperty(options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        jobs.need_store().move(self.number, self.by)
        return {"FINISHED"}


class DREAMFLOW_OT_remove_queued(bpy.types.Operator):
    bl_idname = "dreamflow.remove_queued"
    bl_label = "Remove from the queue"
    bl_options = {"INTERNAL"}  # noqa: RUF012

    number: StringProperty(options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = jobs.need_store().find(self.number)
        if entry is not None and entry.state == "waiting":
            jobs.forget(entry.job.id)
        return {"FINISHED"}


CLASSES = (
    DREAMFLOW_OT_generate,
    DREAMFLOW_OT_roll_seed,
    DREAMFLOW_OT_pause_job,
    DREAMFLOW_OT_finish_job,
    DREAMFLOW_OT_discard_job,
    DREAMFLOW_OT_move_queued,
    DREAMFLOW_OT_remove_queued,
)
