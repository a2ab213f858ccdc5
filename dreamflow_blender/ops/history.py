"""The buttons of a job that has ended, of the queue, and of an error message."""

# ruff: noqa: N801  Blender's own naming

import random
from dataclasses import replace

import bpy
from bpy.app.translations import pgettext_iface as translated
from bpy.props import BoolProperty, StringProperty

from ..backlog import bug_report
from ..backlog.work import read_settings
from ..contract import protocol as p
from ..session import jobs, models, tasks
from ..settings import addon
from ..settings.generate import set_beside
from .base import BaseOperator, JobOperator


class DREAMFLOW_OT_resume_job(JobOperator):
    bl_idname = "dreamflow.resume_job"
    bl_label = "Resume"
    bl_description = "Continue this job where it stopped"

    def run(self, context: bpy.types.Context) -> None:
        jobs.requeue(self.entry(), "resume")


class DREAMFLOW_OT_leave_job(JobOperator):
    bl_idname = "dreamflow.leave_job"
    bl_label = "Not now"
    bl_description = "Do not resume now; the job stays in the history, where it can be resumed later"

    def run(self, context: bpy.types.Context) -> None:
        jobs.get_store().put(replace(self.entry(), state="cancelled"))


class DREAMFLOW_OT_vary_job(JobOperator):
    bl_idname = "dreamflow.vary_job"
    bl_label = "Vary"
    bl_description = "Run this job again with a random seed"

    def run(self, context: bpy.types.Context) -> None:
        jobs.requeue(self.entry(), "new", seed=random.randrange(100_000))


class DREAMFLOW_OT_retry_smaller(JobOperator):
    bl_idname = "dreamflow.retry_smaller"
    bl_label = "Use less memory"
    bl_description = "Start again with images of half the size in the stage that ran out of memory"

    stage: StringProperty(options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def run(self, context: bpy.types.Context) -> None:
        entry = self.entry()
        size = read_settings(entry.folder).get(self.stage, {}).get("size")
        if not isinstance(size, int) or size < 128:
            raise ValueError("The images cannot be made smaller: choose the preset Draft")
        jobs.requeue(entry, "new", overrides={**entry.job.overrides, f"{self.stage}.size": size // 2})


class DREAMFLOW_OT_use_settings(JobOperator):
    bl_idname = "dreamflow.use_settings"
    bl_label = "Use this prompt"
    bl_description = "Copy this job's prompt, seed, preset, model and LoRAs into the panel"
    bl_options = {"UNDO"}  # noqa: RUF012

    def run(self, context: bpy.types.Context) -> None:
        job, settings = self.entry().job, context.scene.dreamflow
        for name in ("prompt", "negative", "seed", "preset"):
            setattr(settings, name, getattr(job, name))
        if job.kind == "generate":
            settings.model = models.model_named(job.prior) or settings.model
            set_beside(settings, job)


class DREAMFLOW_OT_star_job(JobOperator):
    bl_idname = "dreamflow.star_job"
    bl_label = "Favorite"
    bl_description = "Make this job a favorite, or no longer"

    def run(self, context: bpy.types.Context) -> None:
        entry = self.entry()
        jobs.get_store().put(replace(entry, star=not entry.star))


class DREAMFLOW_OT_open_folder(JobOperator):
    bl_idname = "dreamflow.open_folder"
    bl_label = "Open folder"
    bl_description = "Show this job's files in the file browser"

    def run(self, context: bpy.types.Context) -> None:
        folder = self.entry().folder
        if not folder.is_dir():
            raise ValueError(translated("The folder {folder} no longer exists").format(folder=folder))
        bpy.ops.wm.path_open(filepath=str(folder))


class DREAMFLOW_OT_delete_job(JobOperator):
    bl_idname = "dreamflow.delete_job"
    bl_label = "Delete"
    bl_description = "Remove this job from the history and delete its files; objects in your scenes stay"
    confirm = ("Delete this job?", "Its files will be deleted. Objects in your scenes stay.", "Delete")

    def run(self, context: bpy.types.Context) -> None:
        jobs.forget(self.entry().job.id)


class DREAMFLOW_OT_dismiss(BaseOperator):
    bl_idname = "dreamflow.dismiss"
    bl_label = "Dismiss"
    bl_description = "Dismiss this message"

    def run(self, context: bpy.types.Context) -> None:
        jobs.dismiss()
        tasks.dismiss()


class DREAMFLOW_OT_resume_queue(BaseOperator):
    bl_idname = "dreamflow.resume_queue"
    bl_label = "Start the queue"
    bl_description = "Start the waiting jobs"

    def run(self, context: bpy.types.Context) -> None:
        jobs.resume_queue()


class DREAMFLOW_OT_copy_report(BaseOperator):
    bl_idname = "dreamflow.copy_report"
    bl_label = "Copy report"
    bl_description = "Copy versions, device and the end of the log to the clipboard, for a bug report"

    with_prompt: BoolProperty(name="Include the prompt")  # type: ignore[valid-type]

    def run(self, context: bpy.types.Context) -> str:
        versions = {"DreamFlow": addon.VERSION, "Blender": bpy.app.version_string}
        job = ready = None
        if tasks.problem is not None:
            failed = p.Failed("setup", tasks.problem.message, tasks.problem.todo, tasks.problem.log)
        elif jobs.problem is not None:
            failed, ready = jobs.problem.failed, jobs.last_ready
            job = jobs.problem.entry.job if jobs.problem.entry else None
        else:  # for what looks wrong without an error
            failed, ready = p.Failed("none", "No error."), jobs.last_ready
        text = bug_report.make(failed, versions, job, ready, self.with_prompt)
        context.window_manager.clipboard = text
        return "Copied the report to the clipboard: paste it into an issue of the repository"


CLASSES = (
    DREAMFLOW_OT_resume_job,
    DREAMFLOW_OT_leave_job,
    DREAMFLOW_OT_vary_job,
    DREAMFLOW_OT_retry_smaller,
    DREAMFLOW_OT_use_settings,
    DREAMFLOW_OT_star_job,
    DREAMFLOW_OT_open_folder,
    DREAMFLOW_OT_delete_job,
    DREAMFLOW_OT_dismiss,
    DREAMFLOW_OT_resume_queue,
    DREAMFLOW_OT_copy_report,
)
