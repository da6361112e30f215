"""The machine as the guard's procedures see it, as narrow interfaces.

Rules of this file: interfaces only. The guard's procedures (the modules ``life``, ``watch``, ``silence``,
``configuration`` and ``enforcement`` beside this one, and the supervision in ``children``) reach clock, signals,
threads, processes, kernel and files through these and through nothing else. Therefore the simulator carries out the
same procedures on a simulated machine, where the guard can be frozen or killed inside every call.

Only :meth:`WakeupsPort.wait`, :meth:`WakeupsPort.pause` and :meth:`WakeupsPort.await_calls` wait.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, ParamSpec, Protocol, TypeVar

from locum.lateness import Stop
from locum.machine.addresses import Address
from locum.machine.clean_slate import Removed

P = ParamSpec("P")
T = TypeVar("T")
#: Named outside of the class that has a method ``list``.
Addresses = list[Address]
#: Takes a line for the log and its level.
Log = Callable[[str, str], None]


class WakeupsPort(Protocol):
    """Clock, timer and signals of the guard's main thread; see :class:`locum.node.guard.wakeups.Wakeups`."""

    def boot(self) -> float:
        """CLOCK_BOOTTIME, in seconds."""
        ...

    def start(self, stood: Callable[[Stop, Stop | None], None]) -> None:
        """Collect signals from now on. ``stood`` receives each long stop of the loop, and the longest recent one."""
        ...

    def wait(self, until: float) -> Sequence[int]:
        """Sleep until CLOCK_BOOTTIME ``until``, or until a signal arrives; the signals received since the last call."""
        ...

    def pause(self, seconds: float) -> None:
        """Sleep for ``seconds``."""
        ...

    def await_calls(self, calls: Iterable[Future[Any]], limit: float) -> bool:
        """Wait for the end of ``calls``, at most ``limit`` seconds; whether all have ended."""
        ...

    def close(self) -> None:
        """Stop the monitor of the loop."""
        ...


class ProcessPort(Protocol):
    """A child process that runs or has run."""

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    def poll(self) -> int | None:
        """Its exit status (negative: minus the signal) when it has ended."""
        ...

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Only while :meth:`poll` has not reported its end, so the id is its own."""
        ...


class HoldPagePort(Protocol):
    """The page shared with the agent; see :class:`locum.node.guard.hold_page.HoldPage`."""

    @property
    def deadline(self) -> float:
        """CLOCK_BOOTTIME seconds until which the hold lasts; 0 when there is none."""
        ...

    @property
    def pulse(self) -> float:
        """When the agent last said that it is running, CLOCK_BOOTTIME seconds."""
        ...

    def clear(self) -> None:
        """There is no hold, and nothing to adopt."""
        ...

    def tell_guard_stop(self, stop: Stop | None) -> None:
        """The longest recent stop of the guard's loop, for the agent's status."""
        ...


class NotesPort(Protocol):
    """The notes of what agents took completely; see :class:`locum.node.taken_notes.TakenNotes`."""

    def addresses(self) -> Sequence[str]:
        """All addresses with a note."""
        ...

    def clear(self) -> None:
        """Nothing is held."""
        ...


class AddressesPort(Protocol):
    """The kernel's addresses; see :class:`locum.node.guard.addresses.KernelAddresses`."""

    def list(self) -> Addresses:
        """Every address of every interface. Raises NetlinkError."""
        ...

    def remove(self, addresses: Iterable[str]) -> Sequence[Removed]:
        """Remove ``addresses`` from every interface; returns those found. Raises NetlinkError."""
        ...

    def end_connections(self, addresses: Sequence[str]) -> int:
        """End the TCP connections to ``addresses``; returns how many there were. Raises LocumError."""
        ...


class GatePort(Protocol):
    """The kernel's gate; see :class:`locum.machine.gate.gate.Gate`. Calls raise NetlinkError on failure."""

    def judged(self) -> tuple[str, ...]:
        """The public addresses of the gate that is in the kernel; () without one."""
        ...

    def install(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        """Load the rules, shut. Raises GateUnavailable."""
        ...

    def shut(self) -> None:
        """Close every slot."""
        ...

    def remove(self) -> None:
        """Delete the rules."""
        ...

    def close(self) -> None:
        """Close the socket; the rules stay."""
        ...


class WorkerPort(Protocol):
    """A thread that carries out calls in order; see :class:`locum.threads.Worker`."""

    def prepare(self) -> None:
        """Start the thread now. Raises NoAnswer when the system has none left."""
        ...

    def submit(self, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """Hand a call over. Raises NoAnswer when too many calls wait."""
        ...
