"""Ctrl-C, SIGTERM and a closed terminal, which wait for the end of an iteration."""

from __future__ import annotations

import errno
import os
import signal
from types import FrameType

# What a terminal's Ctrl-C sends; what `kill`, systemd and batch queues send; and what the closing of a terminal sends.
# Windows has no SIGHUP. Below `nohup` it is ignored, and stays so: that is what nohup is for.
HANGUP = getattr(signal, "SIGHUP", None)
STOPS = [signal.SIGINT, signal.SIGTERM]
if HANGUP is not None and signal.getsignal(HANGUP) is not signal.SIG_IGN:
    STOPS.append(HANGUP)
READER_GONE = errno.EPIPE, errno.EIO  # of what read our output: a program, a terminal


class Interrupts:
    """Lets the first of these signals wait for the end of an iteration, once there is something to keep."""

    def __init__(self) -> None:
        self.signal = 0  # the first that came
        self.asked = False
        self.may_wait = False

    def __enter__(self) -> Interrupts:
        self._terminals = [handle for handle in (1, 2) if os.isatty(handle)]
        self._before = {number: signal.getsignal(number) for number in STOPS}
        self.listen()
        return self

    def listen(self) -> None:
        """Again, where a library has put handlers of its own."""
        for number in STOPS:
            signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == HANGUP:
            self._leave_terminals()
            if self.signal:  # a closing terminal sends it twice, by the shell and by the system
                return
        self.signal = self.signal or number
        if self.asked or not self.may_wait:
            raise KeyboardInterrupt
        self.asked = True

    def _leave_terminals(self) -> None:
        """To write to a terminal that is gone would be an error: from here on it goes nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for handle in self._terminals:
            if not os.isatty(handle):
                os.dup2(nowhere, handle)
        os.close(nowhere)
