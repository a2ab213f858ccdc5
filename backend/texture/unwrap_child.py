"""The process in which xatlas runs: an npz in by standard input, an npz out.

xatlas cannot be interrupted and holds the interpreter's lock, so nothing in its own process could time
it out. Run as a file, not as a module, so that the package's imports (torch: seconds) are not made.
"""

from __future__ import annotations

import ctypes
import faulthandler
import io
import os
import signal
import struct
import sys
import threading
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent(timeout: float) -> None:
    """End this process when its parent ends, in the middle of any work.

    The parent holds the other end of standard input and never writes: the end of it is the end of the
    parent. The thread that waits for it sleeps while xatlas holds the lock, so Linux is asked to
    kill, and everywhere (Windows and macOS have no such request) a watchdog outside the interpreter
    ends the process after the time that the parent would have given it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock would spoil a normal exit
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    faulthandler.dump_traceback_later(timeout, exit=True)


def main() -> None:
    """Reads the size of its input in eight bytes and the input; standard input then stays open."""
    out = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints
    source = read(struct.unpack("<Q", read(8))[0])
    import numpy as np

    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import charts
    import packing

    with np.load(io.BytesIO(source), allow_pickle=False) as given:
        die_with_parent(float(given["timeout"]))
        v_pos, tri = given["v_pos"], given["t_pos_idx"]
        size, padding = int(given["texture_size"]), int(given["padding"])
        weight = given.get("weight")
    flat = charts.cube_charts(v_pos, tri, size, weight)
    uv, corners = packing.pack_well(
        v_pos, tri, flat, size, padding, lambda given, faces: charts.halved(given, faces, weight)
    )
    made = io.BytesIO()
    np.savez(made, v_tex=uv, t_tex_idx=corners)
    with os.fdopen(out, "wb") as file:
        file.write(made.getvalue())


def read(size: int) -> bytes:
    """So many bytes of standard input; ends this process where the parent has ended before."""
    found = bytearray()
    while len(found) < size:
        chunk = os.read(0, min(size - len(found), 1 << 20))
        if not chunk:
            sys.exit("the parent has ended")
        found += chunk
    return bytes(found)


if __name__ == "__main__":
    main()
