"""The lateness of an event loop: how late its turns come, and where it was blocked.

Rules of this file: it watches one loop, that of the thread that creates the object, and only reports. The loop calls
:meth:`Lateness.turn` at least every ``pace`` seconds. A thread checks the turns at the same pace; when a turn is
overdue, it samples the stack of the loop's thread more often, to find where the loop is blocked.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

#: Seconds: the longest time between two turns, the lateness that counts as a stop, and the time between two samples.
PACE = 0.25
LATE = 0.1
SAMPLE = 0.02
#: Stops of at least this number of seconds are logged.
WORTH_A_LINE = 0.25
#: How long stops are remembered, in seconds.
MEMORY = 3600.0
_MOST_REMEMBERED = 1000

_ROOT = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Stop(NamedTuple):
    """The loop was blocked for ``seconds`` in ``where`` ("" when unknown), ``at`` unix time in seconds.
    ``everything``: the whole process stopped, not the loop alone."""

    seconds: float
    where: str
    at: float
    everything: bool = False

    def __str__(self) -> str:
        if self.everything:
            return f"{self.seconds:.1f} s (the whole process: it was stopped, or the machine had no CPU time for it)"
        return f"{self.seconds:.1f} s in {self.where or 'an unknown place'}"


class Lateness:
    """Watches the loop of the thread that creates it. ``tell`` is called by that thread with each stop of WORTH_A_LINE
    or more."""

    def __init__(self, tell: Callable[[Stop], None], pace: float = PACE) -> None:
        self._tell = tell
        self._pace = pace
        self._own = threading.get_ident()
        self._turned = time.monotonic()
        self._turns = 0
        #: Samples of the present stop: place → count.
        self._seen: dict[str, int] = {}
        #: The lateness of the watching thread itself since the last turn.
        self._own_lateness = 0.0
        self._looked = time.monotonic()
        self._stops: deque[Stop] = deque(maxlen=_MOST_REMEMBERED)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lateness", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._turned = self._looked = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """Stop watching. Does not wait. Idempotent."""
        self._end.set()

    def turn(self) -> None:
        """The loop has turned."""
        now = time.monotonic()
        late = now - self._turned - self._pace
        self._turned = now
        self._turns += 1
        seen, self._seen = self._seen, {}
        # The watching thread may not have noticed its own lateness yet.
        stalled = self._own_lateness + max(now - self._looked - self._pace - LATE, 0.0)
        self._own_lateness = 0.0
        if late < LATE:
            return
        where = max(seen, key=lambda place: seen[place], default="")
        stop = Stop(late, where, time.time(), everything=stalled > late / 2)
        self._stops.append(stop)
        if late >= WORTH_A_LINE:
            self._tell(stop)

    def longest(self) -> Stop | None:
        """The longest stop of the last hour; None without one."""
        oldest = time.time() - MEMORY
        return max((stop for stop in self._stops if stop.at >= oldest), key=lambda stop: stop.seconds, default=None)

    def _watch(self) -> None:
        pause = self._pace
        while True:
            begun = time.monotonic()
            if self._end.wait(pause):
                return
            now = self._looked = time.monotonic()
            self._own_lateness += max(min(now - begun - pause, now - self._turned) - LATE, 0.0)
            turns = self._turns
            overdue = now - self._turned > self._pace + LATE
            pause = SAMPLE if overdue else self._pace
            if overdue:
                frame = sys._current_frames().get(self._own)
                if frame is not None and self._turns == turns:
                    place = place_of(frame)
                    self._seen[place] = self._seen.get(place, 0) + 1
                    if sum(self._seen.values()) > 100:
                        pause = self._pace


def place_of(frame: FrameType) -> str:
    """The place of a thread: the innermost line of this package, and its callee if that is Python as well:
    ``events/directory.py:96 (scan)``, ``machine/netlink/core.py:340 (_send)``."""
    own: FrameType | None = frame
    inner = frame
    while own is not None and not own.f_code.co_filename.startswith(_ROOT):
        own = own.f_back
    if own is None:
        return f"{os.path.basename(inner.f_code.co_filename)}:{inner.f_lineno} ({inner.f_code.co_name})"
    name = own.f_code.co_filename.removeprefix(_ROOT)
    called = "" if own is inner else f", called {os.path.basename(inner.f_code.co_filename)} {inner.f_code.co_name}"
    return f"{name}:{own.f_lineno} ({own.f_code.co_name}{called})"
