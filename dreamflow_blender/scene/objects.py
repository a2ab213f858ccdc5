"""A result's files become one object: mesh, UVs, material with packed albedo, and where it came from.

Everything is read and checked before anything is made, so a failure leaves the user's file as it was.
Arrays cross by `foreach_set`; the albedo is packed as the bytes it is and decoded when Blender first draws it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from numpy.typing import NDArray

from ..contract import meshfile
from ..contract.colour import to_linear
from ..contract.files import read_json, read_plain, write_atomic
from ..contract.jobfolder import JobFolder
from ..contract.meshfile import BadMeshFile, MeshArrays, SnapshotArrays

UV_NAME = "UVMap"
COLOUR = "Colour"  # the attribute of a mesh without a texture
# "Specular IOR Level" of 0.5 is Blender's default, and too wet for baked light
ROUGHNESS, SPECULAR = 0.8, 0.3
MAX_HEIGHT = 1000.0  # metres
_PNG = b"\x89PNG\r\n\x1a\n"
MADE_HERE = "dreamflow"  # on images of ours
_NAME_BYTES = 59  # Blender up to 4.5 holds 63, and may add ".001"


class CannotImport(Exception):
    """Why there is no object: one sentence for the user."""


@dataclass(frozen=True)
class Result:
    """What a job's folder holds, read and checked."""

    arrays: MeshArrays | SnapshotArrays
    albedo: bytes  # a PNG; empty with a snapshot, which has colours instead
    record: dict[str, Any]  # of job.json, without paths
    colour: tuple[float, float, float]  # linear: what Solid shading shows


def read_result(folder: Path) -> Result:
    """The delivered files of this folder. Raises CannotImport."""
    try:
        arrays = meshfile.read(JobFolder(folder).mesh_npz)
        albedo = read_plain(JobFolder(folder).albedo)
    except FileNotFoundError as error:
        raise CannotImport(f"There is no result in {folder}.") from error
    except (OSError, BadMeshFile) as error:
        raise CannotImport(f"The result in {folder} cannot be read: {error}") from error
    if not len(arrays.t_pos_idx):
        raise CannotImport("The result has no faces.")
    if not albedo.startswith(_PNG):
        raise CannotImport(f"{JobFolder(folder).albedo} is not a PNG.")
    return Result(arrays, albedo, read_record(folder), _mean_colour(folder))


def read_partial(folder: Path) -> Result:
    """The newest snapshot of a job that has not come to its end: coarse, with colours. Raises CannotImport."""
    try:
        arrays = meshfile.read_snapshot(JobFolder(folder).snapshot)
    except (OSError, BadMeshFile) as error:
        raise CannotImport("Nothing of this job has taken shape yet.") from error
    if not len(arrays.t_pos_idx):
        raise CannotImport("Nothing of this job has taken shape yet.")
    return Result(arrays, b"", read_record(folder), _mean_colour(folder))


def read_record(folder: Path) -> dict[str, Any]:
    """job.json without the folders of this machine; empty where it cannot be read."""
    record = read_json(JobFolder(folder).job) or {}
    if isinstance(record.get("job"), dict):
        record["job"] = {k: v for k, v in record["job"].items() if k != "folder"}
    return record


def _mean_colour(folder: Path) -> tuple[float, float, float]:
    """Of the last snapshot, which is small; the albedo would take a fifth of a second to decode."""
    try:
        colour = meshfile.read_snapshot(JobFolder(folder).snapshot).colour
    except (OSError, BadMeshFile):
        return (0.8, 0.8, 0.8)
    if not len(colour):
        return (0.8, 0.8, 0.8)
    r, g, b = to_linear(colour.mean(axis=0))
    return float(r), float(g), float(b)


def add_result(
    result: Result,
    name: str,
    height: float,
    location: Sequence[float],
    collection_name: str,
    scene: bpy.types.Scene,
) -> bpy.types.Object:
    """One new object in `scene`, its origin at its base's centre.

    height    metres; 0: as it was made
    location  of the origin, metres

    Raises CannotImport where the scene belongs to another file, ValueError on a height that is none.
    """
    check_height(height)
    if scene.library is not None:
        raise CannotImport("This scene is linked from another file: open a scene of this file.")
    name = short_name(name)
    job = result.record.get("job", {})
    with undone_on_failure():
        mesh = bpy.data.meshes.new(name)
        fill_mesh(mesh, result.arrays, height)
        mesh.materials.append(make_material(name, result.albedo, result.colour))
        obj = bpy.data.objects.new(name, mesh)
        obj.location = location
        obj["dreamflow_prompt"] = str(job.get("prompt", name))
        obj["dreamflow_seed"] = int(job.get("seed", 0))
        obj["dreamflow_job"] = str(job.get("id", ""))
        obj["dreamflow_record"] = json.dumps(result.record)
        collection_of(scene, collection_name).objects.link(obj)
    return obj


