"""inet_diag: TCP sockets in bulk, filtered inside the kernel, and their destruction.

This file has layouts and constants of ``include/uapi/linux/inet_diag.h`` and ``sock_diag.h``; it knows no public
address. It is made for ten thousand sockets: dumps are decoded a datagram at a time, in C.

One dump covers both families: the old form of the request (``TCPDIAG_GETSOCK``) accepts "any family", which the new
form refuses. The kernel then walks its table of connections once instead of twice (1 ms each time, even when it finds
no socket).
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from locum.machine.netlink import core
from locum.machine.netlink.core import NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, NetlinkSocket, Request
from locum.machine.netlink.sock_diag import NETLINK_SOCK_DIAG

_TCPDIAG_GETSOCK = 18
_SOCK_DESTROY = 21
_REQ_BYTECODE = 1

#: ``include/net/tcp_states.h``.
ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = range(
    1, 12
)

# struct inet_diag_req: family and three lengths, a socket's identity, states, and one more word
_DUMP_REQUEST = struct.Struct("=BBBB48xII")
# struct inet_diag_req_v2 without the identity that ends it
_DESTROY_REQUEST = struct.Struct("=BBBxI")
_HEADER = struct.Struct("=IHHI")

# From the start of the netlink header: length, type, family, state, identity, inode. A message is at least this long.
_RECORD = "=IH10xBBxx48s16xI"
_RECORD_SIZE = struct.calcsize(_RECORD)

_S_COND = 7  # enum INET_DIAG_BC_*
_JUMP = 1
_OPERATION = struct.Struct("=BBH")
_CONDITION = struct.Struct("=BBxxi")

#: With more alternatives the kernel spends too long on each socket: leave the condition out and select here.
MOST_ALTERNATIVES = 64

_MAPPED = bytes(10) + b"\xff\xff"
_RECEIVE_SIZE = 65536


class Found(NamedTuple):
    """A socket: family (AF_), state, its identity from the kernel (``struct inet_diag_sockid``, 48 bytes), and the
    inode of its file, 0 when no process has it."""

    family: int
    state: int
    identity: bytes
    inode: int

    @property
    def port(self) -> int:
        """The local port."""
        return int.from_bytes(self.identity[:2], "big")

    @property
    def peer_port(self) -> int:
        """The peer's port."""
        return int.from_bytes(self.identity[2:4], "big")

    @property
    def address(self) -> bytes:
        """The local address, 4 or 16 bytes; 4 for an IPv4 connection of an IPv6 socket."""
        return _address(self.family, self.identity[4:20])

    @property
    def peer(self) -> bytes:
        """The peer's address, in the same form."""
        return _address(self.family, self.identity[20:36])

    @property
    def cookie(self) -> int:
        """The number that distinguishes the socket from a later one with the same addresses and ports."""
        low, high = struct.unpack_from("=II", self.identity, 40)
        return int(low | high << 32)


def _address(family: int, raw: bytes) -> bytes:
    if family == socket.AF_INET:
        return raw[:4]
    return raw[12:] if raw.startswith(_MAPPED) else raw


def open_socket() -> NetlinkSocket:
    """A socket for requests of this file, in the present network namespace."""
    return NetlinkSocket(NETLINK_SOCK_DIAG)


# -- the kernel's filter -------------------------------------------------------------------------------------------


def condition(addresses: Iterable[bytes] | None = None, ports: Iterable[int] | None = None) -> bytes:
    """A filter program: local address among ``addresses`` (4 or 16 bytes each) and local port among ``ports``.

    None means any. An IPv4 address also means the IPv4 connections of IPv6 sockets. Parts with too many alternatives
    are left out, so the caller checks each result again. b"" is no filter.
    """
    groups = []
    if addresses is not None:
        groups.append([_host(a) for a in sorted(set(addresses))])
    if ports is not None:
        groups.append([_CONDITION.pack(0, 0, port) for port in sorted(set(ports))])
    program = b""
    for group in reversed([g for g in groups if len(g) <= MOST_ALTERNATIVES]):
        program = _any_of(group, len(program)) + program
    return program


def _host(address: bytes) -> bytes:
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return _CONDITION.pack(family, 8 * len(address), -1) + address


