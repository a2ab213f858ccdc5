"""The refined texture in a material: in a new material, or as two more nodes in the old one."""

from __future__ import annotations

from typing import Any

import bpy

from ..gather.material import link_into, principled_of
from .objects import ROUGHNESS, SPECULAR

IMAGE_NODE, UV_NODE = "DreamFlow image", "DreamFlow UV map"


def new_material(
    old: bpy.types.Material | None, image: bpy.types.Image, uv_name: str, name: str
) -> bpy.types.Material:
    """As the old one but for its base colour; where that is no plain Principled BSDF, a plain one."""
    if old is not None and principled_of(old) is not None:
        material = old.copy()
        material.name = name
    else:
        material = bpy.data.materials.new(name)
        if bpy.app.version < (5, 0):  # always on from there, and deprecated
            material.use_nodes = True
        principled = principled_of(material)
        principled.inputs["Roughness"].default_value = ROUGHNESS
        principled.inputs["Specular IOR Level"].default_value = SPECULAR
        if old is not None:
            material.diffuse_color = old.diffuse_color
    material.use_fake_user = False
    if material.asset_data is not None:
        material.asset_clear()
    show(material, add_nodes(material, image, uv_name))
    return material


def add_nodes(material: bpy.types.Material, image: bpy.types.Image, uv_name: str) -> Any:
    """An image node that nothing reads yet."""
    tree = material.node_tree
    principled = principled_of(material)
    x, y = principled.location
    node = tree.nodes.new("ShaderNodeTexImage")
    node.name = node.label = IMAGE_NODE
    node.image, node.location = image, (x - 320.0, y - 40.0)
    node.extension = "EXTEND"
    if uv_name:
        uv = tree.nodes.new("ShaderNodeUVMap")
        uv.name = uv.label = UV_NODE
        uv.uv_map, uv.location = uv_name, (x - 540.0, y - 240.0)
        tree.links.new(uv.outputs["UV"], node.inputs["Vector"])
    for each in tree.nodes:
        each.select = each == node
    tree.nodes.active = node  # what Solid shading shows as the texture
    return node


def show(material: bpy.types.Material, node: Any) -> None:
    """Its colour becomes the base colour."""
    material.node_tree.links.new(node.outputs["Color"], principled_of(material).inputs["Base Color"])


def shown_by(material: bpy.types.Material) -> list[str]:
    """What feeds its base colour now, as [node's name, socket's identifier]; [] where nothing does."""
    link = link_into(principled_of(material).inputs["Base Color"])
    return [] if link is None else [link.from_node.name, link.from_socket.identifier]


def show_again(material: bpy.types.Material, before: list[str]) -> None:
    """As `shown_by` said it was."""
    tree = material.node_tree
    socket = principled_of(material).inputs["Base Color"]
    node = tree.nodes.get(before[0]) if before else None
    if node is None:
        for link in list(socket.links):
            tree.links.remove(link)
        return
    output = next((o for o in node.outputs if o.identifier == before[1]), None)
    if output is not None:
        tree.links.new(output, socket)


def remove_nodes(material: bpy.types.Material, node: Any) -> None:
    """What `add_nodes` has added."""
    tree = material.node_tree
    link = link_into(node.inputs["Vector"])
    if link is not None and link.from_node.name.startswith(UV_NODE):
        tree.nodes.remove(link.from_node)
    tree.nodes.remove(node)


def refined_node(material: bpy.types.Material) -> Any:
    """The newest image node of ours; None where there is none."""
    if material.node_tree is None:
        return None
    found = [n for n in material.node_tree.nodes if n.type == "TEX_IMAGE" and n.name.startswith(IMAGE_NODE)]
    return found[-1] if found else None
