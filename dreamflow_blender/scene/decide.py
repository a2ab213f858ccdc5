"""Before / after, Apply and Discard of a refined texture, as its object remembers it (refined.py)."""

from __future__ import annotations

import json
from typing import Any

import bpy

from ..gather.material import principled_of
from . import copies
from .nodes import refined_node, remove_nodes, show, show_again
from .refined import KEY, NEW, OLD


def state_of(obj: bpy.types.Object | None) -> dict[str, Any] | None:
    """What is on this object and not yet decided on; None where nothing is."""
    if obj is None or KEY not in obj:
        return None
    try:
        state = json.loads(str(obj[KEY]))
    except ValueError:
        return None
    return state if isinstance(state, dict) and isinstance(state.get("slots"), list) else None


def show_version(obj: bpy.types.Object, to: str) -> None:
    """Show it "before" or "after"."""
    state = state_of(obj)
    if state is None or state["shown"] == to:
        return
    for entry in state["slots"]:
        number = str(entry["slot"])
        old, new = obj.get(OLD + number), obj.get(NEW + number)
        if entry["way"] == "image":
            if old is None or principled_of(old) is None:
                continue
            if to == "before":
                show_again(old, entry["before"])
            else:
                node = refined_node(old)
                if node is not None:
                    show(old, node)
            continue
        slot = _slot_of(obj, entry, new if to == "before" else old)
        if slot is not None:
            slot.material = old if to == "before" else new
    obj[KEY] = json.dumps({**state, "shown": to})


def _slot_of(obj: bpy.types.Object, entry: dict[str, Any], material: bpy.types.Material | None) -> Any:
    """The slot with this material, wherever it has been moved; None where there is none."""
    slots = list(obj.material_slots)
    first = slots[entry["slot"] : entry["slot"] + 1]
    return next((slot for slot in first + slots if slot.material == material), None)


def apply(obj: bpy.types.Object) -> None:
    """It stays as it is after; the old material is kept by its fake user."""
    show_version(obj, "after")
    _forget(obj)


def discard(obj: bpy.types.Object, context: bpy.types.Context) -> bpy.types.Object | None:
    """Everything as it was; the original where `obj` was a copy."""
    state = state_of(obj)
    if state is None:
        return obj
    show_version(obj, "before")
    ours: list[bpy.types.ID] = []
    for entry in state["slots"]:
        at = int(entry["slot"])
        old, new = obj.get(OLD + str(at)), obj.get(NEW + str(at))
        if entry["way"] == "image":
            node = refined_node(old) if old is not None else None
            if node is not None:
                ours.append(node.image)
                remove_nodes(old, node)
            continue
        slot = _slot_of(obj, entry, old)
        if slot is not None and slot.link != entry["link"]:
            slot.material = None
            slot.link = entry["link"]
        if old is not None and entry["fake"] is not None:
            old.use_fake_user = bool(entry["fake"])
        if new is not None:
            node = refined_node(new)
            ours += [new] + ([node.image] if node is not None else [])
    _forget(obj)
    if state["added"] and len(obj.data.materials) == 1:
        obj.data.materials.clear()  # `pop` would leave the object's slot behind
    _remove_unused(ours)
    if state["uv"] and state["uv"] in obj.data.uv_layers:
        obj.data.uv_layers.remove(obj.data.uv_layers[state["uv"]])
    if state["copied"] is None:
        return obj
    original = copies.remove(obj, state["copied"])
    context.view_layer.update()
    if original is not None and state["selected"] and original.name in context.view_layer.objects:
        original.select_set(True)
    return original


def _remove_unused(blocks: list[bpy.types.ID]) -> None:
    """Materials before images, each once, and only where no other data-block uses them."""
    for kind, listed in ((bpy.types.Material, bpy.data.materials), (bpy.types.Image, bpy.data.images)):
        for block in {b.as_pointer(): b for b in blocks if isinstance(b, kind)}.values():
            if block.users == 0:
                listed.remove(block)


def _forget(obj: bpy.types.Object) -> None:
    for key in [k for k in obj.keys() if k == KEY or k.startswith((OLD, NEW))]:  # noqa: SIM118  Blender's own
        del obj[key]