def check_height(height: float) -> None:
    """Raises ValueError unless it is one, in metres, or 0."""
    if not 0 <= height <= MAX_HEIGHT:  # nan is neither
        raise ValueError(f"The height must be 0 to {MAX_HEIGHT:g} metres, not {height:g}.")


def short_name(text: str) -> str:
    """A data-block's name: without the article, and within the bytes that every Blender holds."""
    first, _, rest = text.partition(" ")
    if first.lower() in ("a", "an", "the") and rest:
        text = rest
    cut = text.encode("utf-8")[:_NAME_BYTES].decode("utf-8", errors="ignore").strip()
    return (cut[:1].upper() + cut[1:]) or "DreamFlow"


def stand(v_pos: NDArray[np.float32], height: float) -> NDArray[np.float32]:
    """[V,3] moved so that the centre of the box's base is the origin, and scaled to `height` (0: as it is)."""
    low, high = v_pos.min(axis=0), v_pos.max(axis=0)
    base = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], np.float32)
    tall = float(high[2] - low[2])
    return (v_pos - base) * np.float32(height / tall if height > 0 and tall > 1e-9 else 1.0)


def fill_mesh(mesh: bpy.types.Mesh, arrays: MeshArrays | SnapshotArrays, height: float) -> None:
    """Give an empty mesh these faces, standing as `stand` says, with UVs or colours; smooth all over."""
    set_triangles(mesh, stand(arrays.v_pos, height), arrays.t_pos_idx)
    if isinstance(arrays, MeshArrays):
        layer = mesh.uv_layers.new(name=UV_NAME)
        layer.uv.foreach_set("vector", arrays.v_tex[arrays.t_tex_idx.ravel()].ravel())
    else:
        set_colours(mesh, arrays.colour)
    mesh.shade_smooth()
    mesh.update(calc_edges=True)
    mesh.validate(clean_customdata=False)


def set_colours(mesh: bpy.types.Mesh, colour: NDArray[np.float32]) -> None:
    """sRGB colours [V,3] as the attribute COLOUR."""
    if COLOUR not in mesh.color_attributes:
        mesh.color_attributes.new(COLOUR, "BYTE_COLOR", "POINT")
    rgba = np.ones((len(colour), 4), np.float32)
    rgba[:, :3] = np.clip(colour, 0, 1)
    mesh.color_attributes[COLOUR].data.foreach_set("color_srgb", rgba.ravel())


def set_triangles(mesh: bpy.types.Mesh, v_pos: NDArray[np.float32], faces: NDArray[np.int32]) -> None:
    """Fill an empty mesh with vertices [V,3] and triangles [F,3]; `mesh.update` is the caller's."""
    mesh.vertices.add(len(v_pos))
    mesh.loops.add(3 * len(faces))
    mesh.polygons.add(len(faces))
    mesh.vertices.foreach_set("co", np.ascontiguousarray(v_pos, np.float32).ravel())
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(faces, np.int32).ravel())
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * len(faces), 3, dtype=np.int32))


def make_material(name: str, albedo: bytes, colour: Sequence[float]) -> bpy.types.Material:
    """Principled with the packed albedo as its base colour, or with the colour attribute where there is none."""
    material = bpy.data.materials.new(name)
    if bpy.app.version < (5, 0):  # always on from there, and deprecated
        material.use_nodes = True
    material.diffuse_color = (*colour, 1.0)
    material.roughness = ROUGHNESS
    tree = material.node_tree
    tree.nodes.clear()
    output = tree.nodes.new("ShaderNodeOutputMaterial")
    principled = tree.nodes.new("ShaderNodeBsdfPrincipled")
    output.location, principled.location = (220.0, 300.0), (-100.0, 300.0)
    principled.inputs["Roughness"].default_value = ROUGHNESS
    principled.inputs["Metallic"].default_value = 0.0
    principled.inputs["Specular IOR Level"].default_value = SPECULAR
    if albedo:
        source = tree.nodes.new("ShaderNodeTexImage")
        source.image = pack_image(f"{name} albedo", albedo)
        uv = tree.nodes.new("ShaderNodeUVMap")
        uv.location, uv.uv_map = (-640.0, 300.0), UV_NAME
        tree.links.new(uv.outputs["UV"], source.inputs["Vector"])
    else:
        source = tree.nodes.new("ShaderNodeVertexColor")
        source.layer_name = COLOUR
    source.location = (-420.0, 300.0)
    tree.links.new(source.outputs["Color"], principled.inputs["Base Color"])
    tree.links.new(principled.outputs["BSDF"], output.inputs["Surface"])
    return material


