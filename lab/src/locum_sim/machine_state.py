"""The part of a machine that its processes share and that outlives each of them.

Clock, kernel, the memory of the page, notes, configuration, the scripts under way, and which processes are stopped.
Rules of this file: it starts no process and knows none; :class:`locum_sim.host.Host` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from locum.node.guard.hold_page import HoldPage
from locum.rules.node import Identity
from locum_sim.clocks import MachineClock
from locum_sim.network import Link
from locum_sim.observers import Observers
from locum_sim.run_state import RunState
from locum_sim.scripts import Behaviour, Child
from locum_sim.simulated_kernel import Kernel, KernelListener
from locum_sim.trap import Trap


@dataclass(frozen=True)
class Make:
    """A machine to be simulated. ``links``: its public interfaces. ``handles``: the events that its scripts handle."""

    name: str
    identity: Identity
    clock: MachineClock
    link: Link
    behaviour: Behaviour
    random: Random
    hz: int
    links: tuple[str, ...]
    handles: tuple[str, ...]


class MachineState(KernelListener):
    """One machine in the run ``run``, as its own processes find it.

    A subclass receives the kernel's news (:class:`locum_sim.simulated_kernel.KernelListener`).
    """

    def __init__(self, run: RunState, observers: Observers, make: Make) -> None:
        self.run = run
        self.observers = observers
        self.name = make.name
        #: The configuration that is in force in the agent, and the one in the file, which a new guard reads.
        self.identity = self.file = make.identity
        self.clock = make.clock
        self.link = make.link
        self.behaviour = make.behaviour
        self.random = make.random
        self.handles = make.handles
        self.hz = make.hz
        self._links = list(make.links)
        self._boot_kernel()
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
        #: What is set to happen in the midst of the agent's work, and of the guard's.
        self.agent_trap, self.guard_trap = Trap(), Trap()
        #: Since when the guard's removals of addresses succeed, true time.
        self.removal_works_since = -1.0
        #: When the agent last looked at CLOCK_BOOTTIME: in which turn of its loop, and the time that it saw.
        self.last_look = (0, 0.0)
        #: When the agent's process went on after having been stopped, true time.
        self.went_on = -1.0
        self._lives = 0

    def _boot_kernel(self) -> None:
        """A kernel without addresses, and an empty page, as after a boot."""
        self.kernel = Kernel(self.run.engine, self.clock, self.hz, self.random, self, self._links)
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
