"""What can be done with a job that is over: again, anew, look, delete; and with what went wrong."""

# ruff: noqa: N801  Blender's own naming

import random
from dataclasses import replace

import bpy
from bpy.props import BoolProperty, StringProperty

from ..backlog import bug_report
from ..backlog.store import Entry
from ..backlog.work import read_settings
from ..contract import protocol as p
from ..session import jobs, tasks
from ..settings import addon


class _OfEntry(bpy.types.Operator):
    """Buttons on one job of the history."""

    bl_options = {"INTERNAL"}  # noqa: RUF012

    number: StringProperty(options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def entry(self) -> Entry | None:
        found = jobs.need_store().find(self.number)
        if found is None:
            self.report({"ERROR"}, "This job is not there any more")
        return found


class DREAMFLOW_OT_resume_job(_OfEntry):
    bl_idname = "dreamflow.resume_job"
    bl_label = "Resume"
    bl_description = "Go on where it stopped"

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry()
        if entry is None:
            return {"CANCELLED"}
        jobs.again(entry, "resume")
        return {"FINISHED"}


class DREAMFLOW_OT_leave_job(_OfEntry):
    bl_idname = "dreamflow.leave_job"
    bl_label = "Leave it"
    bl_description = "Not now; the job stays in the history, from where it can be resumed"

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry()
        if entry is None:
            return {"CANCELLED"}
        jobs.need_store().put(replace(entry, state="cancelled"))
        return {"FINISHED"}


class DREAMFLOW_OT_vary_job(_OfEntry):
    bl_idname = "dreamflow.vary_job"
    bl_label = "Vary"
    bl_description = "The same with another seed"

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry()
        if entry is None:
            return {"CANCELLED"}
        jobs.again(entry, "new", seed=random.randrange(100_000))
        return {"FINISHED"}


class DREAMFLOW_OT_retry_smaller(_OfEntry):
    bl_idname = "dreamflow.retry_smaller"
    bl_label = "Retry with less memory"
    bl_description = "From the start, with pictures of half the size in the stage that did not fit"

    stage: StringProperty(options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry()
        if entry is None:
            return {"CANCELLED"}
        size = read_settings(entry.folder).get(self.stage, {}).get("size")
        if not isinstance(size, int) or size < 128:
            self.report({"ERROR"}, "It cannot be made smaller: choose the preset Draft")
            return {"CANCELLED"}
        jobs.again(entry, "new", overrides={**entry.job.overrides, f"{self.stage}.size": size // 2})
        return {"FINISHED"}


class DREAMFLOW_OT_use_settings(_OfEntry):
    bl_idname = "dreamflow.use_settings"
    bl_label = "Use its prompt and seed"
    bl_description = "Put this job's prompt, seed and preset into the panel"
    bl_options = {"INTERNAL", "UNDO"}  # noqa: RUF012

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry()
        if entry is None:
            return {"CANCELLED"}
        settings = context.scene.dreamflow
        for name in ("prompt", "negative", "seed", "preset"):
            setattr(settings, name, getattr(entry.job, name))
        return {"FINISHED"}


class DREAMFLOW_OT_open_folder(_OfEntry):
    bl_idname = "dreamflow.open_folder"
    bl_label = "Open folder"
    bl_description = "Show the job's files"

    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry()
        if entry is None:
            return {"CANCELLED"}
        if not entry.folder.is_dir():
            self.report({"ERROR"}, f"{entry.folder} is not there any more")
            return {"CANCELLED"}
        bpy.ops.wm.path_open(filepath=str(entry.folder))
        return {"FINISHED"}


class DREAMFLOW_OT_delete_job(_OfEntry):
    bl_idname = "dreamflow.delete_job"
    bl_label = "Delete"
    bl_description = "Forget this job and delete its files; objects in your scenes stay"

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(
            self,
            event,
            title="Delete this job?",
            message="Its files go. Objects in your scenes stay.",
            confirm_text="Delete",
        )

    def execute(self, context: bpy.types.Context) -> set[str]:
        if self.entry() is None:
            return {"CANCELLED"}
        jobs.forget(self.number)
        return {"FINISHED"}


class DREAMFLOW_OT_dismiss(bpy.types.Operator):
    bl_idname = "dreamflow.dismiss"
    bl_label = "Dismiss"
    bl_description = "Take this message away"
    bl_options = {"INTERNAL"}  # noqa: RUF012

    def execute(self, context: bpy.types.Context) -> set[str]:
        jobs.dismiss()
        tasks.dismiss()
        return {"FINISHED"}


class DREAMFLOW_OT_go_on(bpy.types.Operator):
    bl_idname = "dreamflow.go_on"
    bl_label = "Start the queue"
    bl_description = "Do what waits"
    bl_options = {"INTERNAL"}  # noqa: RUF012

    def execute(self, context: bpy.types.Context) -> set[str]:
        jobs.release()
        return {"FINISHED"}


class DREAMFLOW_OT_copy_report(bpy.types.Operator):
    bl_idname = "dreamflow.copy_report"
    bl_label = "Copy report"
    bl_description = "Versions, device and the end of the log, for a bug report"
    bl_options = {"INTERNAL"}  # noqa: RUF012

    with_prompt: BoolProperty(name="With the prompt")  # type: ignore[valid-type]

    def execute(self, context: bpy.types.Context) -> set[str]:
        versions = {"DreamFlow": addon.VERSION, "Blender": bpy.app.version_string}
        if tasks.trouble is not None:
            failed = p.Failed("setup", tasks.trouble.message, tasks.trouble.todo, tasks.trouble.log)
            text = bug_report.make(failed, versions, None, None, False)
        elif jobs.trouble is not None:
            job = jobs.trouble.entry.job if jobs.trouble.entry else None
            text = bug_report.make(jobs.trouble.failed, versions, job, jobs.last_ready, self.with_prompt)
        else:
            self.report({"WARNING"}, "There is nothing to report")
            return {"CANCELLED"}
        context.window_manager.clipboard = text
        self.report({"INFO"}, "The report is on the clipboard")
        return {"FINISHED"}


CLASSES = (
    DREAMFLOW_OT_resume_job,
    DREAMFLOW_OT_leave_job,
    DREAMFLOW_OT_vary_job,
    DREAMFLOW_OT_retry_smaller,
    DREAMFLOW_OT_use_settings,
    DREAMFLOW_OT_open_folder,
    DREAMFLOW_OT_delete_job,
    DREAMFLOW_OT_dismiss,
    DREAMFLOW_OT_go_on,
    DREAMFLOW_OT_copy_report,
)
