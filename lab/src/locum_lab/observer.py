"""The observer on the public network: asks for each address, and hears every packet that speaks for one.

It listens on the public bridge itself, in the hub, in promiscuous mode: it sees each frame where the cable enters the
switch. A cut applies further on, so that a node that is cut off is still asked and heard: the invariant holds on both
sides of a partition, and the observer watches both.

Output: one JSON object per line (:class:`Record`), written when something changes, and a last one at the end.
"""

from __future__ import annotations

import array
import ipaddress
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import TextIO

import msgspec

from locum.clock import boottime
from locum_lab import packets
from locum_lab.judge import Judge, Violation
from locum_lab.layout import OBSERVER_MAC, OBSERVER_V4, Layout
from locum_lab.network import CLIENT_MAC

# <linux/socket.h>, <linux/if_packet.h>, <asm-generic/socket.h>; Python's socket module names few of them.
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_ETH_P_ALL = 3

#: Frames are judged after this delay (seconds), so that their time stamps can correct the order of frames that two
#: processors handled.
SETTLE = 0.05

#: Violations written out per address, and changes of speaker with them; the last record has the total.
MOST_REPORTED = 20


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of output; ``t`` is boot time in seconds.

    ``event``: ``begin`` (asking has begun), ``speaks`` (``node`` is heard for ``address``, for the first time or after
    another node), ``silent`` (``node`` has not been heard since ``t``), ``violation`` (``node`` was heard at ``before``
    and at ``t`` with ``other`` between; or, when these are equal, ``other`` just before), ``end`` (``packets`` heard,
    ``asked`` questions sent, ``lost`` frames that the kernel could not deliver, number of ``violations``, ``closest``:
    seconds between two nodes heard for one address without a violation, 0 without such).
    """

    t: float
    event: str
    address: str = ""
    node: str = ""
    other: str = ""
    before: float = 0.0
    packets: int = 0
    asked: int = 0
    lost: int = 0
    violations: int = 0
    closest: float = 0.0


class Observer:
    """Created in the hub's namespace; :meth:`run` runs until told to stop.

    ``interval``: seconds between two questions for the same address. ``window``: see :mod:`locum_lab.judge`; three
    intervals when None. ``vlan``: the questions are in that VLAN; 0: in none. Answers count in every VLAN, because the
    kernel takes the tag off a frame before a socket gets it. ``emit`` receives each record. ``violations``: their
    number.
    """

    def __init__(
        self,
        layout: Layout,
        emit: Callable[[Record], None],
        interval: float = 0.01,
        window: float | None = None,
        vlan: int = 0,
    ) -> None:
        self._interval = interval
        self._silence = 5 * interval
        self._emit = emit
        self._judge = Judge(3 * interval if window is None else window)
        self._names = {packets.mac_bytes(mac): node for mac, node in layout.macs().items()}
        self._addresses = {
            ipaddress.ip_address(public.address).packed: public.address for public in layout.public_addresses
        }
        self._questions = [
            packets.tagged(packets.question(address, OBSERVER_MAC, OBSERVER_V4), vlan)
            for address in self._addresses.values()
        ]
        self._waiting: list[tuple[float, bytes, bytes]] = []
        self._speaking: dict[str, str] = {}
        self._reported: dict[str, int] = {}
        self._packets = self._asked = self.violations = self._lost = 0
        self._socket = open_socket("public")

    def run(self, stopping: Callable[[], bool]) -> None:
        """Ask and listen until ``stopping`` returns True (called in every interval)."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        self._emit(Record(boottime(), "begin"))
        next_question = time.monotonic()
        while not stopping():
            now = time.monotonic()
            if now >= next_question:
                self._ask()
                # After a pause of the whole machine continue from now, without the missed questions.
                next_question = max(next_question + self._interval, now)
                self._settle(boottime() - SETTLE)
            # One batch per wake-up: packets that arrive within a few milliseconds are read at once.
            poll.poll(max(0.0, (next_question - time.monotonic()) * 1000))
            self._listen()
        time.sleep(SETTLE)
        self._listen()
        self._settle(float("inf"))
        self._lost += self._count_lost()
        self._emit(
            Record(
                boottime(),
                "end",
                packets=self._packets,
                asked=self._asked,
                lost=self._lost,
                violations=self.violations,
                closest=self._judge.closest if self._judge.closest < float("inf") else 0.0,
            )
        )

    def _ask(self) -> None:
        for frame in self._questions:
            try:
                self._socket.send(frame)
                self._asked += 1
            except OSError:  # the queue is full: the next interval asks again
                pass

    def _listen(self) -> None:
        # The kernel's stamps are wall-clock times; one offset per batch converts them to boot time.
        offset = boottime() - time.time()
        receive, waiting, addresses = self._socket.recvmsg, self._waiting, self._addresses
        while True:
            try:
                frame, ancillary, _, _ = receive(packets.SNAP_LENGTH, 64)
            except BlockingIOError:
                return
            spoken = packets.speaks_for(frame)
            if spoken is None or spoken[1] not in addresses:
                continue
            waiting.append((stamp(ancillary) + offset, *spoken))

    def _settle(self, until: float) -> None:
        """Judge the packets heard up to ``until``."""
        self._waiting.sort()
        done = 0
        for t, mac, packed in self._waiting:
            if t > until:
                break
            done += 1
            self._hear(t, self._addresses[packed], self._names.get(mac) or mac.hex(":"))
        del self._waiting[:done]
        if until < float("inf"):
            for address, holder in self._judge.holders(until, self._silence).items():
                if holder is None and address in self._speaking:
                    self._emit(Record(until - self._silence, "silent", address, self._speaking.pop(address)))

    def _hear(self, t: float, address: str, speaker: str) -> None:
        self._packets += 1
        _, violation = self._judge.hear(t, address, speaker)
        if self._speaking.get(address) != speaker and self._reported.get(address, 0) < MOST_REPORTED:
            self._speaking[address] = speaker
            self._emit(Record(t, "speaks", address, speaker))
        if violation is not None:
            self._report(violation)

    def _report(self, violation: Violation) -> None:
        self.violations += 1
        reported = self._reported.get(violation.address, 0)
        if reported == MOST_REPORTED:
            return
        self._reported[violation.address] = reported + 1
        self._emit(
            Record(
                violation.t,
                "violation",
                violation.address,
                violation.speaker,
                other=violation.other,
                before=violation.before,
            )
        )

    def _count_lost(self) -> int:
        _, lost = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(lost)


