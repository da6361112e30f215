"""The guard process: the product's own life of a guard, over the ports of a simulated machine.

Rules of this file: it puts together, and has no procedure of its own. What the guard does is in
:mod:`locum.node.guard`. :class:`AgentProcess` is an agent as the kernel shows it to its parent: an id, an exit status,
signals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from signal import SIGCHLD, Signals
from typing import Protocol

import msgspec

from locum.errors import LocumError
from locum.node.guard import life
from locum.node.guard.enforcement import public_interfaces
from locum.node.guard.ports import ProcessPort
from locum.rules.node import Identity
from locum_sim.agent import Agent
from locum_sim.guard_ports import GuardPage, SimulatedAddresses, SimulatedThread, SimulatedWakeups
from locum_sim.machine_state import MachineState
from locum_sim.ports import SimulatedGate, SimulatedNotes
from locum_sim.program import Program

#: How late the guard's timers and signals reach it at most, in seconds.
LATE, SIGNAL_LATE = 0.004, 0.01
#: How long the guard takes to start, a Python program of its own, in seconds.
START = (0.12, 0.6)


class System(Protocol):
    """The part of kernel and init system in the life of a guard: forks, signals, ends."""

    def fork_agent(self, settings: Identity, step: Callable[[], None]) -> AgentProcess:
        """The guard forks. Raises OSError when the system has no process to spare."""

    def signal_agent(self, process: AgentProcess, number: Signals) -> None:
        """The guard has sent a signal to its agent."""

    def guard_ended(self, guard: Guard) -> None:
        """The guard has ended by itself: its node was told to leave."""

    def guard_failed(self, guard: Guard) -> None:
        """The guard could not start."""

    def guard_died_of_signal(self) -> None:
        """A signal has ended the guard, which was not yet ready for signals."""


class AgentProcess:
    """A forked agent. ``agent`` is there once it is at work; until then a signal has its default action."""

    def __init__(self, machine: MachineState, system: System, pid: int, step: Callable[[], None]) -> None:
        self.pid = pid
        self.agent: Agent | None = None
        #: Exit status, when it has ended.
        self.status: int | None = None
        self._machine = machine
        self._system = system
        self._step = step

    def poll(self) -> int | None:
        """See ProcessPort."""
        self._step()
        return self.status

    def signal(self, number: Signals) -> None:
        """See ProcessPort."""
        self._step()
        # Not within the guard's own call: the agent's process is another.
        self._machine.run.engine.after(0.0, self._system.signal_agent, self, number)


class Guard:
    """One guard, from its start until its node has left or it is killed."""

    def __init__(self, machine: MachineState, system: System, serial: int, random: Random) -> None:
        self.machine = machine
        self._system = system
        self.serial = serial
        self.alive = True
        self._random = random
        self._program = Program(machine.run.engine, machine.clock, self, lambda: random.random() * LATE)
        self._wakeups = SimulatedWakeups(machine, self._program, self._watches)
        #: See :class:`locum_sim.views.GuardView`.
        self.watches_since: float | None = None

    # -- the process -----------------------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """See :class:`locum_sim.program.Process`."""
        return self.machine.guard_stopped

    def stepped(self) -> Callable[[], None] | None:
        """See :class:`locum_sim.program.Process`."""
        return self.machine.guard_trap.count() if self.machine.guard_trap.steps else None

    def failed(self, error: BaseException) -> None:
        """See :class:`locum_sim.program.Process`."""
        self.machine.run.defect(f"the guard of {self.machine.name}", error)

    def start(self) -> None:
        """The interpreter starts, and after a while the guard's own code."""
        self.machine.run.engine.after(self._random.uniform(*START), self._begin)

    def _begin(self) -> None:
        if self.alive:
            self._program.begin_thread(self._main)

    def _main(self) -> None:
        # What follows is not in the process itself, which ends here.
        engine, system = self.machine.run.engine, self._system
        try:
            self._live()
        except LocumError as error:
            self._log(f"cannot start: {error}", "error")
            engine.after(0.0, system.guard_failed, self)
        else:
            engine.after(0.0, system.guard_ended, self)

    def _live(self) -> None:
        machine, step = self.machine, self._program.step
        life.run(
            life.Charge(
                settings=machine.file,
                read=self._read,
                addresses_of=lambda settings: [h.address for h in settings.addresses],
                interfaces_of=public_interfaces,
                forget=step,
                preload=lambda _settings: step(),
                start_agent=self._start_agent,
                others=(),
                withdraw=step,
            ),
            life.Machine(
                wakeups=self._wakeups,
                page=GuardPage(machine.memory, machine.page_written, step),
                notes=SimulatedNotes(machine, step),
                addresses=SimulatedAddresses(machine, step),
                open_gate=lambda: SimulatedGate(machine, step),
                worker=lambda name, room: SimulatedThread(machine, self._program, self._random, name, room),
                log=self._log,
            ),
        )

    def _watches(self, watches: bool) -> None:
        self.watches_since = self.machine.run.engine.now if watches else None

    def _read(self, running: Identity) -> Identity:
        """The configuration file, as far as a running daemon takes it up (:mod:`locum.config.changes`)."""
        self._program.step()
        return msgspec.structs.replace(running, addresses=self.machine.file.addresses)

    def _start_agent(self, settings: Identity) -> ProcessPort:
        self._program.step()
        process = self._system.fork_agent(settings, self._program.step)
        self._program.step()
        return process

    def _log(self, text: str, _level: str = "info") -> None:
        if self.machine.run.trace.on:
            self.machine.say(f"guard: {text}")
        self.machine.run.noted(text)

    # -- from outside ----------------------------------------------------------------------------------------

    def signal(self, number: Signals) -> None:
        """A signal is sent; it arrives a little later."""
        self.machine.run.engine.after(self._random.random() * SIGNAL_LATE, self._receive, number)

    def _receive(self, number: Signals) -> None:
        if not self.alive:
            return
        if self._wakeups.started:
            self._wakeups.received(number)
        elif number is not SIGCHLD:
            self._system.guard_died_of_signal()

    def stop_changed(self) -> None:
        """It is stopped now, or goes on."""
        if self.watches_since is not None:
            self.watches_since = math.inf if self.stopped else self.machine.run.engine.now

    def thawed(self) -> None:
        """SIGCONT."""
        self._program.go_on()

    def die(self) -> None:
        """SIGKILL."""
        self.alive = False
        self._program.die()

    def bury(self) -> None:
        """The run is over."""
        self.die()
        self._program.bury()
