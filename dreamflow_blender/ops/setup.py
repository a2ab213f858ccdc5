"""Set up, check, fetch: what is done once, or when something is amiss."""

# ruff: noqa: N801  Blender's own naming

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bpy
from bpy.props import BoolProperty, StringProperty

from ..client import command
from ..client.background import Stop
from ..client.process import proxy_variables
from ..session import jobs, service, tasks
from ..session.findings import checks, models
from ..settings import addon
from ..setup import environment


def options() -> environment.Options:
    """What the preferences say, for a thread that must not read them itself."""
    return environment.Options(
        python=bpy.path.abspath(addon.setting("python", "")),
        torch_index=addon.setting("torch_index", "").strip(),
        proxy=addon.setting("proxy", "").strip(),
        fallback=sys.executable,
    )


def backend(*arguments: str, root: Path | None = None) -> Callable[[Stop], Iterator[dict[str, Any]]]:
    """`python -m backend ARGUMENTS`, in `root` (default: our folder), as a task's work.

    Raises RuntimeError before Set up.
    """
    interpreter = service.python()
    if interpreter is None:
        raise RuntimeError("Set DreamFlow up first.")
    folder, more = root or addon.user_folder(), service.variables()
    more |= proxy_variables(options().proxy)

    def work(stop: Stop) -> Iterator[dict[str, Any]]:
        try:
            yield from command.run_backend(interpreter, addon.CODE, folder, arguments, stop, **more)
        except OSError as error:
            what = f"{error.filename or folder} cannot be written or read: {error.strerror or error}."
            raise command.CommandError(what, "Choose another folder in the preferences.") from error

    return work


def _let_go() -> None:
    """End the worker before its environment changes; what waits would begin it again, so it waits on."""
    jobs.let_go()
    jobs.held = bool(jobs.need_store().waiting())


def _changed(said: list[Any]) -> None:
    """The environment is another: what was found of the old one is no longer true."""
    service.forget_state()
    checks.clear()


class _Task(bpy.types.Operator):
    """A button that begins a task."""

    bl_options = {"INTERNAL"}  # noqa: RUF012
    online = False

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if tasks.current is not None:
            cls.poll_message_set("Wait for what is running, or cancel it")
            return False
        refusal = addon.online_refusal() if cls.online else ""
        if refusal:
            cls.poll_message_set(refusal)
            return False
        return True


class DREAMFLOW_OT_set_up(_Task):
    bl_idname = "dreamflow.set_up"
    bl_label = "Set up DreamFlow"
    bl_description = (
        "Install DreamFlow's own Python and its packages into a folder of ours; no administrator needed"
    )
    online = True

    repair: BoolProperty(options={"SKIP_SAVE", "HIDDEN"})  # type: ignore[valid-type]

    @classmethod
    def description(cls, context: bpy.types.Context, properties: bpy.types.OperatorProperties) -> str:
        again = "Install everything anew; the old one works until the new one is whole"
        return again if properties.repair else cls.bl_description

    def execute(self, context: bpy.types.Context) -> set[str]:
        folder, chosen, repair = addon.environment_folder(), options(), self.repair
        title = "Repairing" if repair else "Setting up"
        tasks.begin(
            "repair" if repair else "setup",
            title,
            lambda stop: environment.install(folder, addon.REQUIREMENTS, chosen, stop, repair),
            _changed,
        )
        jobs.wake()
        return {"FINISHED"}


class DREAMFLOW_OT_remove_setup(_Task):
    bl_idname = "dreamflow.remove_setup"
    bl_label = "Remove"
    bl_description = "Delete DreamFlow's own Python; jobs and models stay"

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(
            self,
            event,
            title="Remove DreamFlow's Python?",
            message="Jobs and models stay.",
            confirm_text="Remove",
        )

    def execute(self, context: bpy.types.Context) -> set[str]:
        _let_go()
        folder = addon.environment_folder()
        tasks.begin("remove", "Removing", lambda stop: environment.remove(folder, stop), _changed)
        jobs.wake()
        return {"FINISHED"}


class _BackendTask(_Task):
    """A task that the backend itself does."""

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if service.python() is None:
            cls.poll_message_set("Set DreamFlow up first")
            return False
        return super().poll(context)


