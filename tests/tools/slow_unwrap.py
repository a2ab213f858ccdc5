"""backend/texture/unwrap_child.py after a sleep of UNWRAP seconds, for tests that stop a job while it is at work."""

import os
import sys
import time
from pathlib import Path

from backend.texture import unwrap_child

if __name__ == "__main__":
    unwrap_child.die_with_parent(60)
    time.sleep(float(os.environ["UNWRAP"]))
    unwrap_child.main(Path(sys.argv[1]), Path(sys.argv[2]))
