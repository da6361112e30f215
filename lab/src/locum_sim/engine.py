"""Virtual time: a queue of events, in order of their time.

This file knows nothing of clusters. Simultaneous events happen in the order in which they were requested, so that a run
is always the same.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush


class Engine:
    """True time, in seconds since the run began. Every simulated clock reads it through its own rate."""

    def __init__(self) -> None:
        self.now = 0.0
        #: How many events have happened.
        self.steps = 0
        #: The failure that ends the run; set where an exception would not get through.
        self.failure: Exception | None = None
        self._queue: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._serial = 0

    def at(self, when: float, act: Callable[..., None], *arguments: object) -> None:
        """Call ``act(*arguments)`` at ``when``, or now when that has passed. Cannot be cancelled."""
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