class DREAMFLOW_OT_check_setup(_BackendTask):
    bl_idname = "dreamflow.check_setup"
    bl_label = "Check setup"
    bl_description = "Look at Python, the card, its driver, kernels, models and the disk"

    def execute(self, context: bpy.types.Context) -> set[str]:
        work = backend("doctor", "--json", root=addon.jobs_folder())  # the folder for jobs is where it runs
        tasks.begin("check", "Checking", work, _keep_checks)
        jobs.wake()
        return {"FINISHED"}


def _keep_checks(said: list[dict[str, Any]]) -> None:
    checks[:] = [item for item in said if item.get("event") == "check"]
    if not models and any(check.get("fix") == "models" for check in checks):
        _look_again()  # whoever presses Fetch beside a finding is told its licence


class DREAMFLOW_OT_list_models(_BackendTask):
    bl_idname = "dreamflow.list_models"
    bl_label = "Look for models"
    bl_description = "See which models are here, and how large the others are"

    def execute(self, context: bpy.types.Context) -> set[str]:
        tasks.begin("models", "Looking for models", backend("models", "--json"), _keep_models)
        jobs.wake()
        return {"FINISHED"}


def _keep_models(said: list[dict[str, Any]]) -> None:
    models[:] = [item for item in said if item.get("event") == "model"]


class DREAMFLOW_OT_fetch_model(_BackendTask):
    bl_idname = "dreamflow.fetch_model"
    bl_label = "Fetch"
    bl_description = "Download this model; it may be stopped and goes on where it was"
    online = True

    model: StringProperty(options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        known = next((model for model in models if model.get("name") == self.model), {})
        size, licence = float(known.get("size", 0)) / 1e9, known.get("licence", "see its page")
        message = f"About {size:.1f} GB. Licence: {licence}" if known else "Some gigabytes."
        return context.window_manager.invoke_confirm(
            self, event, title=f"Fetch {self.model}?", message=message, confirm_text="Fetch"
        )

    def execute(self, context: bpy.types.Context) -> set[str]:
        wanted = [self.model] if self.model else []
        tasks.begin("fetch", "Fetching", backend("models", "fetch", *wanted, "--json"), _fetched)
        jobs.wake()
        return {"FINISHED"}


def _fetched(said: list[dict[str, Any]]) -> None:
    here = {item.get("name") for item in said if item.get("event") == "fetched"}
    checks[:] = [check for check in checks if check.get("fix") != "models" or check.get("name") not in here]
    _look_again()


def _look_again() -> None:
    tasks.begin("models", "Looking for models", backend("models", "--json"), _keep_models)


class DREAMFLOW_OT_cancel_task(bpy.types.Operator):
    bl_idname = "dreamflow.cancel_task"
    bl_label = "Cancel"
    bl_description = "Stop; what was there before goes on working"
    bl_options = {"INTERNAL"}  # noqa: RUF012

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return tasks.current is not None and not tasks.current.cancelling

    def execute(self, context: bpy.types.Context) -> set[str]:
        tasks.cancel()
        return {"FINISHED"}


class DREAMFLOW_OT_open_log(bpy.types.Operator):
    bl_idname = "dreamflow.open_log"
    bl_label = "Open log"
    bl_description = "Everything that the installation has said"
    bl_options = {"INTERNAL"}  # noqa: RUF012

    def execute(self, context: bpy.types.Context) -> set[str]:
        logs = [addon.environment_folder() / name for name in environment.LOGS]
        log = max(filter(Path.is_file, logs), key=lambda path: path.stat().st_mtime, default=None)
        if log is None:
            self.report({"WARNING"}, "There is no log")
            return {"CANCELLED"}
        bpy.ops.wm.path_open(filepath=str(log))
        return {"FINISHED"}


class DREAMFLOW_OT_open_preferences(bpy.types.Operator):
    bl_idname = "dreamflow.open_preferences"
    bl_label = "Preferences"
    bl_description = "Folders, device, models, Check setup"
    bl_options = {"INTERNAL"}  # noqa: RUF012

    def execute(self, context: bpy.types.Context) -> set[str]:
        bpy.ops.preferences.addon_show(module=addon.NAME)
        return {"FINISHED"}


CLASSES = (
    DREAMFLOW_OT_set_up,
    DREAMFLOW_OT_remove_setup,
    DREAMFLOW_OT_check_setup,
    DREAMFLOW_OT_list_models,
    DREAMFLOW_OT_fetch_model,
    DREAMFLOW_OT_cancel_task,
    DREAMFLOW_OT_open_log,
    DREAMFLOW_OT_open_preferences,
)
