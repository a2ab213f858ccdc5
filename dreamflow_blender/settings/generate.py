"""What belongs to the file: the next object's description, as one group on the scene."""

# ruff: noqa: N801  Blender's own naming

from pathlib import Path
from typing import Any

import bpy
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    EnumProperty,
    FloatProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from ..contract.language import trigger
from ..contract.protocol import MAX_PROMPT, MAX_SEED, PRESETS, Job
from ..contract.settings import read_setting
from ..translations import OWN

PRESET_ITEMS = [
    ("draft", "Draft", "A first look within minutes"),
    ("fast", "Standard", "Full size on a shortened schedule"),
    ("paper", "Best", "The paper's full schedule and sizes; the longest"),
]
assert {item[0] for item in PRESET_ITEMS} == set(PRESETS)

MODEL_ITEMS = [
    ("BUILT_IN", "Built-in", "Makes the things in the menu Things in twelve colours; needs no download"),
    (
        "STABLE_DIFFUSION",
        "Stable Diffusion",
        "Any prompt; needs its weights, and a graphics card to be quick",
    ),
    (
        "SDXL_BASE",
        "Stable Diffusion XL",
        "Any prompt, with more detail; needs its weights, and a graphics card of 12 GB or more",
    ),
    (
        "FOLDER",
        "Own model",
        "A model of your own, as a .safetensors file or a folder, named in the preferences",
    ),
]
TEXTURE_ITEMS = [
    ("PRESET", "Preset", "The size set by the preset"),
    *((str(size), f"{size} px", f"{size} by {size} pixels") for size in (512, 1024, 2048, 4096)),
]
CANDIDATE_ITEMS = [
    ("1", "One object", "Make the object of this seed"),
    ("4", "Choose from 4", "Begin four seeds and show them early: choose what to finish"),
    ("9", "Choose from 9", "Begin nine seeds and show them early: choose what to finish"),
]
PLACE_ITEMS = [
    ("CURSOR", "3D cursor", "At the 3D cursor where it was moved; otherwise next to the other objects"),
    ("ORIGIN", "World origin", "At the origin of the world"),
]


class DREAMFLOW_PG_lora(bpy.types.PropertyGroup):
    file: StringProperty(  # type: ignore[valid-type]
        name="File",
        description="A LoRA's or IP-Adapter's .safetensors file, or a ControlNet's folder",
        subtype="FILE_PATH",
    )
    weight: FloatProperty(  # type: ignore[valid-type]
        name="Weight",
        description="How much it counts; 0 = nothing, below 0 = its opposite",
        default=1.0,
        min=-2.0,
        max=2.0,
        precision=2,
        step=5,
    )
    picture: StringProperty(  # type: ignore[valid-type]
        name="Picture",
        description="A picture that the model looks at beside the prompt",
        subtype="FILE_PATH",
    )


class DREAMFLOW_PG_settings(bpy.types.PropertyGroup):
    prompt: StringProperty(  # type: ignore[valid-type]
        name="Prompt",
        translation_context=OWN,
        description="What to make, in a few words",
        default="a red mug",
        maxlen=MAX_PROMPT,
        options={"TEXTEDIT_UPDATE"},
    )
    negative: StringProperty(  # type: ignore[valid-type]
        name="Negative",
        translation_context=OWN,
        description="What the object should not look like",
        maxlen=MAX_PROMPT,
    )
    seed: IntProperty(  # type: ignore[valid-type]
        name="Seed",
        description="The same seed and settings give the same object; another seed gives another one",
        default=42,
        min=0,
        max=MAX_SEED,
    )
    preset: EnumProperty(  # type: ignore[valid-type]
        name="Preset", description="Quality and duration", items=PRESET_ITEMS, default="draft"
    )
    model: EnumProperty(  # type: ignore[valid-type]
        name="Model",
        description="Image model that guides the shape and the texture",
        items=MODEL_ITEMS,
        default="BUILT_IN",
    )
    loras: CollectionProperty(type=DREAMFLOW_PG_lora)  # type: ignore[valid-type]
    active_lora: IntProperty(name="Active LoRA")  # type: ignore[valid-type]
    candidates: EnumProperty(  # type: ignore[valid-type]
        name="Candidates", description="How many seeds to begin", items=CANDIDATE_ITEMS, default="1"
    )
    geometry: BoolProperty(  # type: ignore[valid-type]
        name="Tune the shape", description="Sharpen the shape after the first outline", default=True
    )
    texture: BoolProperty(  # type: ignore[valid-type]
        name="Tune the texture", description="Repaint the finished shape", default=True
    )
    refine: BoolProperty(  # type: ignore[valid-type]
        name="Refine", description="Add detail to the texture at high resolution", default=True
    )
    faces: IntProperty(  # type: ignore[valid-type]
        name="Faces",
        description="Maximum number of triangles; 0 = set by the preset",
        min=0,
        max=1_000_000,
    )
    texture_size: EnumProperty(  # type: ignore[valid-type]
        name="Texture", description="Size of the texture in pixels", items=TEXTURE_ITEMS, default="PRESET"
    )
    height: FloatProperty(  # type: ignore[valid-type]
        name="Height",
        description="Height of the object; 0 = unscaled, about 1 m across",
        default=1.0,
        min=0.0,
        soft_max=10.0,
        max=1000.0,
        subtype="DISTANCE",
        unit="LENGTH",
    )
    place: EnumProperty(  # type: ignore[valid-type]
        name="Place", description="Where to put the object", items=PLACE_ITEMS, default="CURSOR"
    )
    extra: StringProperty(  # type: ignore[valid-type]
        name="More",
        description="Override preset settings (expert), such as nerf.levels=400 nerf.guidance_scale=10",
    )


