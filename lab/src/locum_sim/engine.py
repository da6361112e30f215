"""Virtual time: a queue of things that happen, in order of their time.

Rules of this file: it knows nothing of clusters. Two things at the same time happen in the order in which they
were asked for, so that a run is the same every time.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush


class Engine:
    """True time, in seconds since the run began. No clock in the simulation reads it directly but through its rate."""

    def __init__(self) -> None:
        self.now = 0.0
        #: Things that have happened so far.
        self.steps = 0
        #: What ends the run; set where an exception would not get through.
        self.failure: Exception | None = None
        self._queue: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._serial = 0

    def at(self, when: float, act: Callable[..., None], *arguments: object) -> None:
        """Call ``act(*arguments)`` at ``when``, or now when that has passed. Cannot be taken back."""
        self._serial += 1
        heappush(self._queue, (when if when > self.now else self.now, self._serial, act, arguments))

    def after(self, delay: float, act: Callable[..., None], *arguments: object) -> None:
        """Call ``act(*arguments)`` in ``delay`` seconds."""
        self.at(self.now + delay, act, *arguments)

    def run(self, until: float) -> None:
        """Let time pass until ``until``."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            when, _, act, arguments = heappop(queue)
            self.now = when
            self.steps += 1
            act(*arguments)
            if self.failure is not None:
                raise self.failure
        self.now = until
