"""What the history shows: it belongs to this Blender, not to the file."""

# ruff: noqa: N801  Blender's own naming

# No postponed annotations here: Blender reads the properties from them.

from typing import Any

import bpy
from bpy.props import BoolProperty, IntProperty, PointerProperty, StringProperty


def first_page(history: Any, context: bpy.types.Context) -> None:
    """Another filter begins at its first page."""
    history.page = 1


class DREAMFLOW_PG_history(bpy.types.PropertyGroup):
    find: StringProperty(  # type: ignore[valid-type]
        name="Search",
        description="Show only jobs with these words in their prompt",
        options={"TEXTEDIT_UPDATE"},
        update=first_page,
    )
    starred: BoolProperty(  # type: ignore[valid-type]
        name="Favorites", description="Show only favorites", update=first_page
    )
    page: IntProperty(name="Page", description="Page of the history", default=1, min=1)  # type: ignore[valid-type]


def register() -> None:
    bpy.utils.register_class(DREAMFLOW_PG_history)
    bpy.types.WindowManager.dreamflow_history = PointerProperty(type=DREAMFLOW_PG_history)


def unregister() -> None:
    del bpy.types.WindowManager.dreamflow_history
    bpy.utils.unregister_class(DREAMFLOW_PG_history)
