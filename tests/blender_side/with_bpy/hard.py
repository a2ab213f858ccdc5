"""Objects as artists have them: built by code, each with something difficult about it."""

import bpy
import numpy as np

RED, BLUE = (0.8, 0.05, 0.03, 1.0), (0.03, 0.1, 0.8, 1.0)


def cube(name="Cube", uv=True, location=(0, 0, 0)):
    """With UVs that do not overlap, unless told; active and selected."""
    bpy.ops.mesh.primitive_cube_add(location=location)
    made = bpy.context.object
    made.name = name
    if not uv:
        made.data.uv_layers.remove(made.data.uv_layers[0])
    return made


def use_nodes(material):
    if bpy.app.version < (5, 0):
        material.use_nodes = True
    return material.node_tree


def plain(name, colour):
    material = bpy.data.materials.new(name)
    tree = use_nodes(material)
    principled(tree).inputs["Base Color"].default_value = colour
    return material


def principled(tree):
    return next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")


def pixels(size=16):
    """[S,S,4] uint8, row 0 = top: every texel tells where it is."""
    y, x = np.mgrid[0:size, 0:size]
    return np.dstack([x * 255 // (size - 1), y * 255 // (size - 1), 0 * x + 77, 0 * x + 255]).astype(np.uint8)


def image(name="paint", size=16, values=None):
    values = pixels(size) if values is None else values
    made = bpy.data.images.new(name, values.shape[1], values.shape[0], alpha=True)
    made.pixels.foreach_set((values[::-1].astype(np.float32) / 255).ravel())
    made.pack()
    return made


def painted(name="Paint", picture=None, uv_map="", alpha=False):
    """A material whose base colour is an image."""
    material = bpy.data.materials.new(name)
    tree = use_nodes(material)
    node = tree.nodes.new("ShaderNodeTexImage")
    node.image = picture if picture is not None else image()
    shader = principled(tree)
    tree.links.new(node.outputs["Color"], shader.inputs["Base Color"])
    if alpha:
        tree.links.new(node.outputs["Alpha"], shader.inputs["Alpha"])
    if uv_map:
        uv = tree.nodes.new("ShaderNodeUVMap")
        uv.uv_map = uv_map
        tree.links.new(uv.outputs["UV"], node.inputs["Vector"])
    return material


def by_attribute(name="Coloured", layer="Col"):
    material = bpy.data.materials.new(name)
    tree = use_nodes(material)
    node = tree.nodes.new("ShaderNodeVertexColor")
    node.layer_name = layer
    tree.links.new(node.outputs["Color"], principled(tree).inputs["Base Color"])
    return material


def procedural(name="Checks"):
    """Nothing but a renderer knows its colours."""
    material = bpy.data.materials.new(name)
    tree = use_nodes(material)
    node = tree.nodes.new("ShaderNodeTexChecker")
    node.inputs["Color1"].default_value, node.inputs["Color2"].default_value = RED, BLUE
    node.inputs["Scale"].default_value = 1.0
    where = tree.nodes.new("ShaderNodeTexCoord")
    tree.links.new(where.outputs["Object"], node.inputs["Vector"])
    tree.links.new(node.outputs["Color"], principled(tree).inputs["Base Color"])
    return material


def posed():
    """A cube that a bone has turned by 90 degrees and lifted by 1 m."""
    made = cube("Posed")
    made.data.materials.append(painted())
    data = bpy.data.armatures.new("Rig")
    rig = bpy.data.objects.new("Rig", data)
    bpy.context.scene.collection.objects.link(rig)
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    bone = data.edit_bones.new("Bone")
    bone.head, bone.tail = (0, 0, 0), (0, 0, 1)
    bpy.ops.object.mode_set(mode="OBJECT")
    group = made.vertex_groups.new(name="Bone")
    group.add(range(8), 1.0, "REPLACE")
    modifier = made.modifiers.new("Armature", "ARMATURE")
    modifier.object = rig
    pose = rig.pose.bones["Bone"]
    pose.location = (0, 1, 0)
    bpy.context.view_layer.objects.active = made
    bpy.context.view_layer.update()
    return made


def linked(library):
    """A painted cube that lies in another file, which is written to `library`."""
    made = cube("Linked")
    made.data.materials.append(painted())
    bpy.data.libraries.write(str(library), {made})
    bpy.ops.wm.read_factory_settings(use_empty=True)
    with bpy.data.libraries.load(str(library), link=True) as (_, wanted):
        wanted.objects = ["Linked"]
    theirs = bpy.data.objects["Linked"]
    bpy.context.scene.collection.objects.link(theirs)
    return theirs