def pack_image(name: str, png: bytes) -> bpy.types.Image:
    """An image that lives in the .blend as the bytes that it is, in the space that Blender gives a new 8-bit image.

    Its name and its path are the same file's: exporters write it by the one and refer to it by the other.
    """
    image = bpy.data.images.new(name, 1, 1)
    image.pack(data=png, data_len=len(png))
    image.source = "FILE"
    name_image(image, name)
    return image


def name_image(image: bpy.types.Image, name: str, folder: Path | None = None) -> Path:
    """Call a packed image, and its path, by the first PNG of that name that no other image has; its path.

    folder  where it is to be written: a file that is there, and holds anything else, keeps its name too
    """
    stem = bpy.path.clean_name(name.removesuffix(".png"))[: _NAME_BYTES - 9]  # "_123.png" has its place
    file, number = f"{stem}.png", 2
    while bpy.data.images.get(file) not in (None, image) or not _is_free(folder, file, image):
        file, number = f"{stem}_{number}.png", number + 1
    image.name, image.filepath_raw = file, f"//{file}"  # where Unpack puts it
    image[MADE_HERE] = True
    return Path(folder or "", file)


def _is_free(folder: Path | None, file: str, image: bpy.types.Image) -> bool:
    path = Path(folder or "", file)
    return folder is None or not os.path.lexists(path) or holds(path, bytes(image.packed_file.data))


def holds(path: Path, content: bytes) -> bool:
    """Whether it is a file of just these bytes."""
    try:
        return path.stat().st_size == len(content) and read_plain(path) == content
    except OSError:
        return False


def write_out(image: bpy.types.Image, folder: Path) -> Path:
    """Write a packed image as a PNG of its own; it is packed until the file is there. Raises OSError."""
    if image.is_dirty:  # painted on since it was packed
        image.pack()
    path, content = name_image(image, image.name, folder), bytes(image.packed_file.data)
    if not holds(path, content):
        write_atomic(path, content)
    image.unpack(method="REMOVE")
    return path


def packed_images(obj: bpy.types.Object | None) -> list[bpy.types.Image]:
    """The textures that we have made for this object, as long as they are only in the .blend."""
    found = []
    for slot in obj.material_slots if obj is not None else ():
        tree = (
            slot.material.node_tree if slot.material is not None and slot.material.library is None else None
        )
        for node in tree.nodes if tree is not None else ():
            image = node.image if node.type == "TEX_IMAGE" else None
            if image is not None and image.packed_file and MADE_HERE in image and image not in found:
                found.append(image)
    return found


@contextmanager
def undone_on_failure() -> Iterator[None]:
    """What is made inside is removed again where it ends with an exception."""
    kinds = (bpy.data.objects, bpy.data.meshes, bpy.data.materials, bpy.data.images, bpy.data.collections)
    before = [{block.session_uid for block in blocks} for blocks in kinds]
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            for blocks, known in zip(kinds, before, strict=True):
                for block in [b for b in blocks if b.session_uid not in known]:
                    blocks.remove(block)


def collection_of(scene: bpy.types.Scene, name: str) -> bpy.types.Collection:
    """This file's own collection of that name, in the scene; the scene's own where that would not be seen.

    A linked or overridden collection of that name takes no objects: another one gets the next free name.
    """
    if not name:
        return scene.collection
    known = re.compile(rf"{re.escape(name)}(\.\d{{3,}})?")
    own = [c for c in bpy.data.collections if c.library is None and c.override_library is None]
    found = next((c for c in own if known.fullmatch(c.name)), None) or bpy.data.collections.new(name)
    if found not in scene.collection.children_recursive:
        scene.collection.children.link(found)
    layer = open_layer(scene) or scene.view_layers[0]
    return found if _is_seen(layer.layer_collection, found) else scene.collection


def _is_seen(layer: bpy.types.LayerCollection, collection: bpy.types.Collection) -> bool:
    """Whether this view layer shows what is in the collection."""
    if layer.exclude or layer.hide_viewport or layer.collection.hide_viewport:
        return False
    return layer.collection == collection or any(_is_seen(child, collection) for child in layer.children)


def open_layer(scene: bpy.types.Scene) -> bpy.types.ViewLayer | None:
    """The open view layer, where it is one of this scene; a layer updated with another scene ends Blender 4.5."""
    return next((layer for layer in scene.view_layers if layer == bpy.context.view_layer), None)


def select_only(obj: bpy.types.Object, view_layer: bpy.types.ViewLayer) -> None:
    """As after adding a primitive; nothing where the view layer leaves its collection out."""
    view_layer.update()  # until then it knows nothing of what was linked
    if obj.name not in view_layer.objects:
        return
    for other in list(view_layer.objects.selected):
        other.select_set(False, view_layer=view_layer)
    obj.select_set(True, view_layer=view_layer)
    view_layer.objects.active = obj
