"""The common parts of all faults: chance, a victim, a duration, and which nodes must beat meanwhile.

One generator decides everything, so that a seed is a history.
"""

from __future__ import annotations

from random import Random

from locum_sim.admins import Admins
from locum_sim.clocks import MachineClock
from locum_sim.machine import Machine
from locum_sim.world import World

#: Only the wall clock silences a suspended machine. A machine that is suspended while its wall clock is set back within
#: this many seconds (more than the longest hold) has one fault too many.
DOUBLE = 4.0


class FaultKinds:
    """State and helpers of the faults of one run; ``random`` decides everything."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self._admins = Admins(world, Random(f"admins {world.scenario.seed}"))
        self._on = False
        self._round = 0
        #: In some runs most faults hit one machine, so that they accumulate.
        self._focus = random.choice((0.0, 0.0, 0.5, 0.8))
        self._victim = random.randrange(60)
        #: Wall clocks that were set, and by how much they are to be set back.
        self._stepped: list[tuple[Machine, MachineClock, float]] = []
        self._busy: dict[str, int] = {}
        self._quiet_since = dict.fromkeys(world.machines, -1.0)

    @property
    def admins(self) -> Admins:
        """The administrators of this run."""
        return self._admins

    def _someone(self) -> Machine:
        machines = list(self._world.machines.values())
        if self._random.random() < self._focus:
            return machines[self._victim % len(machines)]
        return self._random.choice(machines)

    def _while(self) -> float:
        """A duration: mostly about a hold, sometimes very short, sometimes long."""
        random, hold = self._random, self._world.scenario.hold
        chance = random.random()
        if chance < 0.2:
            return random.uniform(0.001, 0.1)
        if chance < 0.8:
            return hold * random.uniform(0.3, 2.5)
        return random.uniform(1.0, 12.0)

    def _say(self, text: str) -> None:
        if self._world.trace.on:
            self._world.trace.say("faults", text)

    def _disturb(self, machine: Machine, seconds: float) -> None:
        """Until some time after ``seconds`` this node is not required to beat."""
        name = machine.name
        self._busy[name] = self._busy.get(name, 0) + 1
        self._world.engine.after(seconds + 3.0, self._calm, name)

    def _calm(self, name: str) -> None:
        self._busy[name] -= 1
        self._quiet_since[name] = self._world.engine.now

    def _daemon_ended(self, name: str) -> None:
        self._disturb(self._world.machines[name], 3.0)
