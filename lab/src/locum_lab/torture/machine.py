"""The machine's lateness: for how long a task had to wait for a processor, a disk or memory.

The kernel counts it (Documentation/accounting/psi.rst, "some"): the time in which at least one runnable task did not
run. A cluster's reaction to a fault is a chain of steps, one after the other; while a step waits for the machine, its
task is one of those that wait. So the chain is late by at most the count, and a bound that grows by the count is as
valid on a busy machine as on an idle one. It may grow too much: other tasks' waiting is counted as well.
"""

from __future__ import annotations

import bisect
import threading
from typing import Self

from locum.clock import boottime

_FILES = ("/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory")
_INTERVAL = 0.1
#: How much of the past is remembered, in seconds.
_REMEMBERED = 600.0


def waited() -> float | None:
    """Seconds since boot in which a task waited; None when the kernel does not count it (CONFIG_PSI, psi=1)."""
    total = 0
    for path in _FILES:
        try:
            with open(path, encoding="ascii") as file:
                total += _some(file.read())
        except OSError:
            return None
    return total / 1e6


def _some(text: str) -> int:
    """Microseconds of ``some avg10=… avg60=… avg300=… total=N``."""
    for line in text.splitlines():
        if line.startswith("some "):
            return int(line.rpartition("=")[2])
    return 0


class Lateness:
    """The count, sampled in a separate thread while the ``with`` block lasts. ``known``: the kernel counts."""

    def __init__(self) -> None:
        self.known = waited() is not None
        self._times: list[float] = []
        self._counts: list[float] = []
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._sample, name="lateness", daemon=True)
        self._add()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def between(self, start: float, end: float) -> float:
        """Seconds in which a task waited between two boot times, rounded up to samples."""
        if not self.known or end <= start:
            return 0.0
        self._add()
        with self._lock:
            first = max(0, bisect.bisect_right(self._times, start) - 1)
            last = min(len(self._times) - 1, bisect.bisect_left(self._times, end))
            # At most the elapsed time: the sum of the three resources could exceed it.
            return min(self._counts[last] - self._counts[first], self._times[last] - self._times[first])

    def _sample(self) -> None:
        while not self._ended.wait(_INTERVAL):
            self._add()

    def _add(self) -> None:
        found = waited() or 0.0
        with self._lock:
            self._times.append(boottime())
            self._counts.append(found)
            while self._times[0] < self._times[-1] - _REMEMBERED:
                del self._times[:100], self._counts[:100]
