"""What the object looks like: cameras, fields, meshes and their renderers. It never sees a prompt."""
