"""One run: the cluster of a seed, its trouble, its healing, and its outcome."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from locum.rules import schema
from locum.rules.hold import margin_for
from locum.rules.node import Identity
from locum.rules.schema import TunableRecord
from locum.store.base import Put
from locum_sim.checks import ADMIN
from locum_sim.clocks import MachineClock
from locum_sim.machine import Machine
from locum_sim.machine_state import Make
from locum_sim.network import Link
from locum_sim.observers import Observers
from locum_sim.run_state import RunState
from locum_sim.scenario import Scenario
from locum_sim.scripts import Behaviour


class World(RunState):
    """One run with everything in it. ``traced``: keep a timeline."""

    def __init__(self, scenario: Scenario, *, traced: bool = False) -> None:
        super().__init__(scenario, traced=traced)
        self.machines: dict[str, Machine] = {}
        self.observers = Observers(self, self.machines)
        self.checks = self.observers.checks
        self.promises = self.observers.promises
        #: The true time of the last healing.
        self.healed_at = 0.0
        #: The store's revision then.
        self.healed_revision = 0
        #: Commands of administrators that are planned and not yet committed.
        self.commands_under_way = 0
        #: Machines whose daemon was stopped permanently.
        self.retired: set[str] = set()
        self.store.observer = self.checks
        for number in range(scenario.nodes):
            machine = self._machine(number)
            self.machines[machine.name] = machine

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
        make = Make(
            name=name,
            identity=identity,
            clock=clock,
            link=Link(self.engine, Random(f"link {scenario.seed} {number}"), scenario.network),
            behaviour=Behaviour(Random(f"scripts {scenario.seed} {number}"), scenario.usual),
            random=random,
            hz=scenario.hz[number],
            links=tuple(scenario.interfaces),
            handles=scenario.handles[number],
        )
        return Machine(self, self.observers, make)

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
