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

from locum.rules.node import Identity
from locum_sim.agent import Agent
from locum_sim.guard import AgentProcess, Guard
from locum_sim.machine_state import MachineState, Make
from locum_sim.observers import Observers
from locum_sim.run_state import RunState
from locum_sim.scripts import Child
from locum_sim.simulated_kernel import KILL_LATE, LONG_KILL_LATE

#: How long an agent takes until it is at work, in seconds: it is forked from the guard. Mostly, and at worst.
FORK, SLOW_FORK = (0.003, 0.03), (0.03, 0.6)
#: A system that has no process to spare refuses a fork with this error.
NO_PROCESS = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


class Host(MachineState):
    """See the module."""

    def __init__(self, run: RunState, observers: Observers, make: Make) -> None:
        super().__init__(run, observers, make)
        self.agent: Agent | None = None
        self.guard: Guard | None = None
        self.process: AgentProcess | None = None
        #: The daemon ended in order and stays down until somebody starts it.
        self.left = False
        #: The guard was told to end in order.
        self.terminating = False
        #: It is started again once it has left.
        self.comes_back = False
        #: The system has no process to spare.
        self.fork_fails = False
        self._guard_random = Random(f"guard {run.scenario.seed} {make.name}")
        self._boots = 0
        self._serials = 0
        self._freezes = 0
        #: No daemon is started before this, true time: the init system has given up for a while.
        self.abandoned_until = 0.0

    @property
    def running(self) -> bool:
        """Whether the agent is there and may run."""
        return self.agent is not None and not self.agent_stopped

    # -- what the kernel tells -------------------------------------------------------------------------------

    def may_speak(self, addresses: Iterable[str]) -> None:
        """The kernel may let addresses speak from now on."""
        self.observers.checks.may_speak(self.name, addresses)

    def address_gone(self, address: str, interface: str) -> None:
        """Netlink."""
        if self.run.trace.on:
            self.say(f"kernel: {address} is gone from {interface}")
        if self.observers.checks.running.get(self.name, ("", ""))[1] != address:
            self.observers.promises.lost(self.name, address)
        if self.agent is not None:
            self.run.engine.after(0.0002, self._tell, self.agent.address_removed, address, interface)

    def address_new(self, address: str, interface: str) -> None:
        """Netlink."""
        if self.run.trace.on:
            self.say(f"kernel: {address} is on {interface}")
        if self.agent is not None:
            self.run.engine.after(0.0002, self._tell, self.agent.address_added, address, interface)

    def _tell(self, listener: Callable[..., None], *arguments: object) -> None:
        listener(*arguments)

    # -- the daemon ------------------------------------------------------------------------------------------

    def start_daemon(self) -> None:
        """The init system starts the guard."""
        if self.guard is not None or not self.powered:
            return
        if self.run.engine.now < self.abandoned_until:
            self.run.engine.at(self.abandoned_until, self._remembered, self.abandoned_until)
            return
        self.left = self.terminating = False
        # The locks are free once everything that an earlier guard forked has ended (:mod:`locum.node.guard.locks`).
        self.kill_children()
        self.observers.checks.daemon_started(self.name)
        self.guard_frozen = self.agent_frozen = self.children_frozen = False
        self._stops_changed()
        self.guard = Guard(self, self, self._next_serial(), self._guard_random)
        self.guard.start()

    def _next_serial(self) -> int:
        self._serials += 1
        return self._serials

    def fork_agent(self, settings: Identity, step: Callable[[], None]) -> AgentProcess:
        """The guard forks; raises OSError when the system has no process to spare."""
        if self.fork_fails:
            raise NO_PROCESS
        self.process = process = AgentProcess(self, self, self._next_serial(), step)
        random = self._guard_random
        takes = random.uniform(*(FORK if random.random() < 0.8 else SLOW_FORK))
        self.run.engine.after(takes, self._agent_starts, process, settings)
        return process

    def _agent_starts(self, process: AgentProcess, settings: Identity) -> None:
        if process is not self.process:
            return
        if self.suspended:
            self.run.engine.after(0.05, self._agent_starts, process, settings)
            return
        if self.agent is not None:
            self.run.fail("processes", f"{self.name} has two agents")
        self.agent_frozen = False
        self._stops_changed()
        self.identity = settings
        if self.run.trace.on:
            self.say(f"agent starts{', adopting ' + self.page.incarnation if self.page.incarnation else ''}")
        self.agent = process.agent = agent = Agent(self, self, process.pid)
        agent.start()

    def signal_agent(self, process: AgentProcess, number: signal.Signals) -> None:
        """The guard has sent a signal to its agent."""
        if process is not self.process or process.status is not None:
            return
        if number is signal.SIGKILL:
            # The kernel may have to wait for a system call of the process.
            random = self._guard_random
            late = random.random() * (KILL_LATE if random.random() < 0.7 else LONG_KILL_LATE)
            self.run.engine.after(late, self._killed, process)
        elif process.agent is None:
            self._end_agent(-number)
        elif number is signal.SIGTERM:
            process.agent.leave()
        elif number is signal.SIGHUP:
            process.agent.reload()

    def _killed(self, process: AgentProcess) -> None:
        if process is self.process:
            self._end_agent(-signal.SIGKILL)

    def signal_guard(self, number: signal.Signals) -> None:
        """A process sends a signal to its parent, the guard."""
        if self.guard is not None:
            self.guard.signal(number)

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
        self.agent_trap.clear()
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
            self.run.fail("processes", f"the guard of {self.name} ends before its agent")
        self.left = True
        self.run.daemon_ended(self.name)
        if self.comes_back:
            self.run.engine.after(self.random.uniform(0.5, 3.0), self._restart)

    def guard_failed(self, guard: Guard) -> None:
        """The guard could not start; the init system tries again."""
        if guard is self.guard:
            guard.die()
            self.guard = None
            self.run.engine.after(self.random.uniform(0.5, 3.0), self._restart)

    def guard_died_of_signal(self) -> None:
        """A signal has ended the guard, which was not yet ready for signals: the node never began."""
        if self.guard is not None:
            self.guard.die()
            self.guard = None
            self.left = True
            self.run.daemon_ended(self.name)
            if self.comes_back:
                self.run.engine.after(self.random.uniform(0.5, 3.0), self._restart)

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
            self.removal_works_since = self.run.engine.now
            self.observers.watchfulness.removal_works(self.name)

    def reload(self) -> None:
        """SIGHUP to the guard: the configuration has changed."""
        if self.guard is not None:
            self.guard.signal(signal.SIGHUP)

    # -- processes that are stopped or killed ----------------------------------------------------------------

    def _orphan_child(self) -> None:
        """The runner notices that its agent is gone and kills its script."""
        child = self.child
        if child is not None:
            self.run.engine.after(self.random.random() * 0.05, self._kill_orphan, child)

    def _kill_orphan(self, child: Child) -> None:
        if self.child is child:
            if self.children_stopped:
                self.run.engine.after(0.02, self._kill_orphan, child)
            else:
                self.kill_children()

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
            self.went_on = self.run.engine.now
            go_on.append(self._agent_goes_on)
        if self.guard is not None and was[1] != self.guard_stopped:
            self.guard.stop_changed()
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
            self.run.engine.after(self.random.random() * 0.001, act)

    def _agent_goes_on(self) -> None:
        if self.agent is not None and not self.agent_stopped:
            self.agent.thawed()

    def _guard_goes_on(self) -> None:
        if self.guard is not None and not self.guard_stopped:
            self.guard.thawed()
