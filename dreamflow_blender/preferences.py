"""What belongs to this machine: folders, device, limits; and the buttons that set DreamFlow up."""

# ruff: noqa: N801  Blender's own naming

# No postponed annotations here: Blender reads the properties from them.

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty

from .settings import addon

DEVICE_ITEMS = [
    ("auto", "Automatic", "The fastest that works"),
    ("cuda", "NVIDIA card", "CUDA"),
    ("mps", "Apple GPU", "Metal"),
    ("cpu", "Processor", "Slow but always there"),
]


class DREAMFLOW_AP_preferences(bpy.types.AddonPreferences):
    bl_idname = addon.NAME

    environment_folder: StringProperty(  # type: ignore[valid-type]
        name="Backend",
        description="Where DreamFlow's own Python lives, some gigabytes; empty: in Blender's user folder",
        subtype="DIR_PATH",
    )
    models_folder: StringProperty(  # type: ignore[valid-type]
        name="Models",
        description="Where fetched models are kept; empty: in Blender's user folder",
        subtype="DIR_PATH",
    )
    jobs_folder: StringProperty(  # type: ignore[valid-type]
        name="Jobs",
        description="Where every job keeps its files; empty: in Blender's user folder",
        subtype="DIR_PATH",
    )
    python: StringProperty(  # type: ignore[valid-type]
        name="Python",
        description="A Python 3.11 to 3.13 to build on; empty: found on this machine, or fetched",
        subtype="FILE_PATH",
    )
    torch_index: StringProperty(  # type: ignore[valid-type]
        name="Torch from",
        description="A package index, or cpu, cu126, cu130; empty: torch in the build that fits the card",
    )
    proxy: StringProperty(  # type: ignore[valid-type]
        name="Proxy",
        description="As in http://user:word@host:port; empty: as the system has it",
        subtype="PASSWORD",
    )
    prior_folder: StringProperty(  # type: ignore[valid-type]
        name="Own model",
        description="A Stable Diffusion 2.1 folder in diffusers' layout, for the model Own folder",
        subtype="DIR_PATH",
    )
    refiner_folder: StringProperty(  # type: ignore[valid-type]
        name="Own refiner",
        description="An SDXL refiner's folder in diffusers' layout; empty: the model refines itself",
        subtype="DIR_PATH",
    )
    device: EnumProperty(  # type: ignore[valid-type]
        name="Device", description="What does the work", items=DEVICE_ITEMS, default="auto"
    )
    threads: IntProperty(  # type: ignore[valid-type]
        name="Threads", description="Of the processor; 0: automatic", min=0, max=1024
    )
    memory_gb: FloatProperty(  # type: ignore[valid-type]
        name="Memory limit (GB)",
        description="Of the card, for DreamFlow at most; 0: no limit",
        min=0.0,
        max=1024.0,
        precision=1,
    )
    idle_minutes: FloatProperty(  # type: ignore[valid-type]
        name="Free the card after (min)",
        description="The backend ends when it has had nothing to do for this long; 0: at once",
        default=5.0,
        min=0.0,
        max=1440.0,
        precision=1,
    )
    checkpoint_seconds: FloatProperty(  # type: ignore[valid-type]
        name="Save progress every (s)",
        description="How much work a crash can cost",
        default=60.0,
        min=5.0,
        max=3600.0,
        precision=0,
    )
    live_mesh: BoolProperty(  # type: ignore[valid-type]
        name="Show the mesh while it grows",
        description="In the viewport, in the place of the result",
        default=True,
    )
    auto_import: BoolProperty(  # type: ignore[valid-type]
        name="Import when finished",
        description="Bring the object in by itself when its file is still open; else with the button in History",
        default=True,
    )
    mark_asset: BoolProperty(  # type: ignore[valid-type]
        name="Mark as asset", description="With the prompt's words as tags, and a thumbnail", default=False
    )
    collection: StringProperty(  # type: ignore[valid-type]
        name="Collection",
        description="Results go here; empty: the scene's own collection",
        default="DreamFlow",
    )

    def draw(self, context: bpy.types.Context) -> None:
        from .ui.setup import draw_preferences  # it draws; this module only keeps values

        draw_preferences(self.layout, self)


def register() -> None:
    bpy.utils.register_class(DREAMFLOW_AP_preferences)


def unregister() -> None:
    bpy.utils.unregister_class(DREAMFLOW_AP_preferences)
