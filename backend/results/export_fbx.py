"""FBX by a Blender of the user's: no other program that may be passed on writes it as well."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from backend.errors import InputError
from backend.files import disk_errors

SECONDS = 300
IN_BLENDER = """
import bpy, sys
given, made = sys.argv[sys.argv.index("--") + 1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=given)
bpy.ops.export_scene.fbx(filepath=made, path_mode="COPY", embed_textures=True)
"""


def check_blender(blender: str) -> str:
    """The program's path. Raises InputError where there is none."""
    found = shutil.which(blender)
    if found is None:
        raise InputError(
            f"FBX is written by Blender, and there is no program {blender!r}.",
            "Name Blender's program with --blender, install Blender, or choose another format.",
        )
    return found


def fbx_files(glb: bytes, name: str, blender: str) -> dict[str, bytes]:
    """A GLB as Blender imports and exports it, its textures in the FBX. Raises InputError, DiskError."""
    program = check_blender(blender)
    with disk_errors(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="dreamflow-") as place:
        given, made = Path(place, f"{name}.glb"), Path(place, f"{name}.fbx")
        given.write_bytes(glb)
        command = [program, "-b", "--factory-startup", "--python-exit-code", "1", "--python-expr", IN_BLENDER]
        try:
            done = subprocess.run(
                [*command, "--", str(given), str(made)], capture_output=True, check=False, timeout=SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(
                f"{program} could not write the FBX: {error}", "Name another Blender with --blender."
            ) from error
        if done.returncode or not made.is_file():
            lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
            raise InputError(
                f"{program} left no FBX, and said: {lines[-1] if lines else 'nothing'}",
                "Name a Blender of 4.2 or later with --blender, or import the GLB into Blender and export it there.",
            )
        return {f"{name}.fbx": made.read_bytes()}
