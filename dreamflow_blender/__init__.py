"""DreamFlow for Blender: a prompt becomes a textured mesh in the scene.

The package imports without `bpy`, so that tests and the backend can share `contract`.
"""
