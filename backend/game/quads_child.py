"""The process in which Instant Meshes runs: IN.obj OUT.obj FACES SECONDS. Run as a file, without torch's import.

It prints, and nothing in its own process could time it out.
"""

from __future__ import annotations

import faulthandler
import sys

import pyinstantmeshes


def main() -> None:
    """Writes OUT.obj, of quads alone: each polygon of a coarser mesh becomes as many quads as it has corners."""
    given, made, faces, seconds = sys.argv[1:]
    faulthandler.dump_traceback_later(float(seconds), exit=True)  # its parent may be gone
    coarse = max(1, int(faces) // 4)
    pyinstantmeshes.remesh_file(given, made, target_face_count=coarse, pure_quad=True, deterministic=True)


if __name__ == "__main__":
    main()
