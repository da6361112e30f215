"""Whether the daemon's event loop turns, for ``locum status``.

Rules of this file: it only looks at what is in memory.
"""

from __future__ import annotations

from locum.api.model import LoopReport
from locum.lateness import Lateness
from locum.lines import standard_error
from locum.threads import busy_calls

#: Calls that take longer are shown, seconds.
HANGING = 1.0


def loop_report(lateness: Lateness) -> LoopReport:
    """What ``lateness`` has seen of this process's loop, what hangs on its threads, and what its log has lost."""
    hanging = tuple(f"{call.what} for {call.seconds:.0f} s" for call in busy_calls(HANGING))
    stop = lateness.longest()
    if stop is None:
        return LoopReport(hanging=hanging, dropped=standard_error.dropped)
    return LoopReport(stop.seconds, stop.where, stop.at, stop.everything, hanging, standard_error.dropped)
