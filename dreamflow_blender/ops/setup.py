"""Set up, check and download: what is done once, or when something is wrong."""

# ruff: noqa: N801  Blender's own naming

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated
from bpy.props import BoolProperty, StringProperty

from ..client import command
from ..client.background import Stop
from ..client.process import proxy_variables
from ..session import jobs, service, tasks
from ..session.findings import checks, in_folder, models
from ..session.models import STATED
from ..settings import addon
from ..setup import environment
from .base import BaseOperator


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

    Raises ValueError before Set up.
    """
    interpreter = service.python()
    if interpreter is None:
        raise ValueError("Set up DreamFlow first.")
    folder, more = root or addon.user_folder(), service.variables()
    more |= proxy_variables(options().proxy)

    def work(stop: Stop) -> Iterator[dict[str, Any]]:
        try:
            yield from command.run_backend(interpreter, addon.CODE, folder, arguments, stop, **more)
        except OSError as error:
            what = f"{error.filename or folder} cannot be written or read: {error.strerror or error}."
            raise command.CommandError(what, "Choose another folder in the preferences.") from error

    return work


def _stop_worker() -> None:
    """End the worker before its environment changes; waiting jobs would start it again, so the queue pauses."""
    jobs.stop_worker()
    jobs.queue_paused = bool(jobs.get_store().waiting())


def _changed(said: list[Any]) -> None:
    """The environment has changed: what was found of the old one no longer holds."""
    service.forget_state()
    checks.clear()


class TaskOperator(BaseOperator):
    """A button that begins a task."""

    online = False

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        if tasks.current is not None:
            return "Wait for the running task, or cancel it"
        return addon.offline_reason() if cls.online else ""

    def execute(self, context: bpy.types.Context) -> set[str]:
        ended = super().execute(context)
        jobs.wake()
        return ended


class DREAMFLOW_OT_set_up(TaskOperator):
    bl_idname = "dreamflow.set_up"
    bl_label = "Set up DreamFlow"
    bl_description = (
        "Install Python and the packages that DreamFlow needs; this needs no administrator rights"
    )
    online = True

    repair: BoolProperty(options={"SKIP_SAVE", "HIDDEN"})  # type: ignore[valid-type]

    @classmethod
    def description(cls, context: bpy.types.Context, properties: bpy.types.OperatorProperties) -> str:
        repair = "Install everything again; the old installation is used until the new one is complete"
        return repair if properties.repair else cls.bl_description

    def run(self, context: bpy.types.Context) -> None:
        folder, chosen, repair = addon.environment_folder(), options(), self.repair
        title = "Repairing" if repair else "Setting up"
        tasks.begin(
            "repair" if repair else "setup",
            title,
            lambda stop: environment.install(folder, addon.REQUIREMENTS, chosen, stop, repair),
            _changed,
        )


class DREAMFLOW_OT_remove_setup(TaskOperator):
    bl_idname = "dreamflow.remove_setup"
    bl_label = "Remove"
    bl_description = "Delete the Python that DreamFlow installed; jobs and models stay"

    confirm = ("Remove DreamFlow's Python?", "Jobs and models stay.", "Remove")

    def run(self, context: bpy.types.Context) -> None:
        _stop_worker()
        folder = addon.environment_folder()
        tasks.begin("remove", "Removing", lambda stop: environment.remove(folder, stop), _changed)


class BackendOperator(TaskOperator):
    """A task that the backend itself runs."""

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        return "Set up DreamFlow first" if service.python() is None else super().unavailable(context)


class DREAMFLOW_OT_check_setup(BackendOperator):
    bl_idname = "dreamflow.check_setup"
    bl_label = "Check setup"
    bl_description = "Check Python, the graphics card, its driver, kernels, models and disk space"

    def run(self, context: bpy.types.Context) -> None:
        work = backend("doctor", "--json", root=addon.jobs_folder())  # jobs run in this folder
        tasks.begin("check", "Checking", work, _keep_checks)


def _keep_checks(said: list[dict[str, Any]]) -> None:
    checks[:] = [item for item in said if item.get("event") == "check"]
    if not models and any(check.get("fix") == "models" for check in checks):
        _look_again()  # so that Fetch can show the licence


class DREAMFLOW_OT_list_models(BackendOperator):
    bl_idname = "dreamflow.list_models"
    bl_label = "Refresh models"
    bl_description = "List which models are installed, and how large the others are"

    def run(self, context: bpy.types.Context) -> None:
        tasks.begin("models", "Listing models", backend("models", "--json"), _keep_models)


def _keep_models(said: list[dict[str, Any]]) -> None:
    models[:] = [item for item in said if item.get("event") == "model"]


class DREAMFLOW_OT_find_models(BackendOperator):
    bl_idname = "dreamflow.find_models"
    bl_label = "Find models"
    bl_description = "Search a folder of models, such as ComfyUI's or A1111's, for what can be used here"

    directory: StringProperty(subtype="DIR_PATH", options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def run(self, context: bpy.types.Context) -> None:
        folder = bpy.path.abspath(self.directory)
        if not folder or not Path(folder).is_dir():
            raise ValueError("Choose a folder of models")
        in_folder.clear()
        tasks.begin("find", "Searching for models", backend("models", "find", folder, "--json"), _keep_found)


def _keep_found(said: list[dict[str, Any]]) -> None:
    in_folder[:] = [item for item in said if item.get("event") == "found" and item.get("option")]


class DREAMFLOW_OT_fetch_model(BackendOperator):
    bl_idname = "dreamflow.fetch_model"
    bl_label = "Fetch"
    bl_description = "Download this model; a cancelled one continues where it stopped"
    online = True

    model: StringProperty(options={"SKIP_SAVE"})  # type: ignore[valid-type]

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if not self.model:  # as from the search
            return self.execute(context)
        known = next((model for model in models if model.get("name") == self.model), {})
        size, licence = float(known.get("size", 0)) / 1e9, known.get("licence", "see its page")
        if not known and self.model in STATED:
            _, size, licence = STATED[self.model]
        stated = translated("About {size} GB. License: {licence}").format(size=f"{size:.1f}", licence=licence)
        message = stated if size else "Several gigabytes."
        return context.window_manager.invoke_confirm(
            self,
            event,
            title=translated("Fetch {name}?").format(name=self.model),
            message=message,
            confirm_text="Fetch",
        )

    def run(self, context: bpy.types.Context) -> None:
        if not self.model:
            raise ValueError("Choose a model under Models in the preferences")
        tasks.begin("fetch", "Fetching", backend("models", "fetch", self.model, "--json"), _fetched)


def _fetched(said: list[dict[str, Any]]) -> None:
    here = {item.get("name") for item in said if item.get("event") == "fetched"}
    checks[:] = [check for check in checks if check.get("fix") != "models" or check.get("name") not in here]
    _look_again()


def _look_again() -> None:
    tasks.begin("models", "Listing models", backend("models", "--json"), _keep_models)


class DREAMFLOW_OT_cancel_task(BaseOperator):
    bl_idname = "dreamflow.cancel_task"
    bl_label = "Cancel"
    bl_description = "Stop the running task; what was installed before still works"

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        if tasks.current is None:
            return "No task is running"
        return "The task is already stopping" if tasks.current.cancelling else ""

    def run(self, context: bpy.types.Context) -> None:
        tasks.cancel()


class DREAMFLOW_OT_open_log(BaseOperator):
    bl_idname = "dreamflow.open_log"
    bl_label = "Open log"
    bl_description = "Open the log of the installation"

    def run(self, context: bpy.types.Context) -> None:
        log = addon.environment_folder() / environment.LOG
        if not log.is_file():
            raise ValueError("There is no log yet")
        bpy.ops.wm.path_open(filepath=str(log))


class DREAMFLOW_OT_open_preferences(BaseOperator):
    bl_idname = "dreamflow.open_preferences"
    bl_label = "Preferences"
    bl_description = "Open DreamFlow's preferences: folders, device, models, setup check"

    def run(self, context: bpy.types.Context) -> None:
        bpy.ops.preferences.addon_show(module=addon.NAME)


class DREAMFLOW_OT_open_documentation(BaseOperator):
    bl_idname = "dreamflow.open_documentation"
    bl_label = "Documentation"
    bl_description = "Open the documentation, which is on this machine"

    def run(self, context: bpy.types.Context) -> None:
        bpy.ops.wm.path_open(filepath=str(addon.DOCUMENTATION))


class DREAMFLOW_OT_open_credits(BaseOperator):
    bl_idname = "dreamflow.open_credits"
    bl_label = "Credits"
    bl_description = "Open the list of whose models the built-in model also learned from"

    def run(self, context: bpy.types.Context) -> None:
        bpy.ops.wm.path_open(filepath=str(addon.CREDITS))


CLASSES = (
    DREAMFLOW_OT_set_up,
    DREAMFLOW_OT_remove_setup,
    DREAMFLOW_OT_check_setup,
    DREAMFLOW_OT_list_models,
    DREAMFLOW_OT_find_models,
    DREAMFLOW_OT_fetch_model,
    DREAMFLOW_OT_cancel_task,
    DREAMFLOW_OT_open_log,
    DREAMFLOW_OT_open_preferences,
    DREAMFLOW_OT_open_documentation,
    DREAMFLOW_OT_open_credits,
)
