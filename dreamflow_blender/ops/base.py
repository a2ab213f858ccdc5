"""What every operator of ours shares: why it is off, what it confirms, how it reports an error."""

# No postponed annotations here: Blender reads the properties from them.

import bpy
from bpy.app.translations import pgettext_iface as translated
from bpy.props import StringProperty

from ..backlog.store import Entry
from ..backlog.work import JobCancelled, JobFailed
from ..client.steps import SetupError
from ..scene.objects import CannotImport
from ..session import jobs, tasks

ERRORS = (ValueError, OSError, SetupError, CannotImport, JobFailed, JobCancelled)


class BaseOperator(bpy.types.Operator):
    """A subclass says `unavailable` and `run`; what `run` returns is reported, and so are ERRORS."""

    bl_options: set[str] = set()  # noqa: RUF012  not INTERNAL: the search would not find it
    confirm: tuple[str, str, str] | None = None  # title, message, button

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        """Why the button is off; "" where it is on."""
        return ""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        reason = cls.unavailable(context)
        if reason:
            cls.poll_message_set(translated(reason))
        return not reason

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if self.confirm is None or bpy.app.background:
            return self.execute(context)
        title, message, button = self.confirm
        return context.window_manager.invoke_confirm(
            self, event, title=title, message=message, confirm_text=button
        )

    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            report = self.run(context)
            if not jobs.has_timer():
                tasks.run_to_end()
        except ERRORS as error:
            self.report({"ERROR"}, translated(str(error) or "The job was stopped"))
            return {"CANCELLED"}
        if report:
            self.report({"INFO"}, translated(report))
        return {"FINISHED"}

    def run(self, context: bpy.types.Context) -> str | None:
        """Do it. Raises one of ERRORS with a sentence for the user."""
        raise NotImplementedError


class JobOperator(BaseOperator):
    """A button on one job of the queue or the history."""

    job_id: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    def entry(self) -> Entry:
        """Raises ValueError where the job is gone, or none was named, as from the search."""
        if not self.job_id:
            raise ValueError("Choose a job under Queue or History in the sidebar")
        entry = jobs.get_store().find(self.job_id)
        if entry is None:
            raise ValueError("This job no longer exists")
        return entry
