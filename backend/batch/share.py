"""A list of jobs that any number of processes share, on one folder and without a coordinator.

DIR/.batch/NAME.lock is held by the process that runs the job in DIR/NAME, from before it looks whether that is done
until its end; DIR/.batch/NAME.json says how the last attempt went. The system frees the lock of a process that dies.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from backend.batch.page import write_sheet
from backend.errors import DreamFlowError
from backend.files import disk_errors
from backend.jobs.drive import Begin, End, as_request
from backend.jobs.folder import job_so_far
from dreamflow_blender.contract.files import is_file, read_json, write_json
from dreamflow_blender.contract.jobfolder import JobFolder
from dreamflow_blender.contract.locks import hold, is_held, remove
from dreamflow_blender.contract.protocol import Cancelled, Failed, Finished, Job

RECORDS = ".batch"
DONE, SKIPPED, FAILED, STOPPED, RUNNING, WAITING = [
    "done",
    "skipped",
    "failed",
    "stopped",
    "running",
    "waiting",
]
# What is wrong with the machine, not with the job: such a job is tried again without being asked to
OF_THE_MACHINE = ("disk", "device", "card", "model", "worker")
ENDS_THE_PROCESS = ("disk", "device", "card")  # the next job would fare no better


Run = Callable[[Job, Begin], tuple[End, list[str]]]


class CannotContinue(Exception):
    """A failure after which this process begins no other job."""


@dataclass
class Record:
    """How the last attempt at a job went."""

    state: str
    seconds: float = 0.0  # of all attempts
    host: str = ""
    warnings: list[str] = field(default_factory=list)
    error: dict[str, str] = field(default_factory=dict)  # kind, message, todo


class Share:
    """The jobs as one process sees them.

    run      drives a job, and returns its last event and what it warned of
    stopped  whether this process is to begin no other job
    """

    def __init__(
        self,
        root: Path,
        jobs: Sequence[Job],
        retry: bool,
        run: Run,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._root = root
        self._records, self._jobs, self._retry, self._run = root / RECORDS, jobs, retry, run
        self._stopped = stopped
        with disk_errors(self._records):
            self._records.mkdir(parents=True, exist_ok=True)
        self.tried: set[str] = set()  # folders

    def work(self) -> None:
        """Run what is to be run, until nothing is left or another process has it. Raises DiskError, CannotContinue."""
        left = list(self._jobs)
        while True:
            held = [job for job in left if not self.attempt(job)]
            if len(held) == len(left):
                return
            left = held  # whoever had these may have died since

    def attempt(self, job: Job) -> bool:
        """Whether there is nothing more to be done about it; False where another process has it."""
        if self._stopped() or not self._is_due(job):
            return True
        with self._claimed(job) as mine:
            if not mine or is_held(JobFolder(job.folder).lock):
                return False
            if self._is_due(job):  # since the lock was free
                self._carry_out(job)
        return True

    def _is_due(self, job: Job) -> bool:
        state = state_of(job, self.record(job))
        return job.folder not in self.tried and (
            state in (WAITING, STOPPED) or (self._retry and state == FAILED)
        )

    def _carry_out(self, job: Job) -> None:
        self.tried.add(job.folder)
        before, began = self.record(job), time.monotonic()
        warnings: list[str] = []
        try:
            end, warnings = self._run(job, prepare(job))
        except DreamFlowError as error:  # another job is in its folder, say
            end = Failed(error.kind, error.message, error.todo)
        if isinstance(end, Finished):
            write_sheet(self._root, job.folder)
        record = Record(
            {Finished: DONE, Cancelled: STOPPED}.get(type(end), FAILED),
            round((before.seconds if before else 0.0) + time.monotonic() - began, 1),
            platform.node(),
            warnings,
        )
        if isinstance(end, Failed):
            record.error = {"kind": end.kind, "message": end.message, "todo": end.todo}
            # a library may make an error of its own of a signal
            if end.kind in OF_THE_MACHINE or self._stopped():
                record.state = STOPPED
        with suppress(OSError):  # a full disk: the job's own events say it too
            write_json(self._path(job, "json"), asdict(record))
        if isinstance(end, Failed) and end.kind in ENDS_THE_PROCESS:
            raise CannotContinue(f"{end.message} {end.todo}".strip())

    @contextmanager
    def _claimed(self, job: Job) -> Iterator[bool]:
        path = self._path(job, "lock")
        with disk_errors(path):
            file = hold(path)
        try:
            yield file is not None
        finally:
            if file is not None:
                remove(file)

    def record(self, job: Job) -> Record | None:
        """How the last attempt went; None where there was none, or where it cannot be read."""
        said = read_json(self._path(job, "json"))
        with suppress(TypeError):
            return Record(**said) if said else None
        return None

    def state(self, job: Job) -> str:
        """Now, for the report."""
        state = state_of(job, self.record(job))
        return RUNNING if state in (WAITING, STOPPED) and self._is_running(job) else state

    def _is_running(self, job: Job) -> bool:
        return is_held(self._path(job, "lock")) or is_held(JobFolder(job.folder).lock)

    def _path(self, job: Job, ending: str) -> Path:
        return self._records / f"{Path(job.folder).name}.{ending}"


def state_of(job: Job, record: Record | None) -> str:
    """What became of the job: its folder says it; where it never came so far, the record."""
    files = JobFolder(job.folder)
    if not os.path.lexists(files.job):
        return FAILED if record is not None and record.state == FAILED else WAITING
    last = files.last_event()
    if isinstance(last, Finished):
        return DONE
    if isinstance(last, Failed) and last.kind not in OF_THE_MACHINE:
        return FAILED
    return FAILED if record is not None and record.state == FAILED and last is None else STOPPED


def prepare(job: Job) -> Begin:
    """What begins the job or goes on with it. Raises InputError where another job is in its folder, and DiskError."""
    files = JobFolder(job.folder)
    if not os.path.lexists(files.job):  # what a process that was killed before it wrote that left behind
        for rest in files.path.glob(".*.part*"):
            if is_file(rest):
                with disk_errors(rest):
                    rest.unlink(missing_ok=True)
    found = job_so_far(job)
    return as_request(job) if found is None or isinstance(found, Finished) else found
