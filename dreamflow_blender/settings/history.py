"""What the history shows: it belongs to this Blender, not to the file."""

# ruff: noqa: N801  Blender's own naming

# No postponed annotations here: Blender reads the properties from them.

import bpy
from bpy.props import BoolProperty, IntProperty, PointerProperty, StringProperty


class DREAMFLOW_PG_history(bpy.types.PropertyGroup):
    # No `update` here: one on the window manager ends Blender 4.2 with a crash when it is closed.
    find: StringProperty(  # type: ignore[valid-type]
        name="Search",
        description="Show only jobs with these words in their prompt",
        options={"TEXTEDIT_UPDATE"},
    )
    starred: BoolProperty(  # type: ignore[valid-type]
        name="Favorites", description="Show only favorites"
    )
    page: IntProperty(name="Page", description="Page of the history", default=1, min=1)  # type: ignore[valid-type]


def register() -> None:
    bpy.utils.register_class(DREAMFLOW_PG_history)
    bpy.types.WindowManager.dreamflow_history = PointerProperty(type=DREAMFLOW_PG_history)


def unregister() -> None:
    del bpy.types.WindowManager.dreamflow_history
    bpy.utils.unregister_class(DREAMFLOW_PG_history)