def _any_of(alternatives: Sequence[bytes], rest: int) -> bytes:
    """Continue with the ``rest`` bytes that follow when one of ``alternatives`` holds, else refuse.

    A step of the program says how many bytes to advance when its condition holds (always to the next step: the kernel
    checks that these lead to the end) and when it does not. A jump exactly to the end accepts the socket; four bytes
    further refuses it (``inet_diag_bc_run``, ``inet_diag_bc_audit`` in net/ipv4/inet_diag.c).
    """
    parts: list[bytes] = []
    behind = 0  # bytes from the end of the step to the end of this group
    for place in range(len(alternatives) - 1, -1, -1):
        argument = alternatives[place]
        size = _OPERATION.size + len(argument)
        if behind == 0:
            step = _OPERATION.pack(_S_COND, size, size + rest + 4) + argument
        else:
            # When it holds, the next step jumps over the other alternatives; if not, that step is skipped.
            jump = _OPERATION.pack(_JUMP, _OPERATION.size, _OPERATION.size + behind)
            step = _OPERATION.pack(_S_COND, size, size + _OPERATION.size) + argument + jump
        parts.append(step)
        behind += len(step)
    if not parts:
        # Without alternatives no socket matches: jump to the place of refusal.
        return _OPERATION.pack(_JUMP, _OPERATION.size, _OPERATION.size + rest + 4)
    return b"".join(reversed(parts))


# -- dumps ---------------------------------------------------------------------------------------------------------


def states(*numbers: int) -> int:
    """The set of states with these numbers, in the kernel's form."""
    return sum(1 << number for number in set(numbers))


#: A socket in a dump: the fields of :class:`Found` as a plain tuple, which is cheaper.
Record = tuple[int, int, bytes, int]


def dump(netlink: NetlinkSocket, wanted: int, program: bytes = b"") -> Iterator[list[Record]]:
    """The TCP sockets in the ``wanted`` states that ``program`` accepts, in batches of some hundred.

    Raises NetlinkError, PermissionRequired.
    """
    what = "cannot list the TCP connections"
    payload = _DUMP_REQUEST.pack(socket.AF_UNSPEC, 0, 0, 0, wanted, 0)
    if program:
        payload += core.attribute(_REQ_BYTECODE, program)
    sequence = netlink.begin(_TCPDIAG_GETSOCK, NLM_F_DUMP, payload)
    layouts: dict[int, struct.Struct] = {}
    while True:
        data = _receive(netlink)
        size, _, _, answered = _HEADER.unpack_from(data) if len(data) >= _HEADER.size else (0, 0, 0, 0)
        # Sockets of one kind and state have messages of equal length: the whole datagram is an array.
        if answered == sequence and size >= _RECORD_SIZE and len(data) % size == 0:
            layout = layouts.get(size)
            if layout is None:
                layout = layouts[size] = struct.Struct(f"{_RECORD}{size - _RECORD_SIZE}x")
            records = list(layout.iter_unpack(data))
            if {record[0] for record in records} == {size} and {record[1] for record in records} == {_TCPDIAG_GETSOCK}:
                yield [record[2:] for record in records]
                continue
        found: list[Record] = []
        for message in core.messages(data):
            if message.sequence != sequence:
                continue
            if message.type == NLMSG_DONE:
                if found:
                    yield found
                return
            if message.type == NLMSG_ERROR:
                number, detail = core.acknowledgement(message)
                raise core.error(number or errno.EIO, what, detail)
            if core.HEADER_SIZE + len(message.payload) >= _RECORD_SIZE:
                family, state = message.payload[:2]
                inode = int.from_bytes(message.payload[68:72], sys.byteorder)
                found.append((family, state, message.payload[4:52], inode))
        if found:
            yield found


def _receive(netlink: NetlinkSocket) -> bytes:
    while True:
        try:
            data, sender = netlink.socket.recvfrom(_RECEIVE_SIZE)
        except OSError as problem:
            number = errno.ETIMEDOUT if isinstance(problem, BlockingIOError) else problem.errno or errno.EIO
            raise core.error(number, "cannot read the list of TCP connections") from problem
        if sender[0] == 0:
            return data


# -- destruction ---------------------------------------------------------------------------------------------------


def destroy(netlink: NetlinkSocket, sockets: Iterable[Found]) -> list[int]:
    """Let the kernel abort ``sockets`` (``SOCK_DESTROY``): their processes see ECONNABORTED; their peers receive a
    reset if the packet gets through. Returns for each an errno, or 0.

    ENOENT: the socket was gone. EOPNOTSUPP: the kernel cannot (built without CONFIG_INET_DIAG_DESTROY; before 6.0 also
    for sockets in TIME_WAIT). Raises NetlinkError when the kernel does not answer.
    """
    requests = [
        Request(
            _SOCK_DESTROY, 0, _DESTROY_REQUEST.pack(s.family, socket.IPPROTO_TCP, 0, 1 << (s.state & 31)) + s.identity
        )
        for s in sockets
    ]
    return [number for number, _ in netlink.request_many(requests)]
