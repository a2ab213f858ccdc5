"""The backend as the preferences have it: which Python, which folders, which limits; and its client."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..client.client import Client
from ..settings import addon
from ..setup import environment
from ..setup.folder import python_in

PYTHON = "DREAMFLOW_PYTHON"  # an environment variable that names the backend's Python, before all else
_LOOK_AGAIN = 3.0  # seconds

client: Client | None = None  # the window's; batch has its own
_client_for: tuple[object, ...] = ()  # what it was made with
_state: tuple[float, environment.State] | None = None  # when it was looked at, and what was seen


def state() -> environment.State:
    """Of the backend's environment; looked at now and then, since the panel asks with every redraw."""
    global _state
    now = time.monotonic()
    if _state is None or now - _state[0] > _LOOK_AGAIN:
        _state = (now, _look())
    return _state[1]


def forget_state() -> None:
    """It has changed: look again at the next call."""
    global _state
    _state = None


def _look() -> environment.State:
    stated = _stated_python()
    if stated is not None:
        return environment.State("ready", stated)
    return environment.look(addon.environment_folder(), addon.REQUIREMENTS)


def _stated_python() -> Path | None:
    """By the environment variable, or the .venv of a clone."""
    if os.environ.get(PYTHON):
        return Path(os.environ[PYTHON])
    beside = python_in(addon.CODE / ".venv")
    return beside if beside.is_file() else None


def python() -> Path | None:
    """The interpreter for the worker; None where nothing is set up."""
    return state().python


def variables() -> dict[str, str]:
    """Environment variables for the backend."""
    found = {"HF_HOME": str(addon.models_folder())}
    if addon.setting("models_folder", "") == "" and os.environ.get("HF_HOME"):
        del found["HF_HOME"]  # the user's own store, shared with other programs
    limit = float(addon.setting("memory_gb", 0.0))
    if limit > 0:
        found["DREAMFLOW_MEMORY_GB"] = f"{limit:g}"
    return found


def make_client(interpreter: Path, jobs: Path) -> Client:
    """A client for this Python, whose jobs lie under `jobs`; nothing is started yet."""
    return Client(interpreter, addon.CODE, jobs, environment=variables())


def get_client(interpreter: Path) -> Client:
    """The window's; a new one where the preferences have changed what it was made with."""
    global client, _client_for
    wanted = (interpreter, addon.jobs_folder(), tuple(sorted(variables().items())))
    if client is None or wanted != _client_for:
        if client is not None:
            client.close_soon()
        client, _client_for = make_client(interpreter, addon.jobs_folder()), wanted
    return client


def free_the_device() -> None:
    """End a worker that has had nothing to do for as long as the preferences say."""
    seconds = 60 * float(addon.setting("idle_minutes", 5.0))
    if client is not None and client.alive and client.idle_seconds > seconds:
        client.close_soon()


def close() -> None:
    """End the worker, and wait for it."""
    global client
    if client is not None:
        client.close()
        client = None
