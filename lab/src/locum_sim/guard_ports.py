"""The ports of :mod:`locum.node.guard.ports` on a simulated machine.

Rules of this file: every call makes steps, before and after its effect, and the guard may be stopped or killed at each.
What a call does, it does to the kernel, the page and the notes of the machine; these outlive the process. Gate and
notes are those of :mod:`locum_sim.ports`.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from random import Random
from typing import Any, ParamSpec, TypeVar

from locum.errors import NetlinkError
from locum.lateness import Stop
from locum.machine.addresses import Address
from locum.machine.clean_slate import Removed
from locum.threads import NoAnswer
from locum_sim.machine_state import MachineState
from locum_sim.ports import SimulatedHoldPage, SimulatedTable, Step
from locum_sim.program import Program

P = ParamSpec("P")
T = TypeVar("T")
Addresses = list[Address]

#: How long a call of a thread waits for the kernel's lock: mostly at most, and at worst, in seconds.
LOCKED, LONG_LOCKED = 0.003, 0.02


class SimulatedWakeups:
    """See :class:`locum.node.guard.ports.WakeupsPort`. ``watches`` is told when the loop begins and ends."""

    def __init__(self, machine: MachineState, program: Program, watches: Callable[[bool], None]) -> None:
        self._clock = machine.clock
        self._program = program
        self._watches = watches
        self._signals: list[int] = []
        #: Whether signals are collected; before that their default actions apply.
        self.started = False

    def boot(self) -> float:
        """See WakeupsPort. The guard may be stopped right after it has read the time."""
        now = self._clock.boot()
        self._program.step()
        return now

    def start(self, stood: Callable[[Stop, Stop | None], None]) -> None:
        """See WakeupsPort. In simulated time no loop stands."""
        self._program.step()
        self.started = True
        self._watches(True)

    def received(self, number: int) -> None:
        """A signal arrives."""
        self._signals.append(number)
        self._program.notify()

    def wait(self, until: float) -> Sequence[int]:
        """See WakeupsPort."""
        self._program.step()
        self._program.block(lambda: bool(self._signals), until)
        received, self._signals = self._signals, []
        self._program.step()
        return received

    def pause(self, seconds: float) -> None:
        """See WakeupsPort."""
        self._program.step()
        self._program.block(lambda: False, self._clock.boot() + seconds)

    def await_calls(self, calls: Iterable[Future[Any]], limit: float) -> bool:
        """See WakeupsPort."""
        calls = list(calls)
        self._program.step()
        self._program.block(lambda: all(call.done() for call in calls), self._clock.boot() + limit)
        return all(call.done() for call in calls)

    def close(self) -> None:
        """See WakeupsPort."""
        self._program.step()
        self._watches(False)


class GuardPage(SimulatedHoldPage):
    """The page as the guard maps it: a dead guard writes nothing."""

    def clear(self) -> None:
        """See Page."""
        self.step()
        super().clear()

    def tell_guard_stop(self, stop: Stop | None) -> None:
        """See Page."""
        self.step()
        super().tell_guard_stop(stop)


class SimulatedAddresses:
    """See :class:`locum.node.guard.ports.AddressesPort`."""

    def __init__(self, machine: MachineState, step: Step) -> None:
        self._kernel = machine.kernel
        self._table = SimulatedTable(machine, step)
        self._step = step

    def list(self) -> Addresses:
        """See AddressesPort."""
        return self._table.list()

    def remove(self, addresses: Iterable[str]) -> Sequence[Removed]:
        """See AddressesPort. The kernel may refuse all of it, or each removal."""
        self._step()
        if self._kernel.removal_fails == "all":
            raise NetlinkError("cannot list the addresses", errno.ENOBUFS)
        results = []
        for address in addresses:
            if address in self._kernel.addresses:
                interface, _ = self._kernel.addresses[address]
                problem = "no memory" if self._kernel.removal_fails else ""
                if not problem:
                    self._kernel.remove(address)
                results.append(Removed(address, 24, interface, problem))
                self._step()
        return results

    def end_connections(self, addresses: Sequence[str]) -> int:
        """See AddressesPort: no client is connected."""
        self._step()
        return 0


class SimulatedThread:
    """See :class:`locum.node.guard.ports.WorkerPort`."""

    def __init__(self, machine: MachineState, program: Program, random: Random, what: str, room: int) -> None:
        self._clock = machine.clock
        self._program = program
        self._random = random
        self._what = what
        self._room = room
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._started = False

    def prepare(self) -> None:
        """See WorkerPort."""
        if not self._started:
            self._started = True
            self._program.begin_thread(self._work)

    def submit(self, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """See WorkerPort."""
        self._program.step()
        if len(self._calls) >= self._room:
            raise NoAnswer(f"{what}: not begun, {len(self._calls)} calls wait")
        future: Future[T] = Future()
        self._calls.append((future, lambda: function(*arguments, **named)))
        self.prepare()
        return future

    def _work(self) -> None:
        while True:
            self._program.block(lambda: bool(self._calls))
            longest = LOCKED if self._random.random() < 0.9 else LONG_LOCKED
            self._program.block(lambda: False, self._clock.boot() + self._random.random() * longest)
            future, call = self._calls.popleft()
            future.set_result(call())
            self._program.step()
