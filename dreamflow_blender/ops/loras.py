"""Buttons of a model of the user's own and of the list of what is added to it."""

# ruff: noqa: N801  Blender's own naming

from pathlib import Path

import bpy
from bpy.props import CollectionProperty, StringProperty

from ..contract.language import trigger
from ..contract.protocol import MAX_PROMPT
from ..session import loras
from ..settings import addon
from .base import BaseOperator

SHOWN = ";".join(("*.safetensors", "config.json", *(f"*{end}" for end in trigger.PICTURES)))


class _Browser(BaseOperator):
    """A file browser that shows folders and .safetensors files; without a window the path is given."""

    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})  # type: ignore[valid-type]
    filter_glob: StringProperty(default="*.safetensors", options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if bpy.app.background:
            return self.execute(context)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}


class DREAMFLOW_OT_choose_model(_Browser):
    bl_idname = "dreamflow.choose_model"
    bl_label = "Choose a model"
    bl_description = (
        "Choose a model's .safetensors file, or open its folder in diffusers' layout and accept it"
    )

    setting: StringProperty(default="prior_folder", options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    def run(self, context: bpy.types.Context) -> None:
        path = Path(bpy.path.abspath(self.filepath)) if self.filepath else None
        if path is not None and not path.exists() and path.parent.joinpath("model_index.json").is_file():
            path = path.parent  # accepted from inside the folder, with a name left in the browser's field
        if path is not None and path.name == "model_index.json":
            path = path.parent
        fits = path is not None and (
            (path / "model_index.json").is_file() or path.suffix.lower() == ".safetensors"
        )
        preferences = addon.preferences()
        if path is None or not fits or not path.exists() or preferences is None:
            raise ValueError("Choose a .safetensors file, or the folder that holds model_index.json")
        setattr(preferences, self.setting, str(path))


class DREAMFLOW_OT_add_lora(_Browser):
    bl_idname = "dreamflow.add_lora"
    bl_label = "Add to the list"
    bl_description = (
        "Add a LoRA, an IP-Adapter or the config.json of a ControlNet, made for this kind of model; for ImageDream"
        " a picture"
    )
    bl_options = {"UNDO"}  # noqa: RUF012

    filter_glob: StringProperty(default=SHOWN, options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    files: CollectionProperty(type=bpy.types.OperatorFileListElement, options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]
    directory: StringProperty(subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})  # type: ignore[valid-type]

    def run(self, context: bpy.types.Context) -> None:
        named = [str(Path(self.directory) / file.name) for file in self.files if file.name]
        chosen = [Path(bpy.path.abspath(name)) for name in named or [self.filepath] if name]
        chosen = [path.parent if path.name == "config.json" else path for path in chosen]
        ends = (".safetensors", *trigger.PICTURES)
        fits = (path.suffix.lower() in ends or (path / "config.json").is_file() for path in chosen)
        if not chosen or not all(fits) or not all(path.exists() for path in chosen):
            raise ValueError("Choose a .safetensors file, a picture, or the config.json of a ControlNet")
        settings = context.scene.dreamflow
        for path in chosen:
            settings.loras.add().file = str(path)
        settings.active_lora = len(settings.loras) - 1


class _Chosen(BaseOperator):
    """A button on what is chosen in the list."""

    bl_options = {"UNDO"}  # noqa: RUF012

    @classmethod
    def unavailable(cls, context: bpy.types.Context) -> str:
        settings = context.scene.dreamflow
        there = 0 <= settings.active_lora < len(settings.loras)
        return "" if there else "Choose a file in the list"


class DREAMFLOW_OT_remove_lora(_Chosen):
    bl_idname = "dreamflow.remove_lora"
    bl_label = "Take off the list"
    bl_description = "Take this off the list; its file stays"

    def run(self, context: bpy.types.Context) -> None:
        settings = context.scene.dreamflow
        settings.loras.remove(settings.active_lora)
        settings.active_lora = max(0, min(settings.active_lora, len(settings.loras) - 1))


class DREAMFLOW_OT_add_words(_Chosen):
    bl_idname = "dreamflow.add_words"
    bl_label = "Add to prompt"
    bl_description = "Add the words that this LoRA was trained with to the prompt"

    def run(self, context: bpy.types.Context) -> None:
        settings = context.scene.dreamflow
        found = loras.words_of(settings.loras[settings.active_lora])
        new = [word for word in found if word.lower() not in settings.prompt.lower()]
        prompt = ", ".join(filter(None, (settings.prompt.strip(), *new)))
        if len(prompt) > MAX_PROMPT:
            raise ValueError("The prompt would be too long")
        settings.prompt = prompt


CLASSES = (
    DREAMFLOW_OT_choose_model,
    DREAMFLOW_OT_add_lora,
    DREAMFLOW_OT_remove_lora,
    DREAMFLOW_OT_add_words,
)
