"""The growing mesh of the running job, where its result will stand: drawn in the viewports, and part of no scene.

There is no object, mesh, material or image of it, so that whatever reads the scene (an exporter, a script, a render,
undo, autosave) cannot meet it. Without a window nothing is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import gpu
import numpy as np
from bpy.app.handlers import persistent
from gpu_extras.batch import batch_for_shader
from numpy.typing import NDArray

from ..contract import meshfile
from ..contract.colour import to_linear, to_srgb
from ..contract.files import is_link
from ..contract.meshfile import BadMeshFile, SnapshotArrays
from . import windows
from .objects import stand

Floats = NDArray[np.float32]
LAMP = np.array((-0.37, -0.56, 0.74), np.float32)  # where the light comes from, in the world
AMBIENT = 0.3  # the light of what faces away from it, linear


@dataclass(frozen=True)
class Part:
    """Triangles in colours of their own, or under one picture."""

    v_pos: Floats  # [V,3] metres in the world
    t_pos_idx: NDArray[np.int32]  # [F,3]
    colour: Floats  # [V,3] sRGB with its light; under a picture, the light alone
    uv: Floats | None = None  # [V,2]
    file: Path | None = None  # of the picture
    picture: Floats | None = None  # [H,W,4] linear, its first row the lowest


@dataclass(frozen=True)
class Shown:
    parts: tuple[Part, ...]
    scene: int  # the session_uid of the one that it is drawn in
    job_id: str


_shown: Shown | None = None
_batches: list[tuple[Any, Any, Any, Any, Any]] | None = None  # of _shown, made when it is first drawn
_handler: Any = None


def read(path: Path) -> SnapshotArrays | None:
    """None while it is not there, or cannot be read."""
    try:
        return meshfile.read_snapshot(path)
    except (OSError, BadMeshFile):
        return None


def read_picture(path: Path | None) -> Floats:
    """A PNG as Part wants it. Raises RuntimeError where there is none."""
    if path is None or is_link(path) or not path.is_file():
        raise RuntimeError(f"There is no picture {path}.")
    image = bpy.data.images.load(str(path), check_existing=False)
    try:
        width, height = image.size
        pixels = np.empty((height, width, 4), np.float32)
        image.pixels.foreach_get(pixels.ravel())
    finally:
        bpy.data.images.remove(image)
    pixels[..., :3] = to_linear(pixels[..., :3])
    return pixels


def show(
    arrays: SnapshotArrays, height: float, location: Sequence[float], scene: bpy.types.Scene, job_id: str = ""
) -> None:
    """Draw this mesh in the scene, in place of the one before; nothing where it has no faces."""
    if not len(arrays.t_pos_idx):
        return
    v_pos = stand(arrays.v_pos, height) + np.array(location, np.float32)
    shade = light(_normals(v_pos, arrays.t_pos_idx))
    colour = to_srgb(to_linear(arrays.colour) * shade)
    show_parts((Part(v_pos, arrays.t_pos_idx, colour),), scene, job_id)


def show_parts(parts: tuple[Part, ...], scene: bpy.types.Scene, job_id: str) -> None:
    """Draw these in the scene, in place of those before."""
    global _shown, _batches
    _shown, _batches = Shown(parts, scene.session_uid, job_id), None
    windows.redraw_views()


def shown() -> Shown | None:
    """What is drawn now."""
    return _shown


def clear() -> None:
    """The job has ended: nothing of it stays."""
    global _shown, _batches
    if _shown is not None:
        _shown, _batches = None, None
        windows.redraw_views()


def light(normal: Floats) -> Floats:
    """[N,1] linear: soft, from one side, and dark nowhere."""
    return AMBIENT + (1 - AMBIENT) * (0.5 + 0.5 * (normal @ LAMP)[:, None])


def _normals(v_pos: Floats, faces: NDArray[np.int32]) -> Floats:
    """[V,3] of each vertex: of its faces, the larger the more."""
    a, b, c = (v_pos[faces[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    total = np.zeros_like(v_pos)
    for axis in range(3):
        for corner in range(3):
            total[:, axis] += np.bincount(faces[:, corner], across[:, axis], len(v_pos))
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def _draw() -> None:
    """Called by Blender for each viewport, behind what stands before it."""
    global _batches
    if _shown is None or bpy.context.scene.session_uid != _shown.scene:
        return
    if _batches is None:
        _batches = [_batch(part) for part in _shown.parts]
    gpu.state.depth_test_set("LESS_EQUAL")
    gpu.state.depth_mask_set(True)
    for coloured, colours, painted, pictures, texture in _batches:
        if texture is not None:
            painted.uniform_sampler("image", texture)
            pictures.draw(painted)
            gpu.state.blend_set("MULTIPLY")  # by the light
        colours.draw(coloured)
        gpu.state.blend_set("NONE")
    gpu.state.depth_mask_set(False)
    gpu.state.depth_test_set("NONE")


def _batch(part: Part) -> tuple[Any, Any, Any, Any, Any]:
    """The shader and the triangles of its colours; of its picture, where it has one; and that as a texture."""
    faces = np.ascontiguousarray(part.t_pos_idx, np.int32)
    v_pos = np.ascontiguousarray(part.v_pos, np.float32)
    colour = np.ones((len(v_pos), 4), np.float32)
    colour[:, :3] = part.colour
    coloured = gpu.shader.from_builtin("SMOOTH_COLOR")
    colours = batch_for_shader(coloured, "TRIS", {"pos": v_pos, "color": colour}, indices=faces)
    if part.picture is None or part.uv is None:
        return coloured, colours, None, None, None
    # both take linear values; from 5.0 the one of the older name takes what is shown as it is
    painted = gpu.shader.from_builtin(
        "IMAGE_SCENE_LINEAR_TO_REC709_SRGB" if bpy.app.version >= (5, 0) else "IMAGE"
    )
    pictures = batch_for_shader(painted, "TRIS", {"pos": v_pos, "texCoord": part.uv}, indices=faces)
    height, width, _ = part.picture.shape
    values = gpu.types.Buffer("FLOAT", part.picture.size, part.picture.ravel())
    texture = gpu.types.GPUTexture((width, height), format="RGBA16F", data=values)
    return coloured, colours, painted, pictures, texture


@persistent
def _forget(*_: object) -> None:
    """After opening a file: it is not the one that the job was begun in."""
    clear()


def register() -> None:
    global _handler
    _handler = bpy.types.SpaceView3D.draw_handler_add(_draw, (), "WINDOW", "POST_VIEW")
    bpy.app.handlers.load_post.append(_forget)


def unregister() -> None:
    global _handler
    if _handler is not None:
        bpy.types.SpaceView3D.draw_handler_remove(_handler, "WINDOW")
        _handler = None
    if _forget in bpy.app.handlers.load_post:
        bpy.app.handlers.load_post.remove(_forget)
    clear()
