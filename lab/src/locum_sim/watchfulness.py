"""Does the guard watch: what it owes the machine while it runs, compared with what happens.

Rules of this file: it sees the truth and never changes anything. Only a guard is judged that has run its loop without a
stop for long enough.

- **silence**: a public address that was configured when the hold ended is removed within :data:`ROOM`. The guard may
  notice a new hold, and one that the agent dropped, :data:`locum.node.guard.watch.LONGEST_SLEEP` later. When the kernel
  refuses the removal, the guard repeats it until it succeeds.
- **hung**: an agent that does not run is ended after :data:`locum.node.guard.watch.HUNG_AFTER` seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from locum.node.guard.watch import HUNG_AFTER, LONGEST_SLEEP
from locum_sim.run_state import RunState
from locum_sim.simulated_kernel import LONG_KILL_LATE
from locum_sim.views import MachineView

#: Seconds that timers, threads and the kernel's locks may take.
ROOM = 0.1


class _Hold:
    """The hold of one machine as its page shows it. True times."""

    def __init__(self) -> None:
        self.deadline = 0.0
        #: When the page changed from no hold to a hold.
        self.began = -math.inf
        #: When the agent dropped it; None: it ends by itself.
        self.dropped: float | None = None
        self.looking = False


class Watchfulness:
    """The comparison in one run."""

    def __init__(self, run: RunState, machines: Mapping[str, MachineView]) -> None:
        self._run = run
        self._machines = machines
        self._holds: dict[str, _Hold] = {}

    # -- silence ---------------------------------------------------------------------------------------------

    def page_written(self, name: str) -> None:
        """A field of the machine's page has changed."""
        machine, hold = self._machines[name], self._holds.get(name)
        if hold is None:
            hold = self._holds[name] = _Hold()
        deadline = machine.page.deadline
        if deadline == hold.deadline:
            return
        now, boot = self._run.engine.now, machine.clock.boot()
        if deadline and hold.deadline <= boot:
            hold.began = now
        hold.dropped = None if deadline else now
        hold.deadline = deadline
        if not hold.looking:
            hold.looking = True
            self._run.engine.after(0.0, self._look, machine, hold)

    def removal_works(self, name: str) -> None:
        """The kernel of the machine carries out again what the guard asks."""
        machine, hold = self._machines[name], self._holds.get(name)
        if hold is not None and not hold.looking:
            hold.looking = True
            self._run.engine.after(LONGEST_SLEEP + ROOM, self._look, machine, hold)

    def _look(self, machine: MachineView, hold: _Hold) -> None:
        hold.looking = False
        engine, clock = self._run.engine, machine.clock
        if hold.dropped is not None:
            ended, seen = hold.dropped, hold.dropped + LONGEST_SLEEP
        else:
            ended = clock.true(hold.deadline)
            seen = max(ended, hold.began + LONGEST_SLEEP)
        due = max(seen, machine.removal_works_since + LONGEST_SLEEP) + ROOM
        if engine.now < due:
            hold.looking = True
            engine.at(due, self._look, machine, hold)
            return
        since = machine.guard.watches_since if machine.guard is not None else None
        if since is None or since > ended - LONGEST_SLEEP or machine.guard_stopped or machine.kernel.removal_fails:
            return
        for address in machine.kernel.addresses:
            by_hand = (machine.name, address) in self._run.by_hand
            if machine.kernel.since[address] < ended and not by_hand:
                self._run.fail(
                    "silence", f"{machine.name} has {address} {engine.now - ended:.3f} s after the end of its hold"
                )

    # -- hung ------------------------------------------------------------------------------------------------

    def agent_stopped(self, name: str) -> None:
        """The agent alone is stopped."""
        machine = self._machines[name]
        if machine.process is not None:
            bound = (HUNG_AFTER + 2 * LONGEST_SLEEP) / machine.clock.rate + LONG_KILL_LATE + ROOM
            self._run.engine.after(bound, self._still_there, machine, machine.process, self._run.engine.now)

    def _still_there(self, machine: MachineView, process: object, stopped_at: float) -> None:
        since = machine.guard.watches_since if machine.guard is not None else None
        if since is None or since > stopped_at or machine.guard_stopped or machine.process is not process:
            return
        if machine.went_on < stopped_at:
            self._run.fail("hung", f"the agent of {machine.name} has not run since {stopped_at:.3f}, and is left")
