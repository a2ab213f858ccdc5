"""In a Blender of its own: appends the object from copy.blend and bakes its colours. Called by bake.py.

A script, not a module of the add-on. FOLDER/wish.json says what to do; baked.json, loop_uv.npy and emit.npy or
diffuse.npy are what comes of it. Says one JSON object a line: {"fraction"} or {"failed"}.
"""

# ruff: noqa: T201

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.dont_write_bytecode = True  # nothing is written into the extension's folder

from dreamflow_blender.gather.atlas import TooMany, atlas  # noqa: E402
from dreamflow_blender.gather.material import link_into, output_of, principled_of, uses_nodes  # noqa: E402
from dreamflow_blender.gather.object import column, topology_hash  # noqa: E402

SAMPLES = 4
MARGIN = 2  # texels


class Failed(Exception):
    """One sentence."""


def main(folder: Path) -> None:
    wish = json.loads((folder / "wish.json").read_text(encoding="utf-8"))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    obj = append(folder / "copy.blend", wish["object"])
    scene.collection.objects.link(obj)
    obj.hide_viewport = obj.hide_render = False
    scene.frame_set(wish["frame"])
    bpy.context.view_layer.update()
    static = as_mesh(obj)
    scene.collection.objects.unlink(obj)
    scene.collection.objects.link(static)
    mesh = static.data
    size = next((pixels for most, pixels in wish["sizes"] if len(mesh.polygons) <= most), 0)
    if not size:
        raise Failed(f"It has {len(mesh.polygons):,} faces, too many to bake colours for.")
    loop_uv = add_atlas(static, size)
    kinds = {number: kind_of(static.material_slots[number].material) for number in wish["slots"]}
    say(fraction=0.2)
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples = "CPU", SAMPLES
    for done, kind in enumerate(sorted(set(kinds.values())), 1):
        pixels = bake(static, kind, size)
        np.save(folder / f"{kind}.npy", pixels, allow_pickle=False)
        say(fraction=0.2 + 0.8 * done / len(set(kinds.values())))
    np.save(folder / "loop_uv.npy", loop_uv, allow_pickle=False)
    said = {"of": topology_hash(mesh), "kinds": {str(slot): kind for slot, kind in kinds.items()}}
    (folder / "baked.json").write_text(json.dumps(said), encoding="utf-8")


def append(path: Path, name: str) -> bpy.types.Object:
    with bpy.data.libraries.load(str(path), link=False) as (there, wanted):
        if name not in there.objects:
            raise Failed(f"{name} is not in its copy.")
        wanted.objects = [name]
    return wanted.objects[0]


def as_mesh(obj: bpy.types.Object) -> bpy.types.Object:
    """Evaluated as in the viewport, with materials of its own."""
    depsgraph = bpy.context.evaluated_depsgraph_get()
    shown = obj.evaluated_get(depsgraph)
    mesh = bpy.data.meshes.new_from_object(shown, preserve_all_data_layers=True, depsgraph=depsgraph)
    materials = [slot.material for slot in obj.material_slots]
    mesh.materials.clear()
    for material in materials:
        mesh.materials.append(material.copy() if material else bpy.data.materials.new("none"))
    static = bpy.data.objects.new("bake", mesh)
    static.matrix_world = shown.matrix_world.copy()
    return static


def add_atlas(static: bpy.types.Object, size: int) -> np.ndarray:
    """A further UV map, the active one for baking; what the materials read by stays what it is."""
    mesh = static.data
    placed = mesh.copy()
    placed.transform(static.matrix_world)
    area = column(placed.polygons, "area", 1, np.float32)[:, 0].astype(np.float64)
    total = column(mesh.polygons, "loop_total", 1, np.int32)[:, 0]
    try:
        loop_uv = atlas(area, total, size)
    except TooMany as error:
        raise Failed(f"It has {error}, too many to bake colours for.") from error
    rendered = next((layer.name for layer in mesh.uv_layers if layer.active_render), "")
    layer = mesh.uv_layers.new(name="DreamFlow bake", do_init=False)
    if layer is None:
        raise Failed("It has eight UV maps, as many as there can be: remove one.")
    layer.uv.foreach_set("vector", loop_uv.ravel())
    mesh.uv_layers.active = mesh.uv_layers[layer.name]
    if rendered:
        mesh.uv_layers[rendered].active_render = True
    return loop_uv


def kind_of(material: bpy.types.Material) -> str:
    """ "emit": its Base Color as emission; "diffuse": what Cycles calls diffuse."""
    principled = principled_of(material)
    if principled is None:
        return "diffuse"
    tree = material.node_tree
    shine = tree.nodes.new("ShaderNodeEmission")
    link = link_into(principled.inputs["Base Color"])
    if link is None:
        shine.inputs["Color"].default_value = principled.inputs["Base Color"].default_value
    else:
        tree.links.new(link.from_socket, shine.inputs["Color"])
    tree.links.new(shine.outputs["Emission"], output_of(material).inputs["Surface"])
    return "emit"


def bake(static: bpy.types.Object, kind: str, size: int) -> np.ndarray:
    """[H,W,4] uint8, row 0 = top."""
    image = bpy.data.images.new(f"bake {kind}", size, size, alpha=False)
    for slot in static.material_slots:
        if not uses_nodes(slot.material):
            slot.material.use_nodes = True
        node = slot.material.node_tree.nodes.new("ShaderNodeTexImage")
        node.image = image
        slot.material.node_tree.nodes.active = node
    layer = bpy.context.view_layer
    layer.objects.active = static
    static.select_set(True)
    options: dict[str, Any] = {"pass_filter": {"COLOR"}} if kind == "diffuse" else {}
    bpy.ops.object.bake(
        type=kind.upper(), margin=MARGIN, margin_type="EXTEND", use_clear=True, target="IMAGE_TEXTURES",
        uv_layer="DreamFlow bake", **options,
    )  # fmt: skip
    flat = np.empty(size * size * 4, np.float32)
    image.pixels.foreach_get(flat)
    pixels = np.round(np.clip(flat.reshape(size, size, 4)[::-1], 0, 1) * 255).astype(np.uint8)
    pixels[..., 3] = 255
    return pixels


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    code = 0
    try:
        main(Path(sys.argv[-1]))
    except (Failed, RuntimeError) as error:
        say(failed=str(error).strip())
    except Exception as error:  # noqa: BLE001  the parent process reports it
        say(failed=f"A bug of DreamFlow's: {error!r}")
        code = 3
    sys.stdout.flush()
    os._exit(code)  # a bpy module may crash or hang at its end
