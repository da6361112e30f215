"""What status says of the loops of agent and guard."""

from __future__ import annotations

import time

from msgspec.structs import replace

from locum.api.loop_report import loop_report
from locum.api.model import DaemonState, GuardStop, LoopReport
from locum.cli.status import _loop
from locum.lateness import MEMORY, Lateness, Stop
from locum.lines import standard_error


def test_the_guards_stop_is_reported_for_an_hour() -> None:
    lateness, now = Lateness(lambda _: None), time.time()
    assert loop_report(lateness, None).guard is None
    recent = loop_report(lateness, Stop(1.5, "node/guard/children.py:70 (start)", now - 5))
    assert recent.guard == GuardStop(1.5, "node/guard/children.py:70 (start)", now - 5, everything=False)
    assert recent.longest == 0.0
    assert recent.dropped == standard_error.dropped
    assert loop_report(lateness, Stop(1.5, "", now - MEMORY - 5)).guard is None


def test_both_loops_are_shown_in_the_same_form() -> None:
    agent = LoopReport(2.0, "events/directory.py:96 (scan)", 1.7e9)
    daemon = DaemonState(hold_left=1.0, hold=2.0, store="memory:", store_problem="", stage="member", activity=None)
    shown = {
        agent: "longest stop in the last hour 2.0 s in events/directory.py:96 (scan)",
        LoopReport(guard=GuardStop(1.2, "", 1.7e9, everything=True)): "the guard's 1.2 s with the whole process",
    }
    for loop, text in shown.items():
        assert text in str(_loop(replace(daemon, loop=loop)))