def stamp(ancillary: Sequence[tuple[int, int, bytes]]) -> float:
    """The wall-clock time at which the kernel received a frame: from the ancillary data of a socket with stamps."""
    if not ancillary:
        return time.time()
    seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
    return float(seconds + nanoseconds * 1e-9)


def ask_stamps(receiving: socket.socket) -> None:
    """Let the kernel stamp what this socket receives; see :func:`stamp`."""
    receiving.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def open_socket(interface: str) -> socket.socket:
    """A socket with stamps for the frames of an interface that :func:`locum_lab.packets.filter_program` lets pass.

    It does not block.
    """
    # Protocol 0 receives nothing until bind: no frame arrives before the filter is set.
    result = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    program = packets.filter_program([OBSERVER_MAC, CLIENT_MAC])
    memory = array.array("B", program)
    address, length = memory.buffer_info()
    # struct sock_fprog: number of instructions of 8 bytes each, pointer to the first.
    result.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", length // 8, address))
    ask_stamps(result)
    try:
        result.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
    except PermissionError:  # in a user namespace: then the system's maximum
        result.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    result.bind((interface, _ETH_P_ALL))
    result.setblocking(False)
    return result


def writer(output: TextIO) -> Callable[[Record], None]:
    """Write each record as one JSON line, at once."""

    def emit(record: Record) -> None:
        output.write(msgspec.json.encode(record).decode() + "\n")
        output.flush()

    return emit


def read(line: str | bytes) -> Record:
    """Parse the record of one line."""
    return msgspec.json.decode(line, type=Record)
