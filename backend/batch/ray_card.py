"""What runs on a card of a Ray cluster: one worker process, and the jobs that the driver sends one after the other.

Only text crosses Ray: a job as JSON, and what became of it as JSON.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

from backend.batch.resident_worker import ResidentWorker
from backend.batch.share import RUNNING, STOPPED, CannotContinue, Share, state_of
from backend.batch.store import Store
from backend.errors import DreamFlowError
from backend.files import disk_errors
from backend.jobs.drive import Begin, End
from backend.jobs.folder import versions
from dreamflow_blender.contract import protocol as p

HELD_SECONDS = 15.0  # for the worker of a card that was lost, which ends by itself
TEXT = 2000  # characters of a log that are sent


class Card:
    """A Ray actor. `work` takes one job at a time; the others answer meanwhile."""

    def __init__(
        self, root: str, store: str, cwd: str, retry: bool, command: tuple[str, ...], variables: str
    ) -> None:
        import ray
        from ray.util import metrics

        Path(cwd).mkdir(parents=True, exist_ok=True)  # relative paths mean what they mean on the driver
        os.chdir(cwd)
        self._root, self._retry = Path(root), retry
        self._store = Store(store) if store else None
        environment = dict(os.environ)
        environment.pop("OMP_NUM_THREADS", None)  # Ray's own, which would change a job's bytes
        environment |= json.loads(variables)
        self._worker = ResidentWorker(environment, command)
        self._stopped = threading.Event()
        self._now: dict[str, Any] = {}
        self._node = f"{platform.node()} ({ray.util.get_node_ip_address()})"
        self._ended = metrics.Counter("dreamflow_jobs", "Jobs that have ended", tag_keys=("state",))
        self._seconds = metrics.Gauge("dreamflow_job_seconds", "Of the last job")
        self._share_done = metrics.Gauge(
            "dreamflow_stage_done", "Of the running job's stage, 0 to 1", tag_keys=("stage",)
        )

    def about(self) -> str:
        """The node, the versions on it and this process's id."""
        import ray

        found = {**versions(), "ray": ray.__version__}
        return json.dumps({"node": self._node, "pid": os.getpid(), "versions": found})

    def progress(self) -> str:
        """Where the running job is: prompt, stage, iteration, total, the worker's process id; {} where none runs."""
        return json.dumps({**self._now, "worker": self._worker.pid} if self._now else {})

    def stop(self) -> None:
        """The running job, after its iteration; no other one begins."""
        self._stopped.set()
        self._worker.cancel()

    def work(self, text: str) -> str:
        """Begin the job or go on with it; its state, and where it failed, why. Never raises."""
        job = p.decode_job(text)
        end: list[End] = []
        self._kept = False  # a checkpoint of this attempt
        self._now = {"prompt": job.prompt, "node": self._node, "stage": "", "iteration": 0, "total": 0}
        try:
            state = self._attempt(job, end)
        except DreamFlowError as error:
            end.append(p.Failed(error.kind, error.message, error.todo))
            state = STOPPED
        except CannotContinue:  # `end` says why
            state = STOPPED
        self._now = {}
        said: dict[str, Any] = {"state": state, "node": self._node, "kept": self._kept}
        match end[-1] if end else None:
            case p.Failed(kind, message, todo, detail):
                said |= {"kind": kind, "message": message, "todo": todo, "log": detail[-TEXT:]}
            case p.Finished(_, figures):
                said |= {"seconds": figures.get("seconds", 0.0), "read": figures.get("networks_read", 0)}
                self._seconds.set(float(said["seconds"]))
        self._ended.inc(tags={"state": state})
        return json.dumps(said)

    def _attempt(self, job: p.Job, ends: list[End]) -> str:
        folder = Path(job.folder)

        def run(_job: p.Job, request: Begin) -> tuple[End, list[str]]:
            warnings: list[str] = []
            end = self._worker.run(request, lambda event: self._hear(event, folder, warnings))
            ends.append(end)
            return end, warnings[-20:]

        with disk_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
        if self._store:
            self._store.pull(folder)
        share = Share(self._root, [job], self._retry, run, self._stopped.is_set)
        until = time.monotonic() + HELD_SECONDS
        while not share.attempt(job) and not self._stopped.is_set():
            if time.monotonic() > until:
                return RUNNING
            time.sleep(0.2)
        if self._store and folder.is_dir():
            self._store.push(folder)
        return state_of(job, share.record(job))

    def _hear(self, event: p.Event, folder: Path, warnings: list[str]) -> None:
        match event:
            case p.Warning(message):
                warnings.append(message)
            case p.Started(stage, total):
                self._now |= {"stage": stage, "iteration": 0, "total": total}
                if self._stopped.is_set():  # since before the job was sent
                    self._worker.cancel()
            case p.Progress(stage=stage, iteration=iteration, total=total):
                self._now |= {"stage": stage, "iteration": iteration, "total": total}
                self._share_done.set(iteration / max(1, total), tags={"stage": stage})
            case p.Checkpoint():
                self._kept = True
                if self._store:
                    self._store.push(folder)
