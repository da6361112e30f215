"""Other machines that have, or want, one of this node's addresses: probed before the first take, heard while held.

This file listens, asks and reports; its callers decide whether to take an address and how to treat a conflict. It
never says that this node has an address: a probe has no sender (0.0.0.0, ::). So it may be sent while the gate is shut,
and its answer updates no cache.

The kernel's filters (:mod:`locum.machine.wire_filters`) pass only messages about the watched addresses, so an ordinary
request wakes no process. During a flood some messages at a time are read, with pauses: the socket loses the rest, and
a conflict that continues is heard again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from locum import tasks
from locum.clock import boottime
from locum.errors import LocumError, PermissionRequired
from locum.machine import wire_filters
from locum.machine.announcements import Announcer
from locum.machine.netlink import filters, route
from locum.machine.netlink.core import NetlinkSocket
from locum.machine.wire_filters import Heard
from locum.threads import Worker

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD

#: Probes for an address, the time between two, and the wait after the last, in seconds. RFC 5227 allows more time (3
#: probes within 7 s); on a working network answers come within milliseconds.
PROBES, PROBE_INTERVAL, PROBE_WAIT = 3, 0.08, 0.14
#: A conflict is remembered for this long after it was last heard, in seconds.
MEMORY = 300.0
#: Between two defences of one address (RFC 5227, section 1.1: DEFEND_INTERVAL), in seconds.
DEFEND_INTERVAL = 10.0
#: How long the hardware addresses of this machine are cached, in seconds.
MACS_KEPT = 0.5
#: Messages read at a time, and the pause when there are more, in seconds.
MESSAGES, PAUSE = 64, 0.2


class Conflict(msgspec.Struct):
    """Another machine that claims a held address: where and what was heard, when last, when this node defended it."""

    interface: str
    mac: str
    heard: float
    defended: float


#: Limit for the kernel to send a probe or to list interfaces, in seconds; a later probe counts as not sent.
PATIENCE = 5.0


def _ignore(*_: object) -> None:
    """No callback is set yet."""


class _Statement(NamedTuple):
    """A message about an address that was pending or held then; it counts unless this machine sent it."""

    address: str
    interface: str
    mac: str
    probe: bool
    pending: bool


class WireWatch:
    """Listens in the network namespace in which it is started.

    ``changed`` is called when the conflicts have changed.
    """

    def __init__(
        self,
        changed: Callable[[], None],
        log: Callable[[str, str], None],
    ) -> None:
        self._changed = changed
        # Listing interfaces waits while another program changes interfaces: never in the event loop.
        self._worker = Worker("wire")
        self._announcer = Announcer()
        self._statements: deque[_Statement] = deque(maxlen=MESSAGES * 4)
        self._judging: asyncio.Task[None] | None = None
        #: Called with interface and address when an address is to be announced once, at most once in DEFEND_INTERVAL.
        self.on_defence: Callable[[str, str], None] = _ignore
        self._log = log
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sockets: dict[int, socket.socket] = {}
        self._netlink: NetlinkSocket | None = None
        self._watched: frozenset[str] = frozenset()
        self._ignored: frozenset[str] = frozenset()
        # Probed, until taken or probed anew: address → interface; and what was heard.
        self._pending: dict[str, str] = {}
        self._found: dict[str, str] = {}
        self._held: dict[str, str] = {}
        # The hardware addresses of this machine's interfaces, and when they were read.
        self._macs: frozenset[str] = frozenset()
        self._macs_read = -math.inf
        self._conflicts: dict[str, Conflict] = {}
        self._forget: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to listen. Raises NetlinkError."""
        self._loop = loop
        self._netlink = route.open_socket()
        self._open()

    def close(self) -> None:
        """Stop. Idempotent."""
        if self._forget is not None:
            self._forget.cancel()
        for kind in list(self._sockets):
            self._shut(kind)
        if self._judging is not None:
            self._judging.cancel()
        self._worker.close()
        # A thread that hangs still uses its sockets; they end with the process.
        if self._netlink is not None and not self._worker.busy():
            self._netlink.close()
            self._announcer.close()
        self._netlink = None

    def configure(self, addresses: Iterable[str], ignored: Iterable[str]) -> None:
        """Watch ``addresses``; ignore messages from the hardware addresses ``ignored`` (``aa:bb:cc:dd:ee:ff``)."""
        self._watched = frozenset(route.canonical(address) for address in addresses)
        self._ignored = frozenset(mac.lower() for mac in ignored)
        gone = [a for a, conflict in self._conflicts.items() if conflict.mac in self._ignored or a not in self._watched]
        for address in gone:
            del self._conflicts[address]
        if self._loop is not None:
            self._open()
            if gone:
                self._changed()

    # -- the first time ----------------------------------------------------------------------------------------

    async def probe(self, items: Sequence[tuple[str, str]]) -> dict[str, str]:
        """Probe every (address, interface) at once; address → what was heard of another machine that has it.

        Until :meth:`holds` or :meth:`gone`, :meth:`occupant` names another machine that has, or wants, the address.
        """
        self._catch_up()
        for address, interface in items:
            self._found.pop(address, None)
            self._pending[address] = interface
        by_interface: dict[str, list[str]] = {}
        for address, interface in items:
            by_interface.setdefault(interface, []).append(address)
        for _ in range(PROBES):
            for interface, addresses in by_interface.items():
                # An interface that has just gone answers nothing; the take will report it.
                with contextlib.suppress(LocumError):
                    left = [address for address in addresses if address not in self._found]
                    await self._worker.run(f"asking on {interface}", PATIENCE, self._ask, interface, left)
            await asyncio.sleep(PROBE_INTERVAL)
        await asyncio.sleep(PROBE_WAIT - PROBE_INTERVAL)
        self._catch_up()
        if self._judging is not None:
            await asyncio.wait([self._judging])
        return {address: self._found[address] for address, _ in items if address in self._found}

    def occupant(self, address: str) -> str | None:
        """What was heard since the probe of another machine that has, or wants, ``address``."""
        return self._found.get(address)

    # -- while held ----------------------------------------------------------------------------------------------

    def holds(self, address: str, interface: str) -> None:
        """This node has ``address`` on ``interface`` from now on."""
        self._pending.pop(address, None)
        self._found.pop(address, None)
        # Unread messages are older, from a time when another node of this cluster may have had it.
        self._catch_up()
        self._held[address] = interface

    def gone(self, address: str) -> None:
        """This node does not have ``address``, or is about to give it up."""
        self._pending.pop(address, None)
        self._found.pop(address, None)
        self._held.pop(address, None)
        if self._conflicts.pop(address, None) is not None:
            self._changed()

    def warnings(self) -> tuple[str, ...]:
        """One line for each held address that another machine also claims."""
        return tuple(
            f"another machine claims to have {address}, held here: hardware address {c.mac} on {c.interface}"
            for address, c in sorted(self._conflicts.items())
        )

    # -- listening -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Open a socket for each watched version of IP, with a filter for the addresses."""
        v4 = [address for address in self._watched if ":" not in address]
        v6 = [address for address in self._watched if ":" in address]
        for kind, program, wanted in (
            (_ETH_P_ARP, wire_filters.arp(v4), bool(v4)),
            (_ETH_P_IPV6, wire_filters.neighbour_discovery(v6), bool(v6)),
        ):
            if not wanted:
                self._shut(kind)
            elif kind in self._sockets:
                filters.attach(self._sockets[kind], program)
            else:
                self._listen(kind, program)

    def _listen(self, kind: int, program: Sequence[filters.Instruction]) -> None:
        assert self._loop is not None
        try:
            # On every interface. Messages that arrive before the filter is set are read like the rest.
            kinds = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            opened = socket.socket(socket.AF_PACKET, kinds, socket.htons(kind))
        except PermissionError as problem:
            raise PermissionRequired(
                "cannot open a packet socket to listen for other machines; this needs root, or CAP_NET_RAW"
            ) from problem
        filters.attach(opened, program)
        self._sockets[kind] = opened
        self._loop.add_reader(opened, self._readable, kind)

    def _shut(self, kind: int) -> None:
        opened = self._sockets.pop(kind, None)
        if opened is not None and self._loop is not None:
            self._loop.remove_reader(opened)
            opened.close()

    def _readable(self, kind: int) -> None:
        if self._read(kind):
            return
        assert self._loop is not None
        self._loop.remove_reader(self._sockets[kind])
        self._loop.call_later(PAUSE, self._resume, kind)

    def _catch_up(self) -> None:
        for kind in self._sockets:
            self._read(kind)

    def _read(self, kind: int) -> bool:
        """Read waiting messages, MESSAGES at most; whether these were all."""
        opened = self._sockets[kind]
        read = wire_filters.read_arp if kind == _ETH_P_ARP else wire_filters.read_neighbour_discovery
        for _ in range(MESSAGES):
            try:
                message, sender = opened.recvfrom(128)
            except BlockingIOError:
                return True
            except OSError:
                # ENETDOWN: an interface went down; reported once.
                continue
            heard = read(message)
            if heard is not None:
                self._hear(heard, sender[0], sender[4])
        return False

    def _resume(self, kind: int) -> None:
        opened = self._sockets.get(kind)
        if opened is not None and self._loop is not None:
            self._loop.add_reader(opened, self._readable, kind)

    def _hear(self, heard: Heard, interface: str, sender: bytes) -> None:
        address = heard.address
        pending, held = self._pending.get(address), self._held.get(address)
        concerned = pending is not None or (held is not None and not heard.probe)
        if not concerned or interface != (pending or held):
            return
        mac = (heard.mac or sender).hex(":")
        if mac in self._ignored or sender.hex(":") in self._ignored:
            return
        self._statements.append(_Statement(address, interface, mac, heard.probe, pending is not None))
        if self._judging is None and self._loop is not None:
            self._judging = tasks.start(self._judge(), "judging what other machines say")

    async def _judge(self) -> None:
        """Judge what was heard, with the current hardware addresses of this machine: bond, bridge, macvlan."""
        try:
            while self._statements:
                if boottime() - self._macs_read >= MACS_KEPT:
                    with contextlib.suppress(LocumError):
                        self._macs = await self._worker.run("listing interfaces", PATIENCE, self._read_macs)
                    self._macs_read = boottime()
                while self._statements:
                    said = self._statements.popleft()
                    known = self._pending if said.pending else self._held
                    if said.mac in self._macs or known.get(said.address) != said.interface:
                        continue
                    if said.pending:
                        does = "also wants it" if said.probe else "answers for it"
                        text = f"hardware address {said.mac} {does} on {said.interface}"
                        self._found.setdefault(said.address, text)
                    else:
                        self._conflict(said.address, said.interface, said.mac)
        finally:
            self._judging = None

    def _ask(self, interface: str, addresses: Sequence[str]) -> None:
        self._announcer.ask(interface, *addresses)

    def _read_macs(self) -> frozenset[str]:
        if self._netlink is None:
            return frozenset()
        return frozenset(link.hardware.hex(":") for link in route.links(self._netlink))

    def _conflict(self, address: str, interface: str, mac: str) -> None:
        now = boottime()
        known = self._conflicts.get(address)
        news = known is None or (known.mac, known.interface) != (mac, interface)
        if known is None:
            known = self._conflicts[address] = Conflict(interface, mac, now, -DEFEND_INTERVAL)
        known.interface, known.mac, known.heard = interface, mac, now
        if news:
            self._log(
                f"another machine claims to have {address}, which this node holds: hardware address {mac} on "
                f"{interface}; take the address from it, or clients reach now one and now the other",
                "error",
            )
        if now - known.defended >= DEFEND_INTERVAL:
            known.defended = now
            self.on_defence(interface, address)
        if news:
            self._changed()
        self._remember()

    def _remember(self) -> None:
        """Check again when the oldest conflict can be forgotten."""
        if self._forget is not None or self._loop is None or not self._conflicts:
            return
        oldest = min(conflict.heard for conflict in self._conflicts.values())
        self._forget = self._loop.call_later(max(oldest + MEMORY - boottime(), 1.0), self._lapse)

    def _lapse(self) -> None:
        self._forget = None
        old = [a for a, conflict in self._conflicts.items() if conflict.heard + MEMORY <= boottime()]
        for address in old:
            del self._conflicts[address]
            self._log(f"no other machine has claimed to have {address} for {MEMORY:.0f} s", "info")
        if old:
            self._changed()
        self._remember()
