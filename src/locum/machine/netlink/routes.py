"""rtnetlink: which way a packet takes, and which addresses are this machine's own, as the kernel tells them.

Rules of this file: layouts and constants of ``include/uapi/linux/rtnetlink.h``, nothing about public addresses. A
look-up sends nothing; it asks what the kernel would do, policy rules and reverse path filter included.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from locum.errors import NetlinkError
from locum.machine.netlink import core
from locum.machine.netlink.core import NetlinkSocket
from locum.machine.netlink.route import family_of, packed

RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTN_LOCAL = 2
RT_TABLE_LOCAL = 255

_RTA_DST, _RTA_SRC, _RTA_IIF, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 2, 3, 4, 5, 7
_RTMSG = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")


class Route(NamedTuple):
    """A route, or what a look-up found: ``kind`` is ``RTN_``, ``ifindex`` the interface's (0: none), ``source`` the
    address that the machine's own packets would have ("" when the kernel does not tell)."""

    kind: int
    destination: str
    ifindex: int = 0
    source: str = ""


def lookup(sock: NetlinkSocket, destination: str, source: str = "", arrives_on: int = 0) -> Route:
    """The way of a packet to ``destination``: sent from here (from ``source``, if given), or one of another machine
    that arrives on the interface with that index.

    Raises NetlinkError with the kernel's reason: ENETUNREACH, EHOSTUNREACH, EXDEV (dropped by ``rp_filter``), EINVAL.
    """
    family = family_of(destination)
    bits = 32 if family == socket.AF_INET else 128
    payload = _RTMSG.pack(family, bits, bits if source else 0, 0, 0, 0, 0, 0, 0)
    payload += core.attribute(_RTA_DST, packed(destination))
    if source:
        payload += core.attribute(_RTA_SRC, packed(source))
    if arrives_on:
        payload += core.attribute(_RTA_IIF, _U32.pack(arrives_on))
    found = _parse(sock.get(RTM_GETROUTE, payload, f"cannot look up the way to {destination}").payload)
    if found is None:
        raise NetlinkError(f"the kernel's answer for the way to {destination} cannot be read", errno.EIO)
    return found


def local_addresses(sock: NetlinkSocket, family: int) -> frozenset[str]:
    """The addresses for which the kernel delivers to this machine: the routes of kind "local" in the table "local".
    Raises NetlinkError."""
    payload = _RTMSG.pack(family, 0, 0, 0, RT_TABLE_LOCAL, 0, 0, RTN_LOCAL, 0)
    answer = sock.dump(RTM_GETROUTE, payload, "cannot list the local routes")
    found = (_parse(message.payload) for message in answer if message.type == RTM_NEWROUTE)
    return frozenset(r.destination for r in found if r is not None and r.kind == RTN_LOCAL and r.destination)


def _parse(payload: bytes) -> Route | None:
    if len(payload) < _RTMSG.size:
        return None
    family, _, _, _, _, _, _, kind, _ = _RTMSG.unpack_from(payload)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    size = 4 if family == socket.AF_INET else 16
    attributes = core.parse(payload, _RTMSG.size)

    def address(which: int) -> str:
        raw = attributes.get(which, b"")
        return socket.inet_ntop(family, raw) if len(raw) == size else ""

    index = attributes.get(_RTA_OIF, b"")
    return Route(kind, address(_RTA_DST), _U32.unpack(index)[0] if len(index) == 4 else 0, address(_RTA_PREFSRC))
