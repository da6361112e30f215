"""One run: the cluster of a seed, its trouble, its healing, and its outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from locum.rules import schema
from locum.rules.hold import margin_for
from locum.rules.node import Identity
from locum.rules.schema import TunableRecord
from locum.store.base import Put
from locum_sim.checks import ADMIN, Checks, Violation
from locum_sim.clocks import EPOCH, MachineClock
from locum_sim.engine import Engine
from locum_sim.host import Host
from locum_sim.machine import Machine
from locum_sim.network import Link
from locum_sim.promises import Promises
from locum_sim.scenario import Scenario
from locum_sim.scripts import Behaviour
from locum_sim.service import StoreService
from locum_sim.trace import Trace
from locum_sim.watchfulness import Watchfulness


class World:
    """One run with everything in it. ``traced``: keep a timeline."""

    def __init__(self, scenario: Scenario, *, traced: bool = False) -> None:
        self.scenario = scenario
        self.engine = Engine()
        self.trace = Trace(self.engine, traced)
        self.checks = Checks(self)
        self.promises = Promises(self)
        self.watchfulness = Watchfulness(self)
        self.faults: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        #: The true time of the last healing.
        self.healed_at = 0.0
        #: The store's revision then.
        self.healed_revision = 0
        #: Commands of administrators that are planned and not yet committed.
        self.commands_under_way = 0
        #: (machine, address) configured by hand.
        self.by_hand: set[tuple[str, str]] = set()
        #: Machines whose daemon was stopped permanently.
        self.retired: set[str] = set()
        self.store = StoreService(self.engine, Random(f"store {scenario.seed}"), scenario.history)
        self.store.observer = self.checks
        self.machines: dict[str, Machine] = {}
        for number in range(scenario.nodes):
            machine = self._machine(number)
            self.machines[machine.name] = machine
        #: Called when another node ended a node's membership; the faults know whether that was fair.
        self.on_expiry: Callable[[str, str], None] | None = None
        #: Called when a daemon has ended by itself.
        self.on_end: Callable[[Host], None] | None = None

    def _machine(self, number: int) -> Machine:
        scenario, name = self.scenario, f"n{number + 1}"
        random = Random(f"machine {scenario.seed} {number}")
        hold = scenario.holds[number]
        identity = Identity(
            name=name,
            hold=hold,
            margin=margin_for(hold),
            number=number if scenario.numbered else None,
            addresses=scenario.hosted[number],
            machine=f"{name} boot 0",
            probe=True,
        )
        clock = MachineClock(
            self.engine, random.uniform(1, 1e6), scenario.rates[number], wall_error=random.uniform(-0.5, 0.5)
        )
        return Machine(
            world=self,
            name=name,
            identity=identity,
            clock=clock,
            link=Link(self.engine, Random(f"link {scenario.seed} {number}"), scenario.network),
            behaviour=Behaviour(Random(f"scripts {scenario.seed} {number}"), scenario.usual),
            random=random,
            hz=scenario.hz[number],
            links=list(scenario.interfaces),
            handles=scenario.handles[number],
        )

    # -- called by the parts ---------------------------------------------------------------------------------

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

    def agent_ended(self, machine: Host) -> None:
        """An agent has left in order."""
        if self.on_end is not None:
            self.on_end(machine)

    def fail(self, invariant: str, text: str) -> None:
        """A check has failed. A task of a simulated process may catch the exception; the run ends nevertheless."""
        violation = Violation(invariant, text)
        self.engine.failure = self.engine.failure or violation
        raise violation

    def defect(self, name: str, error: object) -> None:
        """A program has failed unexpectedly."""
        self.engine.failure = self.engine.failure or Violation("defect", f"{name}: {error!r}")

    def end(self) -> None:
        """The run is over: end every process."""
        for machine in self.machines.values():
            if machine.agent is not None:
                machine.agent.die()
                machine.agent.loop.bury()
            if machine.guard is not None:
                machine.guard.bury()

    # -- time ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Tunables are set and every daemon is started."""
        self.promises.begin()
        self.set_tunables()
        for machine in self.machines.values():
            self.engine.after(machine.random.random() * 0.5, machine.start_daemon)

    def set_tunables(self) -> None:
        """An admin sets the tunables of this run, if the store does not have them."""
        for name, value in sorted(self.scenario.tunables.items()):
            if self.store.core.get(f"tunable/{name}") is None:
                self.store.commit(ADMIN, (), (Put(f"tunable/{name}", schema.encode(TunableRecord(value))),))

    def run_for(self, seconds: float) -> None:
        """Let time pass."""
        self.engine.run(self.engine.now + seconds)

    def run_until(self, done: Callable[[], bool], limit: float, pause: float = 0.1) -> bool:
        """Let time pass until ``done()``, tested at intervals; False after ``limit`` seconds."""
        end = self.engine.now + limit
        while not done():
            if self.engine.now >= end:
                return False
            self.engine.run(min(self.engine.now + pause, end))
        return True
