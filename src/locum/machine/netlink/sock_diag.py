"""sock_diag: the kernel's TCP sockets.

This file has layouts and constants of ``include/uapi/linux/{sock_diag,inet_diag}.h``; it only reads.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from locum.machine.netlink import core
from locum.machine.netlink.core import NetlinkSocket

NETLINK_SOCK_DIAG = 4

SOCK_DIAG_BY_FAMILY = 20

#: The group that reports every destroyed TCP socket.
SKNLGRP_INET_TCP_DESTROY = 1
SKNLGRP_INET6_TCP_DESTROY = 3

TCP_LISTEN = 10
ALL_STATES = 0xFFFFFFFF

_INET_DIAG_SKV6ONLY = 11

# struct inet_diag_req_v2 and inet_diag_msg; both hold a struct inet_diag_sockid of 48 bytes.
_REQUEST = struct.Struct("=BBBxI48x")
_MESSAGE = struct.Struct("=BBBB2s2s16s16sIIIIIIII")


class TcpSocket(NamedTuple):
    """A TCP socket: family (AF_), state (``TCP_``), its own and its peer's address and port (0: none), whether it
    is an IPv6 socket that accepts no IPv4 (``only6``), the inode of its file (0 when it has none)."""

    family: int
    state: int
    address: str
    port: int
    peer: str
    peer_port: int
    only6: bool
    inode: int


def open_socket() -> NetlinkSocket:
    """A socket for requests of this file, in the present network namespace."""
    return NetlinkSocket(NETLINK_SOCK_DIAG)


def parse(payload: bytes) -> TcpSocket | None:
    """The socket in a message's payload; None for other families than IP."""
    if len(payload) < _MESSAGE.size:
        return None
    family, state, _timer, _retransmits, sport, dport, source, destination, *rest = _MESSAGE.unpack_from(payload)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    size = 4 if family == socket.AF_INET else 16
    only6 = family == socket.AF_INET6 and core.parse(payload, _MESSAGE.size).get(_INET_DIAG_SKV6ONLY, b"\0") != b"\0"
    return TcpSocket(
        family,
        state,
        socket.inet_ntop(family, source[:size]),
        int.from_bytes(sport, "big"),
        socket.inet_ntop(family, destination[:size]),
        int.from_bytes(dport, "big"),
        only6,
        rest[-1],
    )


def tcp_sockets(sock: NetlinkSocket, family: int, states: int = ALL_STATES) -> list[TcpSocket]:
    """The TCP sockets of one family in the given states (bits ``1 << TCP_...``). Raises NetlinkError."""
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, states)
    found = (parse(m.payload) for m in sock.dump(SOCK_DIAG_BY_FAMILY, request, "cannot list the TCP sockets"))
    return [entry for entry in found if entry is not None]
