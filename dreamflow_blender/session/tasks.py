"""Set up, check, fetch: tasks that run next to the jobs, one at a time, in a thread that never sees `bpy`.

A task is a generator of anything with `fraction` and `line`, or of the backend's own JSON objects.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..client.background import Background, Stop, Stopped


@dataclass
class Task:
    """What the panel shows of it."""

    name: str  # "setup", "repair", "remove", "check", "models", "fetch"
    title: str
    work: Background[Any]
    when_done: Callable[[list[Any]], None] | None = None  # on the main thread, with all that it said
    waits: Callable[[], str] | None = None  # what is in the way of when_done, as a line; "" where nothing is
    held: str = ""  # what `waits` said last
    fraction: float = 0.0
    line: str = ""
    said: list[Any] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    cancelling: bool = False


@dataclass(frozen=True)
class Problem:
    """Why the last task of this name ended badly."""

    name: str
    message: str
    todo: str
    log: str


current: Task | None = None
problem: Problem | None = None
_KEPT = 500  # of what a task says; fetching says much


def begin(
    name: str,
    title: str,
    work: Callable[[Stop], Iterator[Any]],
    when_done: Callable[[list[Any]], None] | None = None,
    waits: Callable[[], str] | None = None,
) -> None:
    """Start it; RuntimeError while another runs."""
    global current, problem
    if current is not None:
        raise RuntimeError(f"{current.title} is still running.")
    problem = None
    current = Task(name, title, Background(work), when_done, waits)


def tick() -> bool:
    """Look at the task; whether anything is new."""
    global current, problem
    task = current
    if task is None:
        return False
    running = task.work.running
    items = task.work.poll()
    for item in items:
        _hear(task, item)
    if running:
        return bool(items)
    error = task.work.error
    if error is None and task.waits and not task.cancelling and (line := task.waits()):
        new, task.held = line != task.held, line
        return new
    current = None
    if error is None:
        if task.when_done and not (task.waits and task.cancelling):
            task.when_done(task.said)  # it may begin the next
    elif not isinstance(error, Stopped):
        message = getattr(error, "message", "") or f"{task.title} failed: {error}"
        problem = Problem(task.name, message, getattr(error, "todo", ""), getattr(error, "log", ""))
    return True


def run_to_end() -> None:
    """Wait for the task, and what it begins, where no timer looks at it. ValueError says why it failed."""
    if current is None:  # an older task's problem is no one else's
        return
    while current is not None:
        if not tick() and current is not None:
            if current.held:  # nobody is there to do what it waits for
                held = current.held
                cancel()
                tick()
                raise ValueError(held)
            time.sleep(0.05)
    if problem is not None:
        raise ValueError(f"{problem.message} {problem.todo}".strip())


def _hear(task: Task, item: Any) -> None:
    task.said = [*task.said[-_KEPT:], item]
    if isinstance(item, dict):
        if item.get("event") == "progress" and item.get("total"):
            task.fraction = float(item["done"]) / float(item["total"])
            amount = f"{item['done'] / 1e9:.2f} of {item['total'] / 1e9:.2f} GB"
            task.line = f"{item.get('name', '')}  {item.get('note') or amount}"  # a note: why nothing moves
        elif isinstance(item.get("line"), str):
            task.line = item["line"]
            task.fraction = float(item.get("fraction", task.fraction))
    else:
        task.fraction, task.line = float(item.fraction), str(item.line)


def cancel() -> None:
    if current is not None:
        current.cancelling = True
        current.work.cancel()


def dismiss() -> None:
    """The user has read what went wrong."""
    global problem
    problem = None


def stop(seconds: float = 5.0) -> None:
    """End the running task, and wait for it."""
    global current
    if current is not None:
        current.work.cancel()
        current.work.wait(seconds)
        current = None
