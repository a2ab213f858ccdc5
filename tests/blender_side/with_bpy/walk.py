"""Everything that a .blend would hold, as plain values: two walks tell whether a file was changed."""

from contextlib import suppress

import bpy

LEFT_OUT = {  # Blender's own bookkeeping, which no file holds, or which follows from the rest
    "rna_type", "bl_rna", "session_uid", "users", "tag", "is_evaluated", "original", "preview", "is_updated",
    "is_updated_data", "loop_triangles", "loop_triangle_polygons", "library_weak_reference", "is_embedded_data",
    "vertex_normals", "polygon_normals", "corner_normals", "bound_box", "dimensions", "view_layers", "is_valid",
    "pixels", "bindcode", "has_data", "animation_data", "particle_systems", "children_recursive", "all_objects",
    "override_library", "is_dirty", "depsgraph", "is_missing", "is_active", "internal_links", "users_material",
    "execution_time", "data_eval", "material_slots_eval", "bounds", "is_runtime_data", "select", "is_editmode",
    "sequencer_colorspace_settings", "display", "missing_materials", "missing_texture", "missing_uvs",
    "missing_stencil", "particle_edit", "storage_type", "uv_sculpt", "is_library_indirect",
}  # fmt: skip
KINDS = (
    "objects", "meshes", "materials", "images", "scenes", "collections", "armatures", "textures", "node_groups",
    "worlds", "cameras", "lights", "curves", "libraries", "actions", "shape_keys", "lattices", "texts", "fonts",
)  # fmt: skip
DEPTH = 6


def walk() -> dict[str, object]:
    """ "materials/Paint": its properties, all the way down."""
    found = {}
    for kind in KINDS:
        for block in getattr(bpy.data, kind, ()):
            if kind == "images" and block.type in ("RENDER_RESULT", "COMPOSITING"):
                continue
            name = f"{kind}/{block.name}" + (f" from {block.library.name}" if block.library else "")
            found[name] = plain(block, 0)
    layer = bpy.context.view_layer
    found["active"] = layer.objects.active.name if layer.objects.active else ""
    found["selected"] = sorted(o.name for o in layer.objects.selected)
    found["hidden"] = sorted(o.name for o in layer.objects if o.hide_get())
    return found


def plain(value, depth):
    if isinstance(value, bpy.types.ID) and depth > 0 and not value.is_embedded_data:
        return f"-> {value.name_full}"
    if isinstance(value, bpy.types.bpy_struct):
        if depth > DEPTH:
            return "..."
        said = {}
        for prop in value.bl_rna.properties:
            if prop.identifier in LEFT_OUT or prop.identifier.startswith("is_bound"):
                continue
            try:
                said[prop.identifier] = plain(getattr(value, prop.identifier), depth + 1)
            except (AttributeError, RuntimeError, ValueError, TypeError):
                continue
        if isinstance(value, bpy.types.ID) or hasattr(value, "keys"):
            with suppress(TypeError):
                said["custom"] = {k: repr(plain(value[k], depth + 1)) for k in value.keys()}  # noqa: SIM118
        return said
    if isinstance(value, bpy.types.bpy_prop_collection):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, float) and value != value:
        return "nan"
    if isinstance(value, float | int | str | bool | bytes | type(None)):
        return value
    if isinstance(value, set):
        return sorted(value)
    try:
        return [plain(item, depth + 1) for item in value]
    except TypeError:
        return repr(value)


def differences(before, after) -> set[str]:
    """Names of what is not the same, as "materials/Paint.use_fake_user"."""
    found = set()
    for name in before.keys() | after.keys():
        if name not in before:
            found.add(f"+{name}")
        elif name not in after:
            found.add(f"-{name}")
        elif before[name] != after[name]:
            a, b = before[name], after[name]
            if isinstance(a, dict):
                found |= {f"{name}.{key}" for key in a.keys() | b.keys() if a.get(key) != b.get(key)}
            else:
                found.add(name)
    return found
