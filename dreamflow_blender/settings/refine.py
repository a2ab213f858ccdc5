"""The settings of the next refinement, as one group on the scene."""

# ruff: noqa: N801  Blender's own naming

# No postponed annotations here: Blender reads the properties from them.

from types import SimpleNamespace
from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from ..contract.protocol import MAX_PROMPT, MAX_SEED, MAX_STRENGTH, MIN_STRENGTH
from ..translations import OWN
from .generate import PRESET_ITEMS, read_list

MODEL_ITEMS = [
    (
        "SDXL",
        "SDXL refiner",
        "Any prompt, photorealistic; needs its weights, and a graphics card to be quick",
    ),
    ("BUILT_IN", "Built-in", "Knows the things in the menu Things in twelve colours; needs no download"),
    (
        "FOLDER",
        "Own model",
        "A model of your own, as a .safetensors file or a folder, named in the preferences",
    ),
]
FACES_ITEMS = [
    ("ALL", "All faces", "The whole object"),
    ("SELECTED", "Selected faces", "Only the faces selected in Edit Mode; all others do not change at all"),
    ("SLOT", "Active material", "The faces of the active material slot"),
    ("GROUP", "Vertex group", "The active vertex group as a soft mask: its weights limit the change"),
]
FRONT_ITEMS = [
    ("OBJECT", "Its own front", "The object faces its own -Y, as seen in Blender's front view"),
    ("CAMERA", "Camera", "The object faces the scene's camera"),
    ("VIEW", "This view", "The object faces this 3D view"),
]
KEEP_ITEMS = [
    ("NEW", "New material", "A new material; the old one stays in the file"),
    ("IMAGE", "New image", "A new image in the old material: objects that share the material change too"),
]
WITHOUT_UVS_ITEMS = [
    (
        "COPY",
        "Make a copy",
        "The result is a copy with its modifiers applied; the original is hidden, and does not change",
    ),
    ("UNWRAP", "Unwrap the object", "Unwrap the object itself first: it keeps its modifiers and its rig"),
]
SIZE_ITEMS = [
    ("OWN", "As it is", "The size of the present image; without one, the preset's size"),
    *((str(size), f"{size} px", f"{size} by {size} pixels") for size in (1024, 2048, 4096)),
]
STRENGTHS = (
    (0.14, "cleans up"),
    (0.24, "sharpens"),
    (0.34, "adds detail"),
    (0.44, "changes details"),
    (1, "repaints"),
)


class DREAMFLOW_PG_refine(bpy.types.PropertyGroup):
    prompt: StringProperty(  # type: ignore[valid-type]
        name="Prompt",
        translation_context=OWN,
        description="What the object is, in a few words",
        maxlen=MAX_PROMPT,
        options={"TEXTEDIT_UPDATE"},
    )
    prompt_of: StringProperty(options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    negative: StringProperty(  # type: ignore[valid-type]
        name="Negative",
        translation_context=OWN,
        description="What the object should not look like",
        maxlen=MAX_PROMPT,
    )
    strength: FloatProperty(  # type: ignore[valid-type]
        name="Strength",
        description="0.1 cleans up, 0.2 sharpens, 0.3 adds detail, 0.5 repaints",
        default=0.3,
        min=MIN_STRENGTH,
        max=MAX_STRENGTH,
        step=5,
        precision=2,
        subtype="FACTOR",
    )
    preset: EnumProperty(  # type: ignore[valid-type]
        name="Preset", description="Quality and duration", items=PRESET_ITEMS, default="draft"
    )
    model: EnumProperty(  # type: ignore[valid-type]
        name="Model", description="Image model that adds the detail", items=MODEL_ITEMS, default="SDXL"
    )
    texture_size: EnumProperty(  # type: ignore[valid-type]
        name="Texture", description="Size of the new texture in pixels", items=SIZE_ITEMS, default="OWN"
    )
    keep_uvs: BoolProperty(  # type: ignore[valid-type]
        name="Keep my UVs",
        description="Use the object's UV map where it is suitable; otherwise a second UV map is added",
        default=True,
    )
    faces: EnumProperty(  # type: ignore[valid-type]
        name="Change", description="Which faces may change", items=FACES_ITEMS, default="ALL"
    )
    front: EnumProperty(  # type: ignore[valid-type]
        name="Front", description="Which side of the object is its front", items=FRONT_ITEMS, default="OBJECT"
    )
    keep: EnumProperty(  # type: ignore[valid-type]
        name="Result", description="Where the result goes", items=KEEP_ITEMS, default="NEW"
    )
    without_uvs: EnumProperty(  # type: ignore[valid-type]
        name="Without UVs",
        description="What to do with an object that has no UVs, and modifiers that make faces",
        items=WITHOUT_UVS_ITEMS,
        default="COPY",
    )
    from_scratch: BoolProperty(  # type: ignore[valid-type]
        name="Repaint from scratch first",
        description="Make a new texture, then refine it: for objects without usable colours",
        default=False,
    )
    seed: IntProperty(  # type: ignore[valid-type]
        name="Seed", description="Another seed gives other details", default=42, min=0, max=MAX_SEED
    )
    advanced: BoolProperty(  # type: ignore[valid-type]
        name="Advanced",
        description="Show settings that are rarely needed",
        default=False,
        options={"SKIP_SAVE"},
    )
    extra: StringProperty(  # type: ignore[valid-type]
        name="More",
        description="Override preset settings (expert), such as refine.levels=40 refine.size=512",
    )


def strength_word(settings: Any) -> str:
    """What the strength means."""
    return next(word for most, word in STRENGTHS if settings.strength < most)


def frozen(settings: Any) -> SimpleNamespace:
    """What they say now, and as `beside` what the list says, which is for a model of the user's own."""
    said = {name: getattr(settings, name) for name in DREAMFLOW_PG_refine.__annotations__}
    own = settings.model == "FOLDER"
    return SimpleNamespace(**said, beside=read_list(settings.id_data.dreamflow.loras) if own else {})


def register() -> None:
    bpy.utils.register_class(DREAMFLOW_PG_refine)
    bpy.types.Scene.dreamflow_refine = PointerProperty(type=DREAMFLOW_PG_refine)


def unregister() -> None:
    del bpy.types.Scene.dreamflow_refine
    bpy.utils.unregister_class(DREAMFLOW_PG_refine)
