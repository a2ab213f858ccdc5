"""A network namespace with loopback alone: `network_alone.py CMD...`, for what listens beyond loopback."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys

UNSHARE = ("unshare", "-n") if hasattr(os, "geteuid") and os.geteuid() == 0 else ("unshare", "-rn")
UP = struct.pack("16sH14s", b"lo", 0x49, b"")  # IFF_UP | IFF_LOOPBACK | IFF_RUNNING of loopback


def allowed() -> bool:
    """Whether this user may make one."""
    if not sys.platform.startswith("linux") or not shutil.which("unshare"):
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, 0x8914, UP)  # SIOCSIFFLAGS
        os.execvp(sys.argv[2], sys.argv[2:])
    os.execvp("unshare", [*UNSHARE, sys.executable, __file__, "--inside", *sys.argv[1:]])
