"""The TCP connections of this network namespace, as values.

This file lists, and changes nothing. The kernel filters by state, local port and local address; a list then costs about
1 ms and half a microsecond for each connection found.

Connections are compared, stored and sent in a packed form, an *entry*: local port, remote port, remote address (8 bytes
for IPv4, 20 for IPv6). The container of an entry implies the local address. An IPv4 connection of an IPv6 socket is an
IPv4 connection.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterable

import msgspec

from locum.machine.netlink import inet_diag, route
from locum.machine.netlink.core import NetlinkSocket
from locum.machine.netlink.inet_diag import Found

#: States of connections whose client may wait: for an answer, or for the end (the server has closed, and its last data
#: is in flight).
WORTH_TELLING = inet_diag.states(inet_diag.ESTABLISHED, inet_diag.CLOSE_WAIT, inet_diag.FIN_WAIT1)

#: Every state in which the kernel would answer or send a segment: all but LISTEN and CLOSE.
ALIVE = inet_diag.states(
    inet_diag.ESTABLISHED,
    inet_diag.SYN_SENT,
    inet_diag.SYN_RECV,
    inet_diag.FIN_WAIT1,
    inet_diag.FIN_WAIT2,
    inet_diag.TIME_WAIT,
    inet_diag.CLOSE_WAIT,
    inet_diag.LAST_ACK,
    inet_diag.CLOSING,
)

_PORTS = struct.Struct("!HH")

#: Sizes of an entry by the version of IP.
ENTRY_SIZES = {4: 8, 6: 20}


class Connection(msgspec.Struct, frozen=True, order=True):
    """A TCP connection seen from this side."""

    local: str
    local_port: int
    remote: str
    remote_port: int

    @property
    def entry(self) -> bytes:
        """The packed form."""
        return _PORTS.pack(self.local_port, self.remote_port) + route.packed(self.remote)


def endpoint(address: str, port: int) -> str:
    """``192.0.2.1:80``, ``[2001:db8::1]:80``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def unpack(local: str, entry: bytes) -> Connection:
    """The connection that ``entry`` describes, on the address ``local``. Raises ValueError."""
    if len(entry) not in ENTRY_SIZES.values():
        raise ValueError(f"{len(entry)} bytes are not a connection")
    local_port, remote_port = _PORTS.unpack_from(entry)
    remote = socket.inet_ntop(socket.AF_INET if len(entry) == 8 else socket.AF_INET6, entry[4:])
    return Connection(local, local_port, remote, remote_port)


def entry_of(found: Found) -> bytes:
    """The packed form of a socket."""
    return found.identity[:4] + found.peer


def scan(
    netlink: NetlinkSocket,
    addresses: Iterable[bytes] | None = None,
    ports: Collection[int] | None = None,
    states: int = ALIVE,
) -> list[Found]:
    """The sockets whose local address is among ``addresses`` (packed) and whose local port is among ``ports``.

    None means any. Raises NetlinkError, PermissionRequired.
    """
    local = None if addresses is None else frozenset(addresses)
    program = inet_diag.condition(local, ports)
    found = [Found(*record) for records in inet_diag.dump(netlink, states, program) for record in records]
    if (local is not None and len(local) > inet_diag.MOST_ALTERNATIVES) or (
        ports is not None and len(ports) > inet_diag.MOST_ALTERNATIVES
    ):
        found = [
            f for f in found if (local is None or f.address in local) and (ports is None or f.port in frozenset(ports))
        ]
    return found


#: Counters of the kernel (RFC 4022); one of them changes whenever a connection comes or goes.
_COUNTERS = (b"ActiveOpens", b"PassiveOpens", b"AttemptFails", b"EstabResets", b"CurrEstab")
#: How many scans in a row may be skipped while the counters do not change.
_MOST_LEFT_OUT = 9


class Traffic:
    """The kernel's counters of TCP connections, of the network namespace in which the object was created."""

    def __init__(self) -> None:
        try:
            # /proc/net is that of the process's first thread. An open file stays with its namespace.
            self._file: int | None = os.open("/proc/thread-self/net/snmp", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = None

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def read(self) -> tuple[bytes, ...] | None:
        """The counters now; None when they cannot be read."""
        if self._file is None:
            return None
        try:
            lines = os.pread(self._file, 65536, 0).splitlines()
            names, values = [line.split() for line in lines if line.startswith(b"Tcp:")]
            return tuple(values[names.index(name)] for name in _COUNTERS)
        except (OSError, ValueError, IndexError):
            return None


class Census:
    """The connections to some ports, scan after scan: which have come and which have gone since the last one.

    Most scans cost almost nothing on a quiet node: while the kernel's own counters do not change, no list is needed.

    Addresses and entries are packed. ``netlink`` is of the network namespace in which the object is created. One thread
    at a time may use it.
    """

    def __init__(self, netlink: NetlinkSocket) -> None:
        self._netlink = netlink
        self._traffic = Traffic()
        self._last: object = None
        self._left_out = 0
        # First 36 bytes of each socket's identity: its ports and addresses.
        self._seen: dict[int, set[bytes]] = {socket.AF_INET: set(), socket.AF_INET6: set()}

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._netlink.close()
        self._traffic.close()

    def take(self, ports: Collection[int], states: int = WORTH_TELLING) -> tuple[Changes, Changes]:
        """Scan; returns (come, gone) since the last scan, by local address.

        Raises NetlinkError, PermissionRequired; the last scan then remains the last.
        """
        counters = self._traffic.read()  # before the list: changes meanwhile are seen by the next scan
        situation = (counters, frozenset(ports), states)
        if counters is not None and situation == self._last and self._left_out < _MOST_LEFT_OUT:
            self._left_out += 1
            return Changes(), Changes()
        now: dict[int, set[bytes]] = {socket.AF_INET: set(), socket.AF_INET6: set()}
        if ports:
            checked = frozenset(ports) if len(ports) > inet_diag.MOST_ALTERNATIVES else None
            for records in inet_diag.dump(self._netlink, states, inet_diag.condition(None, ports)):
                for family, seen in now.items():
                    seen.update([identity[:36] for kind, _, identity, _ in records if kind == family])
            if checked is not None:
                for family, seen in now.items():
                    now[family] = {key for key in seen if int.from_bytes(key[:2], "big") in checked}
        come, gone = Changes(), Changes()
        for family, seen in now.items():
            before = self._seen[family]
            come.add(family, seen - before)
            gone.add(family, before - seen)
        self._seen, self._last, self._left_out = now, situation, 0
        return come, gone

    def all(self) -> Changes:
        """All connections, as of the last scan."""
        everything = Changes()
        for family, seen in self._seen.items():
            everything.add(family, seen)
        return everything

    def __len__(self) -> int:
        return sum(map(len, self._seen.values()))


class Changes:
    """Entries by local address."""

    def __init__(self) -> None:
        self.by_address: dict[bytes, set[bytes]] = {}

    def of(self, address: bytes) -> set[bytes]:
        """The entries of one address."""
        return self.by_address.get(address, set())

    def add(self, family: int, keys: Iterable[bytes]) -> None:
        """Add ``keys``, the first bytes of sockets' identities."""
        by_address = self.by_address
        mapped = b"\0" * 10 + b"\xff\xff"
        for key in keys:
            if family == socket.AF_INET:
                address, entry = key[4:8], key[:4] + key[20:24]
            elif key[4:16] == mapped:
                address, entry = key[16:20], key[:4] + key[32:36]
            else:
                address, entry = key[4:20], key[:4] + key[20:36]
            found = by_address.get(address)
            if found is None:
                by_address[address] = {entry}
            else:
                found.add(entry)
