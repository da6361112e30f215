"""The observers of a run, together.

Rules of this file: below everything that acts. What happens on a machine is reported to the observers by the machine's
name; they look at it through :mod:`locum_sim.views`, and judge.
"""

from __future__ import annotations

from collections.abc import Mapping

from locum_sim.checks import Checks
from locum_sim.promises import Promises
from locum_sim.run_state import RunState
from locum_sim.views import MachineView
from locum_sim.watchfulness import Watchfulness


class Observers:
    """``machines``: name → machine, of the whole cluster; it may be filled later."""

    def __init__(self, run: RunState, machines: Mapping[str, MachineView]) -> None:
        self.promises = Promises(run, machines)
        self.checks = Checks(run, machines, self.promises)
        self.watchfulness = Watchfulness(run, machines)
