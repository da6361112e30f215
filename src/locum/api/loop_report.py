"""The state of the daemon's event loop, for ``locum status``.

This file only reads memory.
"""

from __future__ import annotations

import time

from locum.api.model import GuardStop, LoopReport
from locum.lateness import MEMORY, Lateness, Stop
from locum.lines import standard_error
from locum.threads import busy_calls

#: Calls that take longer are shown, seconds.
HANGING = 1.0


def loop_report(lateness: Lateness, guard: Stop | None) -> LoopReport:
    """The stops of this process's loop (``lateness``), calls that hang on its threads, and lines lost from its log.

    ``guard``: the longest stop of the guard's loop.
    """
    hanging = tuple(f"{call.what} for {call.seconds:.0f} s" for call in busy_calls(HANGING))
    stop = lateness.longest() or Stop(0.0, "", 0.0)
    guards = None
    if guard is not None and guard.at >= time.time() - MEMORY:
        guards = GuardStop(guard.seconds, guard.where, guard.at, guard.everything)
    return LoopReport(stop.seconds, stop.where, stop.at, stop.everything, hanging, standard_error.dropped, guards)
