"""Where a material's base colour comes from, as far as it can be read without rendering; all else is baked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np

from ..contract.colour import to_srgb

GREY = (0.8, 0.8, 0.8, 1.0)
WRAPS = {"REPEAT": 0, "EXTEND": 1, "MIRROR": 2}


class CannotRefine(ValueError):
    """Why this object cannot be refined: one sentence, and what to do."""


@dataclass(frozen=True)
class Source:
    """kind: "plain", "image", "colours" (an attribute of the mesh) or "bake".

    base       sRGB and alpha; white where an image or colours say all
    wrap       as in contract.meshfile
    uv_name    the UV map that the image is read by; "": the one for rendering
    attribute  the colour attribute; "": the one for rendering
    alpha      whether the image's alpha means anything to the material
    why        what has to be baked, for a person
    """

    kind: str
    base: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    image: bpy.types.Image | None = None
    wrap: int = 0
    uv_name: str = ""
    attribute: str = ""
    alpha: bool = False
    why: str = ""


def source_of(material: bpy.types.Material | None) -> Source:
    """Raises CannotRefine for what could only come out wrong."""
    if material is None:
        return Source("plain", GREY)
    if not uses_nodes(material):
        return Source("plain", srgb4((*material.diffuse_color[:3], 1.0)))
    principled = principled_of(material)
    if principled is None:
        return Source("bake", why="its surface is not a Principled BSDF alone")
    if principled.mute:
        return Source("bake", why="its Principled BSDF is muted")
    socket = principled.inputs["Base Color"]
    link = link_into(socket)
    if link is None:
        return Source("plain", srgb4((*socket.default_value[:3], 1.0)))
    node = link.from_node
    if node.mute or link.is_muted:
        return Source("bake", why="a muted node")
    if node.type == "TEX_IMAGE":
        return _of_image(node, link)
    if node.type == "VERTEX_COLOR" and link.from_socket.name == "Color":
        return Source("colours", attribute=node.layer_name)
    if node.type == "ATTRIBUTE" and node.attribute_type == "GEOMETRY" and link.from_socket.name == "Color":
        return Source("colours", attribute=node.attribute_name) if node.attribute_name else Source("bake")
    return Source("bake", why=f"its Base Color comes from {node.bl_label}")


def _of_image(node: Any, link: Any) -> Source:
    image = node.image
    if image is None:
        raise CannotRefine("An image texture has no image: choose one, or unlink it from Base Color.")
    if image.source == "TILED":
        raise CannotRefine(
            f"“{image.name}” has UDIM tiles, which cannot be refined: bake them into one image first."
        )
    uv_name = _uv_of(node.inputs["Vector"])
    if (
        link.from_socket.name != "Color"
        or image.source not in ("FILE", "GENERATED")
        or node.projection != "FLAT"
        or node.extension not in WRAPS
        or uv_name is None
    ):
        return Source("bake", why="its image is not read plainly by a UV map")
    alpha = bool(node.outputs["Alpha"].links)
    return Source("image", image=image, wrap=WRAPS[node.extension], uv_name=uv_name, alpha=alpha)


def _uv_of(socket: Any) -> str | None:
    """The UV map's name; "" for the one for rendering; None where it is something else."""
    link = link_into(socket)
    if link is None:
        return ""
    node = link.from_node
    if node.mute or link.is_muted:
        return None
    if node.type == "UVMAP" and not node.from_instancer:
        return str(node.uv_map)
    if node.type == "TEX_COORD" and link.from_socket.name == "UV" and not node.from_instancer:
        return ""
    return None


def uses_nodes(material: bpy.types.Material) -> bool:
    if bpy.app.version >= (5, 0):  # always
        return material.node_tree is not None
    return bool(material.use_nodes) and material.node_tree is not None


def output_of(material: bpy.types.Material) -> Any:
    """The output node that Cycles takes."""
    return material.node_tree.get_output_node("CYCLES") if uses_nodes(material) else None


def principled_of(material: bpy.types.Material) -> Any:
    """The Principled BSDF that is the whole surface; None where there is none."""
    output = output_of(material)
    link = link_into(output.inputs["Surface"]) if output is not None else None
    if link is None or link.is_muted or link.from_node.type != "BSDF_PRINCIPLED":
        return None
    return link.from_node


def link_into(socket: Any) -> Any:
    """The link that feeds a socket, reroutes passed through; None where nothing does."""
    for _ in range(100):
        if not socket.links:
            return None
        link = socket.links[0]
        if link.from_node.type != "REROUTE" or link.is_muted:
            return link
        socket = link.from_node.inputs[0]
    return None


def srgb4(colour: tuple[float, ...]) -> tuple[float, float, float, float]:
    """Of scene-linear values and an alpha."""
    r, g, b = to_srgb(np.array(colour[:3], np.float64)).tolist()
    return r, g, b, min(max(float(colour[3]), 0.0), 1.0)
