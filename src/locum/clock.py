"""The one clock of safety decisions.

CLOCK_BOOTTIME counts suspended time, never jumps backwards and is not set by anybody, so that a machine
that slept knows that its hold is over. See design, "Holding an address".
"""

from __future__ import annotations

import time


def boottime() -> float:
    """Seconds since boot, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
