"""backend/texture/unwrap_child.py after a sleep of UNWRAP seconds, for tests that stop a job while it is at work."""

import os
import time

from backend.texture import unwrap_child

if __name__ == "__main__":
    end = time.monotonic() + float(os.environ["UNWRAP"])
    if unwrap_child.sys.platform == "linux":
        unwrap_child.ctypes.CDLL(None).prctl(unwrap_child.PR_SET_PDEATHSIG, 9)
    while time.monotonic() < end:
        time.sleep(0.05)
    unwrap_child.main()
