"""`python -m backend worker` with the prior that knows a ball: a process for tests to talk to.

worker_child.py                    the worker
worker_child.py generate FOLDER    a tiny job, as the command line runs it
worker_child.py resume FOLDER      the same, gone on with

LOADING      seconds that loading the prior takes, all in one go
ITERATION    seconds that the denoiser takes
UNWRAP       seconds that the unwrapping process takes
SLOW_WRITES  seconds in the middle of a checkpoint's tensors, which are announced
"""

import io
import os
import sys
import time
from pathlib import Path

from backend import checkpoint, finish, pipeline, worker
from backend.job import EventLog
from dreamflow_blender.contract.protocol import Finished
from tests.oracle import Oracle
from tests.tiny import tiny_job


def seconds(name):
    return float(os.environ.get(name, "0"))


class Slow(Oracle):
    def denoise(self, *arguments):
        time.sleep(seconds("ITERATION"))
        return super().denoise(*arguments)


def load(name, device):
    print("a library talks")
    os.write(1, b"and its C code, too\n")
    time.sleep(seconds("LOADING"))
    return Slow()


def unwrap(*arguments, **settings):
    for _ in range(int(seconds("UNWRAP") / 0.05)):
        time.sleep(0.05)
        if settings["cancelled"]():
            break
    return real_unwrap(*arguments, **settings)


def write_tensors(file, tensors):
    """In two parts, with a word in between."""
    whole = io.BytesIO()
    real_write(whole, tensors)
    half = len(whole.getvalue()) // 2
    file.write(whole.getvalue()[:half])
    file.flush()
    os.write(1, b"writing\n")
    time.sleep(seconds("SLOW_WRITES"))
    file.write(whole.getvalue()[half:])


def run(command, folder):
    """Events as words on standard output; the record on the disk."""
    job = tiny_job(folder, checkpoint_seconds=0.0, snapshot_seconds=0.2)
    events = pipeline.generate(job) if command == "generate" else pipeline.resume(folder)
    log = None
    for event in events:
        log = log or EventLog(folder)
        log.write(event)
        os.write(1, f"{type(event).__name__.lower()} {getattr(event, 'stage', '')}\n".encode())
    assert isinstance(event, Finished)


if __name__ == "__main__":
    real_unwrap, real_write = finish.unwrap, checkpoint._write_tensors
    pipeline.open_prior = load
    finish.unwrap = unwrap
    finish.TURNTABLE_VIEWS = 4
    finish.write_curves = lambda path, _: path.touch()  # a second, and nothing that is looked at here
    if "SLOW_WRITES" in os.environ:
        checkpoint._write_tensors = write_tensors
    if sys.argv[1:]:
        run(sys.argv[1], Path(sys.argv[2]))
    else:
        worker.serve()
