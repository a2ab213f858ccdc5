"""Where this add-on stands: its name in Blender, its preferences, its folders."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import bpy

# holds `backend` and `dreamflow_blender`; nothing is written there
CODE = Path(__file__).resolve().parents[2]
REQUIREMENTS = CODE / "requirements.txt"
DOCUMENTATION = CODE / "documentation.txt"  # in the zip
if not DOCUMENTATION.is_file():
    DOCUMENTATION = CODE / "docs" / "blender.md"  # in a clone
CREDITS = CODE / "backend" / "mini" / "base" / "CREDITS.txt"  # of the built-in model
VERSION = str(tomllib.loads((CODE / "blender_manifest.toml").read_text(encoding="utf-8"))["version"])


def _name() -> str:
    """The extension's module, "bl_ext.REPOSITORY.dreamflow".

    This package may also be imported by itself, by batch.py as a bare script: then it is the extension that its
    folder belongs to or, from a clone, any that is enabled; and where there is none, this package.
    """
    package = __package__.rpartition(".")[0]  # `dreamflow_blender`, under its name here
    if "." in package:
        return package.rpartition(".")[0]
    for repository in bpy.context.preferences.extensions.repos:
        if Path(repository.directory).resolve() == CODE.parent:
            return f"bl_ext.{repository.module}.{CODE.name}"
    modules = (entry.module for entry in bpy.context.preferences.addons)
    enabled = (module for module in modules if module.endswith(".dreamflow"))
    return next(enabled, package)


NAME = _name()


def preferences() -> bpy.types.AddonPreferences | None:
    """As preferences.py defines them; None where the add-on is not enabled."""
    found = bpy.context.preferences.addons.get(NAME)
    return found.preferences if found else None


def user_folder() -> Path:
    """Ours to write in: extension_path_user, or, for a package that is no extension, Blender's data files."""
    try:
        return Path(bpy.utils.extension_path_user(NAME))
    except ValueError:
        return Path(bpy.utils.user_resource("DATAFILES", path="dreamflow"))


def folder_of(name: str, default: str) -> Path:
    """A folder that the preferences may name, else one of ours."""
    stated = setting(name, "")
    return Path(bpy.path.abspath(stated)).resolve() if stated else user_folder() / default


def environment_folder() -> Path:
    return folder_of("environment_folder", "environment")


def models_folder() -> Path:
    return folder_of("models_folder", "models")


def jobs_folder() -> Path:
    return folder_of("jobs_folder", "jobs")


def setting(name: str, default: Any) -> Any:
    """A preference, or what it is where the add-on is not enabled."""
    found = preferences()
    return getattr(found, name) if found else default


def offline_reason() -> str:
    """Why nothing may be fetched now; empty where it may."""
    if bpy.app.online_access:
        return ""
    if bpy.app.online_access_override:
        return "Blender was started in offline mode: start it without --offline-mode"
    return "Allow online access first: Preferences > System > Network"
