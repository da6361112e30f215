"""The one clock of safety decisions.

Rules of this file: CLOCK_BOOTTIME counts suspended time, never jumps backwards and cannot be set, so a machine that
slept knows that its hold has ended.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The two clocks of a machine, for code that also runs in simulated time."""

    def boot(self) -> float:
        """CLOCK_BOOTTIME, in seconds."""
        ...

    def wall(self) -> float:
        """Unix time, in seconds."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def boot(self) -> float:
        return boottime()

    def wall(self) -> float:
        return time.time()


def boottime() -> float:
    """Seconds since boot, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
