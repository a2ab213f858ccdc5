"""The settings of this machine: folders, device, limits."""

# ruff: noqa: N801  Blender's own naming

# No postponed annotations here: Blender reads the properties from them.

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as translated
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty

from .settings import addon
from .translations import OWN

DEVICE_ITEMS = [
    ("auto", "Automatic", "The fastest device that works"),
    ("cuda", "NVIDIA graphics card", "Compute with CUDA"),
    ("mps", "Apple GPU", "Compute with Metal"),
    ("cpu", "CPU", "Slow, but always available"),
]


def tell(context: bpy.types.Context, text: str) -> None:
    """In a popup, where there is a window; a property's update has no other way."""
    if not bpy.app.background:
        context.window_manager.popup_menu(lambda menu, _: menu.layout.label(text=text), icon="ERROR")


def keep_absolute(name: str) -> Callable[[Any, bpy.types.Context], None]:
    """Preferences outlive the file: a path that is relative to it is made absolute when it is set."""

    def update(preferences: Any, context: bpy.types.Context) -> None:
        path = getattr(preferences, name)
        if not path.startswith("//"):
            return
        if bpy.data.filepath:
            setattr(preferences, name, str(Path(bpy.path.abspath(path)).resolve()))
        else:
            setattr(preferences, name, "")
            tell(
                context,
                translated(
                    "“{path}” is relative to this file, which is not saved: choose a full path."
                ).format(path=path),
            )

    return update


class DREAMFLOW_AP_preferences(bpy.types.AddonPreferences):
    bl_idname = addon.NAME

    environment_folder: StringProperty(  # type: ignore[valid-type]
        name="Backend",
        translation_context=OWN,
        description="Folder for DreamFlow's own Python, several gigabytes; empty = in Blender's user folder",
        subtype="DIR_PATH",
        update=keep_absolute("environment_folder"),
    )
    models_folder: StringProperty(  # type: ignore[valid-type]
        name="Models",
        description="Folder for downloaded models; empty = in Blender's user folder",
        subtype="DIR_PATH",
        update=keep_absolute("models_folder"),
    )
    jobs_folder: StringProperty(  # type: ignore[valid-type]
        name="Jobs",
        description="Folder for the files of every job; empty = in Blender's user folder",
        subtype="DIR_PATH",
        update=keep_absolute("jobs_folder"),
    )
    python: StringProperty(  # type: ignore[valid-type]
        name="Python",
        description="Python 3.11 to 3.13 to set up with; empty = found on this machine, or downloaded",
        subtype="FILE_PATH",
        update=keep_absolute("python"),
    )
    torch_index: StringProperty(  # type: ignore[valid-type]
        name="Torch from",
        description="Package index, or cpu, cu126, cu130; empty = the build of torch for this graphics card",
    )
    proxy: StringProperty(  # type: ignore[valid-type]
        name="Proxy",
        translation_context=OWN,
        description="Such as http://user:password@host:port; empty = the system's proxy",
        subtype="PASSWORD",
    )
    prior_folder: StringProperty(  # type: ignore[valid-type]
        name="Own model",
        description="Stable Diffusion or SDXL as a .safetensors file or a folder in diffusers' layout, for Own model",
        update=keep_absolute("prior_folder"),
    )
    refiner_folder: StringProperty(  # type: ignore[valid-type]
        name="Own refiner",
        description="An SDXL refiner as a .safetensors file or a folder; empty = the model itself refines",
        update=keep_absolute("refiner_folder"),
    )
    device: EnumProperty(  # type: ignore[valid-type]
        name="Device", description="Compute device", items=DEVICE_ITEMS, default="auto"
    )
    threads: IntProperty(  # type: ignore[valid-type]
        name="Threads", description="CPU threads; 0 = automatic", min=0, max=1024
    )
    memory_gb: FloatProperty(  # type: ignore[valid-type]
        name="Memory limit (GB)",
        description="Maximum graphics memory that DreamFlow uses; 0 = no limit",
        min=0.0,
        max=1024.0,
        precision=1,
    )
    idle_minutes: FloatProperty(  # type: ignore[valid-type]
        name="Free the graphics card after (min)",
        description="End the backend when it has been idle for this long; 0 = at once",
        default=5.0,
        min=0.0,
        max=1440.0,
        precision=1,
    )
    checkpoint_seconds: FloatProperty(  # type: ignore[valid-type]
        name="Save progress every (s)",
        description="How often a running job is saved, so that it can be resumed after a crash",
        default=60.0,
        min=5.0,
        max=3600.0,
        precision=0,
    )
    live_mesh: BoolProperty(  # type: ignore[valid-type]
        name="Show the growing mesh",
        description="Show the mesh of the running job in the viewport, where the result will be",
        default=True,
    )
    picture_size: FloatProperty(  # type: ignore[valid-type]
        name="Picture size",
        description="Height of the running job's picture in the sidebar, in button heights; 0 = no picture",
        default=10.0,
        min=0.0,
        max=24.0,
        precision=0,
    )
    auto_import: BoolProperty(  # type: ignore[valid-type]
        name="Import when finished",
        description="Import the object when its job has finished; where its file is not open any more, use History",
        default=True,
    )
    mark_asset: BoolProperty(  # type: ignore[valid-type]
        name="Mark as asset",
        description="Mark results as assets, tagged with the words of their prompts",
        default=False,
    )
    asset_author: StringProperty(  # type: ignore[valid-type]
        name="Author", description="Author of results that are marked as assets; empty = none"
    )
    asset_license: StringProperty(  # type: ignore[valid-type]
        name="License", description="License of results that are marked as assets; empty = none"
    )
    collection: StringProperty(  # type: ignore[valid-type]
        name="Collection",
        description="Collection for results; empty = the scene's own collection",
        default="DreamFlow",
    )

    def draw(self, context: bpy.types.Context) -> None:
        from .ui.setup import draw_preferences  # it draws; this module only keeps values

        draw_preferences(self.layout, self)


def register() -> None:
    bpy.utils.register_class(DREAMFLOW_AP_preferences)


def unregister() -> None:
    bpy.utils.unregister_class(DREAMFLOW_AP_preferences)
