"""`python guard.py COMMAND ...`: runs a command and ends with its exit code, or with its parent, whichever is first.

The parent holds the other end of standard input and never writes. A process that is killed cannot end its children;
the end of its pipe is seen everywhere. Standard library alone, run as a file: it may be any Python.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main(command: list[str]) -> int:
    """The command's exit code; ends by the signal that ended the command."""
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"error: {command[0]} cannot be started: {error.strerror}\n")
        return 127
    threading.Thread(target=watch, args=(child,), daemon=True).start()
    code = child.wait()
    if code < 0:
        os.kill(os.getpid(), -code)
    return code


def watch(child: subprocess.Popen[bytes]) -> None:
    """Waits for the parent's end, and ends the command and all that it has started: on POSIX, our whole group."""
    while os.read(0, 1):
        pass
    if os.name == "nt":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(child.pid)], capture_output=True)
        os._exit(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
