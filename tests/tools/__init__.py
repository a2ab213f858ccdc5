"""What the tests share: tiny jobs, stand-in networks, meshes, servers."""
