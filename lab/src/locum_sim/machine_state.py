"""The part of a machine that its processes share and that outlives each of them.

Clock, kernel, the memory of the page, notes, configuration, the scripts under way, and which processes are stopped.
Rules of this file: it starts no process and knows none; :class:`locum_sim.host.Host` does.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from locum.node.guard.hold_page import HoldPage
from locum.rules.node import Identity
from locum_sim.clocks import MachineClock
from locum_sim.network import Link
from locum_sim.observers import Observers
from locum_sim.run_state import RunState
from locum_sim.scripts import Behaviour, Child
from locum_sim.simulated_kernel import Kernel, KernelListener


def interfaces_of(identity: Identity) -> list[str]:
    """Every interface that carries public addresses, sorted."""
    return sorted({name for hosted in identity.addresses for name in hosted.interfaces})


class Trap:
    """Something that is to happen in the midst of a process's work, after so many of its steps."""

    def __init__(self) -> None:
        #: Steps until it happens; 0: never.
        self.steps = 0
        self._snare: Callable[[], None] | None = None

    def set(self, steps: int, snare: Callable[[], None]) -> None:
        """Call ``snare`` after so many steps."""
        self.steps, self._snare = max(1, steps), snare

    def clear(self) -> None:
        """Nothing happens."""
        self.steps, self._snare = 0, None

    def count(self) -> Callable[[], None] | None:
        """The process has made a step; what is to happen now, if anything is."""
        self.steps -= 1
        if self.steps:
            return None
        snare, self._snare = self._snare, None
        return snare


class MachineState(KernelListener):
    """One machine in the run ``run``, as its own processes find it. ``links``: its public interfaces.

    A subclass receives the kernel's news (:class:`locum_sim.simulated_kernel.KernelListener`).
    """

    def __init__(
        self,
        run: RunState,
        observers: Observers,
        name: str,
        identity: Identity,
        clock: MachineClock,
        link: Link,
        behaviour: Behaviour,
        random: Random,
        hz: int,
        links: list[str],
        handles: tuple[str, ...],
    ) -> None:
        self.run = run
        self.observers = observers
        self.name = name
        #: The configuration that is in force in the agent, and the one in the file, which a new guard reads.
        self.identity = self.file = identity
        self.clock = clock
        self.link = link
        self.behaviour = behaviour
        self.random = random
        self.handles = handles
        self.hz = hz
        self._boot_kernel(links)
        #: Address → (incarnation, interface): what was taken completely.
        self.notes: dict[str, tuple[str, str]] = {}
        #: The scripts under way.
        self.child: Child | None = None
        #: Seconds by which timers of processes fire late, at most.
        self.lateness = 0.001
        self.powered = True
        self.suspended = False
        self.agent_frozen = self.guard_frozen = self.children_frozen = False
        self.agent_stopped = self.guard_stopped = self.children_stopped = False
        #: Steps of the agent until :attr:`_snare` goes off; 0: never.
        self.trap = 0
        self._snare: Callable[[], None] | None = None
        #: What is set to happen in the midst of the guard's work.
        self.guard_trap = Trap()
        #: Since when the guard's removals of addresses succeed, true time.
        self.removal_works_since = -1.0
        #: When the agent last looked at CLOCK_BOOTTIME: in which turn of its loop, and the time that it saw.
        self.last_look = (0, 0.0)
        #: When the agent's process went on after having been stopped, true time.
        self.went_on = -1.0
        self._lives = 0

    def _boot_kernel(self, links: list[str]) -> None:
        """A kernel without addresses, and an empty page, as after a boot."""
        self.kernel = Kernel(self.run.engine, self.clock, self.hz, self.random, self, links)
        self.memory = bytearray(HoldPage.SIZE)
        #: The page, for those who only look.
        self.page = HoldPage(self.memory)

    def page_written(self) -> None:
        """A process has changed the page."""
        self.observers.watchfulness.page_written(self.name)

    @property
    def hosted(self) -> set[str]:
        """The public addresses of the configuration."""
        return {h.address for h in self.identity.addresses}

    def new_incarnation(self) -> str:
        """A name that was never used before."""
        self._lives += 1
        return f"{self.name}.{self._lives}"

    def say(self, text: str) -> None:
        """A line for the timeline."""
        self.run.trace.say(self.name, text)

    def kill_children(self) -> None:
        """SIGKILL to the scripts under way."""
        if self.child is not None:
            self.child.kill()
            self.child = None
            self.observers.checks.event_killed(self.name)

    def set_trap(self, steps: int, snare: Callable[[], None]) -> None:
        """Call ``snare`` in the midst of the agent's work, after so many micro-steps."""
        self.trap = max(1, steps)
        self._snare = snare

    def sprung(self) -> None:
        """The agent has made a step while a trap is set; what it was set for may happen now."""
        self.trap -= 1
        if self.trap or self._snare is None:
            return
        snare, self._snare = self._snare, None
        snare()
