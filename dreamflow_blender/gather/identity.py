"""Which object, materials and UV maps a refine job was begun with, found again at its end. Nothing is written to them.

While the file stays open they are known by session_uid, which no rename, move or undo changes. In a file that was
opened later the object is known by a fingerprint of its faces and UVs, its materials by what their colours come from.
Names and slot numbers decide nothing: what is not found again is refused, with the reason.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import bpy
import numpy as np

from .material import CannotRefine, source_of
from .object import column, topology_hash

# names what is open now: session_uid means nothing in another file or another Blender
_opened = uuid.uuid4().hex


class NotFound(Exception):
    """What the result no longer fits: one sentence, and what to do."""


def file_opened() -> None:
    """Another file is open from now on."""
    global _opened
    _opened = uuid.uuid4().hex


def describe(obj: bpy.types.Object) -> dict[str, Any]:
    """What `find_object`, `find_slots` and `check_uvs` look for. JSON."""
    materials = [slot.material for slot in obj.material_slots]
    mesh = obj.data.copy() if obj.data.is_editmode else obj.data  # Edit Mode shows no UVs
    said = {
        "opened": _opened,
        "object": obj.name,  # for messages
        "uid": int(obj.session_uid),
        "fingerprint": fingerprint(mesh),
        "materials": [int(m.session_uid) if m else 0 for m in materials],
        "sources": _sources(obj),
        "uv_hashes": {layer.name: _uv_hash(layer) for layer in mesh.uv_layers},
    }
    if mesh != obj.data:
        bpy.data.meshes.remove(mesh)
    return said


def fingerprint(mesh: bpy.types.Mesh) -> str:
    """The same for meshes with the same faces, material slots and UVs, wherever their vertices are."""
    parts = [topology_hash(mesh), *(_uv_hash(layer) for layer in mesh.uv_layers)]
    parts.append(_digest(column(mesh.polygons, "material_index", 1, np.int32).tobytes()))
    return _digest("".join(parts).encode())


def find_object(target: dict[str, Any], active: bpy.types.Object | None) -> bpy.types.Object:
    """The object of `describe`; where several are the same, the active one. Raises NotFound."""
    name = str(target.get("object", ""))
    meshes = [obj for obj in bpy.data.objects if obj.type == "MESH"]
    if target.get("opened") == _opened:
        for obj in meshes:
            if obj.session_uid == target["uid"] and obj.users_scene:
                return obj
        raise NotFound(f"“{name}” has been deleted since it was refined")
    wanted = target.get("fingerprint", "")
    same = [obj for obj in meshes if wanted and fingerprint(obj.data) == wanted]
    painted_alike = [obj for obj in same if _sources(obj) == target["sources"]]
    same = painted_alike or same
    if len(same) == 1:
        return same[0]
    if active is not None and active in same:
        return active
    if same:
        raise NotFound(
            f"{len(same)} objects have the faces and UVs of “{name}”: select the right one,"
            " and press “Put on the object” in History"
        )
    raise NotFound(f"No object in this file has the faces and UVs that “{name}” had when it was refined")


def find_slots(target: dict[str, Any], obj: bpy.types.Object, slots: list[int], name: str) -> list[int]:
    """Where the material of these `slots` of `describe` is now. [] where the object had none. Raises NotFound.

    name  of the material, for the message
    """
    if not target["materials"]:
        if any(slot.material for slot in obj.material_slots):
            raise NotFound(
                f"{obj.name} had no material when it was refined, and has one now: remove it first"
            )
        return []
    first = slots[0]
    if target["opened"] == _opened:
        wanted = target["materials"][first]
        now = [int(slot.material.session_uid) if slot.material else 0 for slot in obj.material_slots]
        found = [at for at, uid in enumerate(now) if uid == wanted]
    else:  # its faces are where they were, as the fingerprint says
        found = [at for at in slots if at < len(obj.material_slots)]
        found = [at for at in found if _source_hash(obj.material_slots[at].material) == target["sources"][at]]
    if not found:
        what = f"the material “{name}”" if name else "its empty material slot"
        raise NotFound(f"{obj.name} no longer has {what} that was refined: assign it again first")
    return found


def check_uvs(target: dict[str, Any], obj: bpy.types.Object, name: str) -> None:
    """Raises NotFound where the UV map is another one now. One that modifiers make is not looked at."""
    wanted = target["uv_hashes"].get(name)
    if wanted is None:
        return
    layer = obj.data.uv_layers.get(name)
    if layer is None or _uv_hash(layer) != wanted:
        raise NotFound(f"The UV map “{name}” of {obj.name} has changed since it was refined")


def _uv_hash(layer: Any) -> str:
    return _digest(column(layer.uv, "vector", 2, np.float32).tobytes())


def _sources(obj: bpy.types.Object) -> list[str]:
    return [_source_hash(slot.material) for slot in obj.material_slots]


def _source_hash(material: bpy.types.Material | None) -> str:
    """What its base colour comes from."""
    try:
        source = source_of(material)
    except CannotRefine as error:
        return _digest(str(error).encode())
    size = tuple(source.image.size) if source.image is not None else ()
    said = (source.kind, source.base, size, source.wrap, source.uv_name, source.attribute)
    return _digest(repr(said).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()[:16]
