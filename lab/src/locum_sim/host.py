"""One machine in service: kernel, guard, agent and scripts, as the init system and the guard run them.

Rules of this file: it plays init system and guard as ``locum/guard`` has them. The guard knows the page and the list of
addresses; it acts a little late, and not at all while it is stopped or dead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING

import msgspec

from locum.rules.node import Identity
from locum_sim.agent import Agent
from locum_sim.clocks import MachineClock
from locum_sim.network import Link
from locum_sim.ports import SimulatedHoldPage
from locum_sim.scripts import Behaviour, Child
from locum_sim.simulated_kernel import Kernel

if TYPE_CHECKING:
    from locum_sim.world import World

#: How late the guard acts on a deadline at most, and how late it notices a dead agent, in seconds.
GUARD_LATE, CHILD_LATE = 0.004, 0.01
#: How long the guard may sleep although the page has changed.
LONGEST_SLEEP = 0.5
#: A guard that runs replaces an agent that has not run for this long.
HUNG_AFTER = 8.0
#: How long the guard takes to start, a Python program of its own, in seconds.
START = (0.12, 0.6)
#: How long an agent takes until it is at work, in seconds: it is forked from the guard. Mostly, and at worst.
FORK, SLOW_FORK = (0.003, 0.03), (0.03, 0.6)
#: An agent that dies this soon after its start has failed to start; after some of those in a row the guard pauses,
#: one second more each time up to the longest (``locum/node/guard/children.py``).
QUICK_DEATH = 5.0
FREE_STARTS, LONGEST_PAUSE = 3, 10.0


class Host:
    """See the module. ``links``: its public interfaces."""

    #: The agent; tests put mutated ones here.
    agent_class: type[Agent] = Agent

    def __init__(
        self,
        world: World,
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
        self.world = world
        self.name = name
        self.identity = identity
        self.clock = clock
        self.link = link
        self.behaviour = behaviour
        self.random = random
        self.handles = handles
        self.hz = hz
        self.kernel = Kernel(world.engine, clock, hz, random, self, links)
        self.page = self._new_page()
        #: Address → (incarnation, interface): what was taken completely.
        self.notes: dict[str, tuple[str, str]] = {}
        self.agent: Agent | None = None
        self.child: Child | None = None
        #: Seconds by which timers of processes fire late, at most.
        self.lateness = 0.001
        self.powered = True
        self.suspended = False
        #: The daemon ended in order and stays down until somebody starts it.
        self.left = False
        #: The guard was told to end in order.
        self.terminating = False
        #: It is started again once it has left.
        self.comes_back = False
        self.agent_frozen = self.guard_frozen = self.children_frozen = False
        self.agent_stopped = self.guard_stopped = self.children_stopped = False
        #: Micro-steps of the agent until :attr:`_snare` goes off; 0: never.
        self.trap = 0
        self._snare: Callable[[], None] | None = None
        self.guard = 0
        self._lives = 0
        self._boots = 0
        self._agents = 0
        self._enforced: float | None = 0.0
        self._guard_waits = False
        self._guard_due = False
        self._freezes = 0
        self._quick_deaths = 0
        self._agent_since = 0.0
        #: No daemon is started before this, true time: the init system has given up for a while.
        self.abandoned_until = 0.0
        #: The hold and margin of the configuration, in force from the agent's next start.
        self.next_hold: tuple[float, float] | None = None
        #: When the agent last looked at CLOCK_BOOTTIME: in which turn of its loop, and the time that it saw.
        self.last_look = (0, 0.0)
        #: When the agent's process went on after having been stopped, true time.
        self.went_on = -1.0

    def _new_page(self) -> SimulatedHoldPage:
        return SimulatedHoldPage(self._page_written)

    def _page_written(self) -> None:
        if self.page.deadline:
            self.deadline_set()
        else:
            self.page_cleared()

    @property
    def hosted(self) -> set[str]:
        """The public addresses of the configuration."""
        return {h.address for h in self.identity.addresses}

    @property
    def running(self) -> bool:
        """Whether the agent is there and may run."""
        return self.agent is not None and not self.agent_stopped

    def new_incarnation(self) -> str:
        """A name that was never used before."""
        self._lives += 1
        return f"{self.name}.{self._lives}"

    # -- what the kernel tells -------------------------------------------------------------------------------

    def may_speak(self, addresses: Iterable[str]) -> None:
        """The kernel may let addresses speak from now on."""
        self.world.checks.may_speak(self, addresses)

    def address_gone(self, address: str, interface: str) -> None:
        """Netlink."""
        if self.world.trace.on:
            self.say(f"kernel: {address} is gone from {interface}")
        if self.world.checks.running.get(self.name, ("", ""))[1] != address:
            self.world.promises.lost(self, address)
        if self.agent is not None:
            self.world.engine.after(0.0002, self._tell, self.agent.address_removed, address, interface)

    def address_new(self, address: str, interface: str) -> None:
        """Netlink."""
        if self.world.trace.on:
            self.say(f"kernel: {address} is on {interface}")
        if self.agent is not None:
            self.world.engine.after(0.0002, self._tell, self.agent.address_added, address, interface)

    def _tell(self, listener: Callable[..., None], *arguments: object) -> None:
        listener(*arguments)

    def say(self, text: str) -> None:
        """A line for the timeline."""
        self.world.trace.say(self.name, text)

    # -- the guard -------------------------------------------------------------------------------------------

    def start_daemon(self) -> None:
        """The init system starts the guard: a clean slate, then an agent."""
        if self.guard or not self.powered:
            return
        if self.world.engine.now < self.abandoned_until:
            self.world.engine.at(self.abandoned_until, self._remembered, self.abandoned_until)
            return
        self.left = self.terminating = False
        self._agents += 1
        self.guard = life = self._agents
        self.kill_children()
        self.world.checks.daemon_started(self)
        self.page.clear()
        self.notes.clear()
        self._enforced = 0.0
        self._quick_deaths = 0
        self._guard_due = self._guard_waits = False
        self.guard_frozen = self.agent_frozen = self.children_frozen = False
        self._stops_changed()
        self.world.engine.after(self.random.uniform(*START), self._clean, life)

    def _clean(self, life: int) -> None:
        if life != self.guard:
            return
        if self.guard_stopped:
            self.world.engine.after(0.05, self._clean, life)
            return
        for address in list(self.kernel.addresses):
            self.kernel.remove(address)
        self.kernel.restore_rules()
        self.kernel.held.clear()
        if self.world.trace.on:
            self.say("guard: clean slate")
        self._start_agent(life)

    def _start_agent(self, life: int) -> None:
        takes = self.random.uniform(*(FORK if self.random.random() < 0.8 else SLOW_FORK))
        self.world.engine.after(takes, self._agent_started, life)

    def _agent_started(self, life: int) -> None:
        if life != self.guard or self.agent is not None:
            return
        if self.suspended:
            self.world.engine.after(0.05, self._agent_started, life)
            return
        self._agents += 1
        self._agent_since = self.world.engine.now
        self.agent_frozen = False
        self._stops_changed()
        if self.next_hold is not None:
            hold, margin = self.next_hold
            self.identity = msgspec.structs.replace(self.identity, hold=hold, margin=margin)
            self.next_hold = None
        if self.world.trace.on:
            self.say(f"agent starts{', adopting ' + self.page.incarnation if self.page.incarnation else ''}")
        self.agent = agent = self.agent_class(self, self._agents)
        agent.start()
        if self.terminating:
            agent.leave()

    def deadline_set(self) -> None:
        """The page has changed."""
        if self.guard and not self._guard_waits:
            self._guard_waits = True
            self.world.engine.at(
                self.clock.true(self.page.deadline) + self.random.random() * GUARD_LATE, self._guard_looks, self.guard
            )

    def page_cleared(self) -> None:
        """The page says that there is no hold; the guard sees it when it wakes up next."""
        if self.guard:
            self.world.engine.after(self.random.random() * LONGEST_SLEEP, self._guard_sees_clear, self.guard)

    def _guard_sees_clear(self, life: int) -> None:
        if life == self.guard and not self.guard_stopped and self.page.deadline == 0.0 != self._enforced:
            self._enforced = 0.0
            self._silence()

    def _guard_looks(self, life: int) -> None:
        if life != self.guard:
            return
        self._guard_waits = False
        if self.guard_stopped:
            self._guard_due = True
            return
        self._guard_due = False
        deadline = self.page.deadline
        if deadline > self.clock.boot():
            self._enforced = None
            self.deadline_set()
        elif deadline and deadline != self._enforced:
            self._enforced = deadline
            self._silence()

    def _silence(self) -> None:
        if self.world.trace.on and (self.kernel.addresses or self.kernel.open()):
            self.say("guard: the hold has ended, removing all public addresses")
        self.kernel.shut()
        self.world.engine.after(self.random.random() * 0.003, self._remove_all, self.guard)

    def _remove_all(self, life: int) -> None:
        if life != self.guard or not self.powered:
            return
        if self.guard_stopped:
            self.world.engine.after(0.05, self._remove_all, life)
            return
        for address in list(self.kernel.addresses):
            self.kernel.remove(address)

    def agent_exited(self, agent: Agent) -> None:
        """The agent's node is done: the guard cleans up and ends as well."""
        agent.die()
        self.agent = None
        self.kill_children()
        self.page.clear()
        self.kernel.shut()
        for address in list(self.kernel.addresses):
            self.kernel.remove(address)
        self.guard = 0
        self.left = True
        self.world.agent_ended(self)
        if self.comes_back:
            # systemd: Restart=on-failure
            self.world.engine.after(self.random.uniform(0.5, 3.0), self._restart)

    def _remembered(self, until: float) -> None:
        if until == self.abandoned_until:
            self._restart()

    def _restart(self) -> None:
        if self.comes_back or not (self.left or self.terminating):
            self.start_daemon()

    def terminate(self) -> None:
        """SIGTERM to the guard: an orderly leave."""
        if self.guard:
            self.terminating = True
            if self.agent is not None:
                self.agent.leave()

    # -- processes that are stopped or killed ----------------------------------------------------------------

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

    def _orphan_child(self) -> None:
        """The runner notices that its agent is gone and kills its script."""
        child = self.child
        if child is not None:
            self.world.engine.after(self.random.random() * 0.05, self._kill_orphan, child)

    def _kill_orphan(self, child: Child) -> None:
        if self.child is child:
            if self.children_stopped:
                self.world.engine.after(0.02, self._kill_orphan, child)
            else:
                self.kill_children()

    def kill_children(self) -> None:
        """SIGKILL to the scripts under way."""
        if self.child is not None:
            self.child.kill()
            self.child = None
            self.world.checks.event_killed(self)

    def kill_agent(self) -> None:
        """SIGKILL; the guard starts another."""
        if self.agent is None:
            return
        self.agent.die()
        self.agent = None
        self.trap = 0
        self._orphan_child()
        if self.guard:
            quick = self.world.engine.now - self._agent_since < QUICK_DEATH
            self._quick_deaths = self._quick_deaths + 1 if quick else 0
            late = self.random.random() * CHILD_LATE
            pause = min(max(self._quick_deaths - FREE_STARTS, 0), LONGEST_PAUSE)
            if pause:
                late += pause + self.random.random() * LONGEST_SLEEP
            self.world.engine.after(late, self._agent_died, self.guard)

    def _agent_died(self, life: int) -> None:
        if life != self.guard or self.agent is not None:
            return
        if self.guard_stopped:
            self.world.engine.after(0.05, self._agent_died, life)
            return
        self._start_agent(life)

    def _stops_changed(self) -> None:
        """Work out who is stopped now, and let go on who is no more, in random order."""
        asleep = self.suspended or not self.powered
        was = (self.agent_stopped, self.guard_stopped, self.children_stopped)
        self.agent_stopped = self.agent_frozen or asleep
        self.guard_stopped = self.guard_frozen or asleep
        self.children_stopped = self.children_frozen or asleep
        go_on: list[Callable[[], None]] = []
        if was[0] and not self.agent_stopped:
            self.went_on = self.world.engine.now
            go_on.append(self._agent_goes_on)
        if was[1] and not self.guard_stopped:
            go_on.append(self._guard_goes_on)
        if self.child is not None:
            if self.children_stopped:
                self.child.freeze()
            elif was[2]:
                go_on.append(self.child.thaw)
        if len(go_on) > 1:
            self.random.shuffle(go_on)
        for act in go_on:
            self.world.engine.after(self.random.random() * 0.001, act)

    def _agent_goes_on(self) -> None:
        if self.agent is not None and not self.agent_stopped:
            self.agent.thawed()

    def _guard_goes_on(self) -> None:
        if self._guard_due and not self.guard_stopped:
            self._guard_looks(self.guard)
