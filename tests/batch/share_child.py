"""One of several processes on one DIR: `share_child.py ROOT`, with ROOT/l.txt. Prints the prompts that it ran."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

from backend.batch import commands
from backend.cli.arguments import parser
from backend.cli.batch import read_jobs
from tests.batch.test_share import Jobs

if __name__ == "__main__":
    jobs = Jobs()
    jobs.during = lambda _prompt: time.sleep(0.05)
    typed = ["batch", f"{sys.argv[1]}/l.txt", "--out", str(Path(sys.argv[1]) / "out"), "--prior", "sd"]
    args = parser().parse_args(typed)
    code = commands.run(args, read_jobs(args), typed, io.StringIO(), lambda *_: lambda _event: None, jobs)
    print(json.dumps([prompt for _, prompt in jobs.began]))
    sys.exit(code)
