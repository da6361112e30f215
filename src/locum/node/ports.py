"""What the agent's procedures need from the machine, as narrow interfaces.

Interfaces only. :mod:`locum.node.steps`, :mod:`locum.node.driver`, :mod:`locum.node.gate_work`,
:mod:`locum.node.kernel_news`, :mod:`locum.node.life` and :mod:`locum.node.reconfiguration` reach clock, kernel, files,
scripts and network only through these. So the simulator runs the same procedures on a simulated machine
(:mod:`locum_sim.ports`), where the process can be frozen or killed inside every call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

from locum.errors import LocumError
from locum.events.model import Event, EventResult
from locum.machine.addresses import Address, Item
from locum.machine.gate.gate import ArmedSlot
from locum.machine.links import LinkState

P = ParamSpec("P")
T = TypeVar("T")
#: Named outside of the class, which has a method ``list``.
Addresses = list[Address]


class GatePort(Protocol):
    """The kernel's gate; see :class:`locum.machine.gate.gate.Gate`. Every call raises LocumError on failure."""

    @property
    def held(self) -> frozenset[str]:
        """The addresses that the gate lets through while it is open."""
        ...

    def arm(self, slot: int, hold: float) -> ArmedSlot:
        """Start the timer of ``slot`` for ``hold`` seconds, unconfirmed."""
        ...

    def confirm(self, armed: ArmedSlot) -> bool:
        """Open the slot for the rest of its timer."""
        ...

    def allow(self, addresses: Iterable[str]) -> None:
        """Let these addresses through."""
        ...

    def deny(self, addresses: Iterable[str]) -> None:
        """Mute these addresses."""
        ...

    def shut(self) -> None:
        """Close every slot."""
        ...

    def configure(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        """See Gate.configure."""
        ...

    def restore(self) -> None:
        """Put the rules back, shut."""
        ...


class TablePort(Protocol):
    """The kernel's addresses; see :class:`locum.machine.addresses.AddressTable`. Calls raise LocumError on failure."""

    def list(self) -> Addresses:
        """Every address of every interface."""
        ...

    def add(self, address: str, bits: int, interface: str, lifetime: int | None = None) -> None:
        """Configure the address, or renew it, for ``lifetime`` seconds."""
        ...

    def remove(self, address: str, bits: int, interface: str) -> bool:
        """Remove the address; False when it was absent."""
        ...

    def renew(self, items: Iterable[Item], lifetime: int) -> tuple[tuple[Item, LocumError], ...]:
        """Renew all lifetimes; returns those that the kernel refused."""
        ...

    def put_last(self, items: Sequence[Item], lifetime: int) -> None:
        """Put the addresses of one interface after the interface's own addresses."""
        ...


class LinksPort(Protocol):
    """The kernel's interfaces; see :class:`locum.machine.links.Links`."""

    def list(self) -> Mapping[str, LinkState]:
        """Interface name → state."""
        ...


class AnnouncePort(Protocol):
    """Gratuitous ARP and unsolicited neighbour advertisements."""

    def announce(self, interface: str, *addresses: str) -> bool:
        """Whether all announcements were sent."""
        ...


class HoldPagePort(Protocol):
    """The page shared with the guard; see :class:`locum.node.guard.hold_page.HoldPage`."""

    @property
    def deadline(self) -> float:
        """The end of the hold, in seconds of CLOCK_BOOTTIME."""
        ...

    @property
    def slot(self) -> int:
        """The slot that carries the hold."""
        ...

    @property
    def incarnation(self) -> str:
        """The incarnation that holds; "" without one."""
        ...

    @property
    def revision(self) -> int:
        """The store's revision of the beat that carries the hold."""
        ...

    @property
    def quiet(self) -> float:
        """The time in seconds of CLOCK_BOOTTIME before which this hold may take nothing."""
        ...

    def confirm(self, incarnation: str, slot: int, deadline: float, revision: int, quiet: float) -> None:
        """The hold lasts until ``deadline``."""
        ...

    def clear(self) -> None:
        """No hold."""
        ...


class PulsePort(Protocol):
    """The other part of that page: whether the agent runs."""

    def beat(self, now: float) -> None:
        """The agent is running at ``now``, CLOCK_BOOTTIME seconds."""
        ...


class NotesPort(Protocol):
    """The notes of completely taken addresses; see :class:`locum.node.taken_notes.TakenNotes`."""

    def add(self, address: str, incarnation: str, interface: str) -> None:
        """``address`` was taken completely."""
        ...

    def remove(self, address: str) -> None:
        """``address`` is about to change."""
        ...

    def of(self, incarnation: str) -> dict[str, str]:
        """Address → interface of addresses taken completely in the membership ``incarnation``."""
        ...

    def addresses(self) -> Sequence[str]:
        """All addresses with a note, of any membership."""
        ...

    def clear(self) -> None:
        """Delete all notes."""
        ...


class ScriptsPort(Protocol):
    """The event engine; see :class:`locum.events.engine.EventEngine`."""

    async def start(self) -> None:
        """Start the script runner. Raises LocumError."""
        ...

    async def handled(self) -> tuple[str, ...]:
        """The optional events that a script handles."""
        ...

    async def run(
        self,
        event: Event,
        arguments: tuple[str, ...] = (),
        *,
        environment: Callable[[], Mapping[str, str]] = dict,
    ) -> EventResult:
        """Run the scripts of ``event``; a cancelled call ends them. Raises LocumError.

        ``environment`` is asked once, just before they start. Its LocumError is raised, and nothing starts.
        """
        ...


class ConnectionsPort(Protocol):
    """TCP connections to public addresses; see :class:`locum.connections.tracker.ConnectionTracker`."""

    async def taking(self, address: str) -> None:
        """``address`` is about to be taken."""
        ...

    def taken(self, address: str, interface: str) -> None:
        """``address`` was taken."""
        ...

    def adopted(self, address: str, interface: str) -> None:
        """``address`` was taken by an earlier agent."""
        ...

    def updated(self, address: str, interface: str) -> None:
        """``address`` changed its interface."""
        ...

    async def releasing(self, address: str) -> None:
        """``address`` is about to be muted."""
        ...

    async def released(self, address: str) -> int:
        """``address`` is muted; returns how many connections were ended."""
        ...

    def dropped(self, addresses: Iterable[str]) -> None:
        """The addresses left without a release."""
        ...


class WirePort(Protocol):
    """Messages of other machines on the wire; see :class:`locum.machine.wire_watch.WireWatch`."""

    async def probe(self, items: Sequence[tuple[str, str]]) -> dict[str, str]:
        """Probe (address, interface); address → what was heard of another machine."""
        ...

    def occupant(self, address: str) -> str | None:
        """The other machine that was heard with ``address`` since the probe."""
        ...

    def holds(self, address: str, interface: str) -> None:
        """``address`` is ours."""
        ...

    def gone(self, address: str) -> None:
        """``address`` is no longer ours."""
        ...


class ClustersPort(Protocol):
    """The search for other clusters in the store; see :class:`locum.node.clusters.ClusterSearch`."""

    async def search(
        self, addresses: Iterable[str], patience: float, waits: Callable[[str], None]
    ) -> tuple[str | None, frozenset[str]]:
        """Which of ``addresses`` this node must not serve, and why."""
        ...


class WorkerPort(Protocol):
    """A thread that carries out calls in order; see :class:`locum.threads.Worker`."""

    async def run(
        self, what: str, limit: float | None, function: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """The result of ``function``. Raises NoAnswer after ``limit`` seconds."""
        ...


class CallsPort(Protocol):
    """Calls that may wait for the kernel; see :class:`locum.node.kernel_calls.KernelCalls`."""

    @property
    def gate(self) -> WorkerPort:
        """For nftables."""
        ...

    @property
    def addresses(self) -> WorkerPort:
        """For rtnetlink."""
        ...

    @property
    def files(self) -> WorkerPort:
        """For the runtime directory."""
        ...

    def start(
        self, worker: Any, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> asyncio.Future[T]:
        """Hand the call over to ``worker``."""
        ...

    async def on_gate(self, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """The result of a call at the gate."""
        ...

    async def on_addresses(self, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """The result of a call over rtnetlink."""
        ...
