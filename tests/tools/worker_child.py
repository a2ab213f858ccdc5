"""`python -m backend worker` with the prior that knows a ball: a process for tests to talk to.

    worker_child.py                    the worker
    worker_child.py generate FOLDER    a tiny job without a worker, which says what it does: see `run`
    worker_child.py refine FOLDER      the same, of FOLDER.glb
    worker_child.py resume FOLDER      goes on with either

    LOADING      seconds that loading the prior takes, all in one go
    ITERATION    seconds that the denoiser takes
    UNWRAP       seconds that the unwrapping process takes
    CARD_FAILS   a file: while it is there the denoiser raises what a card does after an illegal access

Like the real one, it hears requests before it imports torch.
"""

import importlib
import os
import sys
import time
from pathlib import Path

from backend.worker import desk
from tests.tools.short import SHORT


def seconds(name):
    return float(os.environ.get(name, "0"))


def prepare():
    """Put other things in the places of some real ones."""
    import torch

    from backend.jobs import priors
    from backend.results import deliver
    from backend.texture import unwrap
    from tests.tools.oracle import Oracle
    from tests.tools.refine_run import shorten

    class Slow(Oracle):
        def denoise(self, *arguments, **named):
            time.sleep(seconds("ITERATION"))
            if "CARD_FAILS" in os.environ and Path(os.environ["CARD_FAILS"]).exists():
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            return super().denoise(*arguments, **named)

    def load(*_):
        print("a library talks")
        os.write(1, b"and its C code, too\n")
        time.sleep(seconds("LOADING"))
        return Slow()

    shorten()
    priors.open_prior = load
    for module, name, value in SHORT:
        setattr(importlib.import_module(module), name, value)
    deliver.write_curves = lambda path, _: path.touch()  # a second, and nothing that is looked at here
    if "UNWRAP" in os.environ:
        unwrap.CHILD = Path(__file__).with_name("slow_unwrap.py")


def say(words):
    os.write(1, words.encode() + b"\n")


def run(command, folder):
    """With a checkpoint after every iteration, and a word while each of its two files is written."""
    from backend.jobs import generate, refine, resume
    from backend.jobs.folder import EventLog
    from backend.stages import checkpoint
    from tests.tools.refine_run import refine_job
    from tests.tools.tiny import tiny_job

    def to_the_disk(file):
        say("writing")
        time.sleep(0.02)
        real_flush(file)

    real_flush, checkpoint._to_the_disk = checkpoint._to_the_disk, to_the_disk
    often = {"checkpoint_seconds": 0.0, "snapshot_seconds": 0.2}
    if command == "generate":
        events = generate.generate(tiny_job(folder, **often))
    elif command == "refine":
        events = refine.refine(refine_job(folder, folder.with_suffix(".glb"), **often))
    else:
        events = resume.resume(folder)
    log = None
    for event in events:
        log = log or EventLog(folder)
        log.write(event)
        say(f"{type(event).__name__.lower()} {getattr(event, 'stage', '')}")
    assert "mesh.glb" in event.paths


class PreparedWorker(desk.Worker):
    def work(self):
        prepare()
        super().work()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        prepare()
        run(sys.argv[1], Path(sys.argv[2]))
    else:
        desk.Worker = PreparedWorker
        desk.serve()
