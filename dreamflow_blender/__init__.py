"""DreamFlow for Blender: a prompt becomes a textured mesh in the scene.

The package imports without `bpy`, so that tests and the backend can share `contract`; `register`, which Blender
calls, imports the rest. For pipelines, see api.py: from bl_ext.user_default.dreamflow.dreamflow_blender import
generate.
"""

from __future__ import annotations

from typing import Any


def register() -> None:
    """Called by Blender when the extension is enabled."""
    from . import registration

    registration.register()


def unregister() -> None:
    """Called by Blender when the extension is disabled, updated or removed: the worker ends first."""
    from . import registration

    registration.unregister()


def generate(prompt: str, **arguments: Any) -> Any:
    """Make an object from a prompt, blocking, and return it. The arguments are those of api.generate."""
    from . import api

    return api.generate(prompt, **arguments)
