"""Ctrl-C and SIGTERM, which wait for the end of an iteration."""

from __future__ import annotations

import signal
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)  # a terminal's Ctrl-C; what `kill`, systemd and batch queues send


class Interrupts:
    """Lets the first Ctrl-C or SIGTERM wait for the end of an iteration, once there is something to keep."""

    def __init__(self) -> None:
        self.signal = 0  # the first that came
        self.asked = False
        self.may_wait = False

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._handle) for number in STOPS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if self.asked or not self.may_wait:
            raise KeyboardInterrupt
        self.asked = True
