"""One machine in service: kernel, guard, agent and scripts, as init system and kernel start, stop and end them.

Rules of this file: it plays the init system and the kernel's part in processes: forks, signals, deaths. What the guard
does is in :mod:`locum.node.guard`, carried out by :mod:`locum_sim.guard`.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterable
from random import Random
from typing import TYPE_CHECKING

from locum.node.guard.hold_page import HoldPage
from locum.rules.node import Identity
from locum_sim.agent import Agent
from locum_sim.clocks import MachineClock
from locum_sim.guard import AgentProcess, Guard
from locum_sim.network import Link
from locum_sim.scripts import Behaviour, Child
from locum_sim.simulated_kernel import Kernel

if TYPE_CHECKING:
    from locum_sim.world import World

#: How long an agent takes until it is at work, in seconds: it is forked from the guard. Mostly, and at worst.
FORK, SLOW_FORK = (0.003, 0.03), (0.03, 0.6)
#: How long a process may outlive its SIGKILL, in seconds: mostly at most, and at worst.
KILL_LATE, LONG_KILL_LATE = 0.05, 1.5
#: A system that has no process to spare refuses a fork with this error.
NO_PROCESS = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


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
        #: The configuration that is in force in the agent, and the one in the file, which a new guard reads.
        self.identity = self.file = identity
        self.clock = clock
        self.link = link
        self.behaviour = behaviour
        self.random = random
        self.handles = handles
        self.hz = hz
        self.kernel = Kernel(world.engine, clock, hz, random, self, links)
        self._new_memory()
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
        #: Steps of the agent until :attr:`_snare` goes off; 0: never.
        self.trap = 0
        self._snare: Callable[[], None] | None = None
        #: What is set to happen in the midst of the guard's work.
        self.guard_trap = Trap()
        self.guard: Guard | None = None
        self.process: AgentProcess | None = None
        #: The system has no process to spare.
        self.fork_fails = False
        #: Since when the guard's removals of addresses succeed, true time.
        self.removal_works_since = -1.0
        self._guard_random = Random(f"guard {world.scenario.seed} {name}")
        self._lives = 0
        self._boots = 0
        self._serials = 0
        self._freezes = 0
        #: No daemon is started before this, true time: the init system has given up for a while.
        self.abandoned_until = 0.0
        #: When the agent last looked at CLOCK_BOOTTIME: in which turn of its loop, and the time that it saw.
        self.last_look = (0, 0.0)
        #: When the agent's process went on after having been stopped, true time.
        self.went_on = -1.0

    def _new_memory(self) -> None:
        """The page's file is empty, as after a boot."""
        self.memory = bytearray(HoldPage.SIZE)
        #: The page, for those who only look.
        self.page = HoldPage(self.memory)

    def page_written(self) -> None:
        """A process has changed the page."""
        self.world.watchfulness.page_written(self)

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

    # -- the daemon ------------------------------------------------------------------------------------------

    def start_daemon(self) -> None:
        """The init system starts the guard."""
        if self.guard is not None or not self.powered:
            return
        if self.world.engine.now < self.abandoned_until:
            self.world.engine.at(self.abandoned_until, self._remembered, self.abandoned_until)
            return
        self.left = self.terminating = False
        # The locks are free once everything that an earlier guard forked has ended (:mod:`locum.node.guard.locks`).
        self.kill_children()
        self.world.checks.daemon_started(self)
        self.guard_frozen = self.agent_frozen = self.children_frozen = False
        self._stops_changed()
        self.guard = Guard(self, self._next_serial(), self._guard_random)
        self.guard.start()

    def _next_serial(self) -> int:
        self._serials += 1
        return self._serials

    def fork_agent(self, settings: Identity, step: Callable[[], None]) -> AgentProcess:
        """The guard forks; raises OSError when the system has no process to spare."""
        if self.fork_fails:
            raise NO_PROCESS
        self.process = process = AgentProcess(self, self._next_serial(), step)
        random = self._guard_random
        takes = random.uniform(*(FORK if random.random() < 0.8 else SLOW_FORK))
        self.world.engine.after(takes, self._agent_starts, process, settings)
        return process

    def _agent_starts(self, process: AgentProcess, settings: Identity) -> None:
        if process is not self.process:
            return
        if self.suspended:
            self.world.engine.after(0.05, self._agent_starts, process, settings)
            return
        if self.agent is not None:
            self.world.fail("processes", f"{self.name} has two agents")
        self.agent_frozen = False
        self._stops_changed()
        self.identity = settings
        if self.world.trace.on:
            self.say(f"agent starts{', adopting ' + self.page.incarnation if self.page.incarnation else ''}")
        self.agent = process.agent = agent = self.agent_class(self, process.pid)
        agent.start()

    def signal_agent(self, process: AgentProcess, number: signal.Signals) -> None:
        """The guard has sent a signal to its agent."""
        if process is not self.process or process.status is not None:
            return
        if number is signal.SIGKILL:
            # The kernel may have to wait for a system call of the process.
            random = self._guard_random
            late = random.random() * (KILL_LATE if random.random() < 0.7 else LONG_KILL_LATE)
            self.world.engine.after(late, self._killed, process)
        elif process.agent is None:
            self._end_agent(-number)
        elif number is signal.SIGTERM:
            process.agent.leave()
        elif number is signal.SIGHUP:
            process.agent.reload()

    def _killed(self, process: AgentProcess) -> None:
        if process is self.process:
            self._end_agent(-signal.SIGKILL)

    def agent_exited(self, agent: Agent) -> None:
        """The agent's node is done. Its script runner ends with it."""
        if agent is self.agent:
            self.kill_children()
            self._end_agent(0)

    def _end_agent(self, status: int) -> None:
        """No process of an agent is there any longer."""
        process, self.process = self.process, None
        if process is None:
            return
        process.status = status
        if self.agent is not None:
            self.agent.die()
            self.agent = None
        self.trap = 0
        self._orphan_child()
        if self.guard is not None:
            self.guard.signal(signal.SIGCHLD)

    def guard_ended(self, guard: Guard) -> None:
        """The guard has ended by itself: its node was told to leave."""
        if guard is not self.guard:
            return
        guard.die()
        self.guard = None
        if self.process is not None:
            self.world.fail("processes", f"the guard of {self.name} ends before its agent")
        self.left = True
        self.world.agent_ended(self)
        if self.comes_back:
            self.world.engine.after(self.random.uniform(0.5, 3.0), self._restart)

    def guard_failed(self, guard: Guard) -> None:
        """The guard could not start; the init system tries again."""
        if guard is self.guard:
            guard.die()
            self.guard = None
            self.world.engine.after(self.random.uniform(0.5, 3.0), self._restart)

    def guard_died_of_signal(self) -> None:
        """A signal has ended the guard, which was not yet ready for signals: the node never began."""
        if self.guard is not None:
            self.guard.die()
            self.guard = None
            self.left = True
            self.world.agent_ended(self)
            if self.comes_back:
                self.world.engine.after(self.random.uniform(0.5, 3.0), self._restart)

    def _remembered(self, until: float) -> None:
        if until == self.abandoned_until:
            self._restart()

    def _restart(self) -> None:
        if self.comes_back or not (self.left or self.terminating):
            self.start_daemon()

    def terminate(self, by_command: bool = False) -> None:
        """SIGTERM to the guard: an orderly leave. ``by_command``: the agent is asked, and it tells the guard."""
        if self.guard is None:
            return
        self.terminating = True
        if by_command and self.agent is not None and not self.agent_stopped:
            self.guard.signal(signal.SIGUSR2)
            self.agent.leave()
        else:
            self.guard.signal(signal.SIGTERM)

    def forks_again(self) -> None:
        """The system has processes to spare again."""
        self.fork_fails = False

    def removal_works(self) -> None:
        """The kernel carries out again what the guard asks."""
        if self.kernel.removal_fails:
            self.kernel.removal_fails = ""
            self.removal_works_since = self.world.engine.now
            self.world.watchfulness.removal_works(self)

    def reload(self) -> None:
        """SIGHUP to the guard: the configuration has changed."""
        if self.guard is not None:
            self.guard.signal(signal.SIGHUP)

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
        self._end_agent(-signal.SIGKILL)

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
        if self.guard is not None and was[1] != self.guard_stopped:
            self.world.watchfulness.guard_stops(self)
            if not self.guard_stopped:
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
        if self.guard is not None and not self.guard_stopped:
            self.guard.thawed()
