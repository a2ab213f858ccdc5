"""A generator that runs in a thread, polled like the client. No `bpy`."""

from __future__ import annotations

import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from .process import kill

T = TypeVar("T")
LIMIT = 1000  # items that wait for a poll; beyond it the oldest go


class Stopped(Exception):
    """The user pressed Cancel."""


class Stop:
    """Cancel, for work that waits for a child process most of the time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self.asked = False

    def ask(self) -> None:
        """Kill the running child and any started later. From any thread."""
        with self._lock:
            self.asked = True
            if self._child:
                kill(self._child)

    def watch(self, child: subprocess.Popen[bytes] | None) -> None:
        """This child is running now; None: none is."""
        with self._lock:
            self._child = child
            if self.asked and child:
                kill(child)

    def check(self) -> None:
        """Raises Stopped once `ask` was called."""
        if self.asked:
            raise Stopped


class Background(Generic[T]):
    """Runs `work(stop)`, a generator, in a thread of its own.

    error   what ended it, None while it runs and after success; Stopped after `cancel`
    result  what the generator returned
    """

    def __init__(self, work: Callable[[Stop], Iterator[T]]) -> None:
        self.error: Exception | None = None
        self.result: Any = None
        self._stop = Stop()
        self._items: deque[T] = deque(maxlen=LIMIT)
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Still running. When it is False, one more `poll` gives the last items."""
        return self._thread.is_alive()

    def poll(self) -> list[T]:
        """What was yielded since the last poll. Never waits."""
        return [self._items.popleft() for _ in range(len(self._items))]

    def cancel(self) -> None:
        """Ask it to stop; `running` says when it has."""
        self._stop.ask()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end; False if it has not come."""
        self._thread.join(seconds)
        return not self.running

    def _run(self, work: Callable[[Stop], Iterator[T]]) -> None:
        try:
            steps = work(self._stop)
            while True:
                try:
                    self._items.append(next(steps))
                except StopIteration as end:
                    self.result = end.value
                    return
        except Exception as error:  # noqa: BLE001  the caller that polls shows it to the user
            self.error = error