def read_extra(text: str) -> dict[str, Any]:
    """ "nerf.levels=400 ..." as a Job wants it. Raises ValueError with a sentence for the user."""
    found: dict[str, Any] = {}
    for part in text.replace(",", " ").split():
        if not part.partition("=")[1] or "." not in part.partition("=")[0]:
            raise ValueError(f"Write more settings as nerf.levels=400, not {part!r}.")
        name, value = read_setting(part)
        found[name] = value
    return found


def overrides(settings: Any) -> dict[str, Any]:
    """ "stage.setting" -> value, as a Job wants them. Raises ValueError with a sentence for the user."""
    found = read_extra(settings.extra)
    if settings.faces:
        found["delivery.max_faces"] = max(settings.faces, 4)
    if settings.texture_size != "PRESET":
        found["delivery.texture_size"] = int(settings.texture_size)
    return found


def stages(settings: Any) -> tuple[str, ...]:
    return ("nerf", *(name for name in ("geometry", "texture", "refine") if getattr(settings, name)))


def beside(settings: Any) -> dict[str, Any]:
    """What a Job is told of the list; the built-in model reads none of it."""
    return {} if settings.model == "BUILT_IN" else read_list(settings.loras)


def read_list(items: Any) -> dict[str, Any]:
    """lora, control, image and image_adapter, as a Job wants them."""
    found: dict[str, Any] = {"lora": (), "control": (), "image": "", "image_adapter": ""}
    for item in items:
        path, weight = bpy.path.abspath(item.file), f"{round(item.weight, 4):g}"
        kind = trigger.kind_of(Path(path))
        if kind == "picture":
            found |= {"image": f"{bpy.path.abspath(item.picture)}:{weight}", "image_adapter": path}
        elif kind == "image":
            found["image"] = f"{path}:{weight}"
        else:
            found[kind] += (f"{path}:{weight}",)
    return found


def set_beside(settings: Any, job: Job) -> None:
    """The list as a job states it."""
    settings.loras.clear()
    for text in (*job.lora, *job.control):
        _add(settings, text, "file")
    if job.image_adapter:
        _add(settings, job.image, "picture").file = job.image_adapter
    elif job.image:
        _add(settings, job.image, "file")


def _add(settings: Any, text: str, name: str) -> Any:
    """FILE or FILE:WEIGHT, whose FILE is the item's `name`."""
    path, _, weight = text.rpartition(":")
    item = settings.loras.add()
    try:
        item.weight = float(weight)
        setattr(item, name, path)
    except ValueError:  # FILE alone, perhaps C:\\FILE
        setattr(item, name, text)
    return item


def register() -> None:
    bpy.utils.register_class(DREAMFLOW_PG_lora)
    bpy.utils.register_class(DREAMFLOW_PG_settings)
    bpy.types.Scene.dreamflow = PointerProperty(type=DREAMFLOW_PG_settings)


def unregister() -> None:
    del bpy.types.Scene.dreamflow
    bpy.utils.unregister_class(DREAMFLOW_PG_settings)
    bpy.utils.unregister_class(DREAMFLOW_PG_lora)
