"""rtnetlink: the kernel's answers about the route of a packet and about this machine's own addresses.

This file has layouts and constants of ``include/uapi/linux/rtnetlink.h`` and knows nothing of public addresses. A
look-up sends no packet; it asks how the kernel would route one, with policy rules and reverse path filter.
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
    """A route, or the result of a look-up: ``kind`` is ``RTN_``, ``ifindex`` the interface's (0: none), ``source`` the
    source of the machine's own packets ("" when the kernel does not report it)."""

    kind: int
    destination: str
    ifindex: int = 0
    source: str = ""


def lookup(sock: NetlinkSocket, destination: str, source: str = "", arrives_on: int = 0) -> Route:
    """The route of a packet to ``destination``: sent from here (from ``source``, if given), or by another machine
    when it arrives on the interface with that index.

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
    found = _parse(sock.get(RTM_GETROUTE, payload, f"cannot look up the route to {destination}").payload)
    if found is None:
        raise NetlinkError(f"the kernel's answer for the route to {destination} cannot be read", errno.EIO)
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
