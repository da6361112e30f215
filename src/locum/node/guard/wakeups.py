"""What wakes the guard's main thread on a machine: a boot-time timer, and signals.

Rules of this file: it waits, and decides nothing. A poll time-out would not do for the hold's deadline: it does not
count suspended time (:mod:`locum.node.guard.system_calls`).
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from typing import Any

from locum.clock import boottime
from locum.lateness import Lateness, Stop
from locum.node.guard.system_calls import BootTimer
from locum.service_manager import ServiceManager

#: The signals that wake the guard.
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


class Wakeups:
    """See :class:`locum.node.guard.ports.WakeupsPort`. ``pace``: the longest that the loop sleeps, in seconds.

    ``manager`` is told when signals are handled, and then in every turn of the loop.
    """

    def __init__(self, pace: float, manager: ServiceManager) -> None:
        self._manager = manager
        self._stood: Callable[[Stop, Stop | None], None] = lambda _stop, _longest: None
        self._lateness = Lateness(lambda stop: self._stood(stop, self._lateness.longest()), pace=pace)
        self._timer = BootTimer()
        self._signals: list[int] = []
        self._wakeup_read, self._wakeup_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._timer.fd, select.POLLIN)
        self._poll.register(self._wakeup_read, select.POLLIN)

    def boot(self) -> float:
        """See WakeupsPort."""
        return boottime()

    def start(self, stood: Callable[[Stop, Stop | None], None]) -> None:
        """See WakeupsPort."""
        self._stood = stood
        for number in HANDLED:
            signal.signal(number, lambda received, _frame: self._signals.append(received))
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        self._lateness.start()
        self._manager.ready()

    def wait(self, until: float) -> Sequence[int]:
        """See WakeupsPort."""
        self._manager.alive(boottime())
        self._timer.set(until)
        self._poll.poll()
        self._lateness.turn()
        self._timer.clear()
        self._drain()
        received, self._signals = self._signals, []
        return received

    def _drain(self) -> None:
        try:
            while os.read(self._wakeup_read, 512):
                pass
        except BlockingIOError:
            pass

    def pause(self, seconds: float) -> None:
        """See WakeupsPort."""
        time.sleep(seconds)

    def await_calls(self, calls: Iterable[Future[Any]], limit: float) -> bool:
        """See WakeupsPort."""
        return not wait(list(calls), limit).not_done

    def close(self) -> None:
        """See WakeupsPort."""
        self._lateness.close()
