"""The process in which xatlas runs: `python unwrap_child.py IN.npz OUT.npz`.

xatlas cannot be interrupted and holds the interpreter's lock, so nothing in its own process could time
it out. Run as a file, not as a module, so that the package's imports (torch: seconds) are not made.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
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


def main(source: Path, target: Path) -> None:
    import numpy as np

    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import charts

    with np.load(source, allow_pickle=False) as given:
        die_with_parent(float(given["timeout"]))
        uv, corners = charts.pack(
            given["v_pos"], given["t_pos_idx"], int(given["texture_size"]), int(given["padding"])
        )
    np.savez(target, v_tex=uv, t_tex_idx=corners)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
