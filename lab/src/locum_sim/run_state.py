"""What every part of a run shares: time, timeline, store, counters, and the first failure.

This file knows no machine and no process. Machines are called by their names here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from locum_sim.clocks import EPOCH
from locum_sim.engine import Engine
from locum_sim.scenario import Scenario
from locum_sim.service import StoreService
from locum_sim.trace import Trace


class Violation(Exception):
    """An invariant does not hold; ``invariant`` is its name (I1 ... I9, "liveness" and the like)."""

    def __init__(self, invariant: str, text: str) -> None:
        # With both arguments, so that it can be passed between processes.
        super().__init__(invariant, text)
        self.invariant = invariant
        self.text = text

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"


class RunState:
    """The state of one run. ``traced``: keep a timeline."""

    def __init__(self, scenario: Scenario, *, traced: bool) -> None:
        self.scenario = scenario
        self.engine = Engine()
        self.trace = Trace(self.engine, traced)
        self.store = StoreService(self.engine, Random(f"store {scenario.seed}"), scenario.history)
        self.faults: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        #: (machine, address) configured by hand.
        self.by_hand: set[tuple[str, str]] = set()
        #: Called with (node, incarnation) when another node ended a node's membership; the faults know whether that
        #: was fair.
        self.on_expiry: Callable[[str, str], None] | None = None
        #: Called with the machine when a daemon has ended by itself.
        self.on_end: Callable[[str], None] | None = None

    def wall(self) -> float:
        """The true unix time."""
        return EPOCH + self.engine.now

    def noted(self, text: str) -> None:
        """A rule has notified the admin; the first words are counted."""
        self.notes[" ".join(word for word in text.split()[:6] if not any(c.isdigit() for c in word))] += 1

    def count_event(self, event: str) -> None:
        """Count: scripts of ``event`` have started on a machine."""
        self.events[event] += 1

    def expired(self, name: str, incarnation: str) -> None:
        """Another node ended a node's membership."""
        if self.on_expiry is not None:
            self.on_expiry(name, incarnation)

    def daemon_ended(self, name: str) -> None:
        """The daemon of a machine has ended by itself."""
        if self.on_end is not None:
            self.on_end(name)

    def fail(self, invariant: str, text: str) -> None:
        """A check has failed. A task of a simulated process may catch the exception; the run ends nevertheless."""
        violation = Violation(invariant, text)
        self.engine.failure = self.engine.failure or violation
        raise violation

    def defect(self, name: str, error: object) -> None:
        """A program has failed unexpectedly."""
        self.engine.failure = self.engine.failure or Violation("defect", f"{name}: {error!r}")
