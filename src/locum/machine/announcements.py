"""Announce to the neighbours that this machine has an address (gratuitous ARP, unsolicited neighbour advertisements),
or ask them whether another machine has it.

One call sends one burst; the caller decides when and how often. This file does not know whether the node may speak for
the address: the gate (:mod:`locum.machine.gate.gate`) drops frames that it may not send.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from locum.errors import NetlinkError, PermissionRequired
from locum.machine.netlink import route
from locum.machine.netlink.core import NetlinkSocket

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ICMP6 = struct.Struct("!BBHI16sBB6s")

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_BROADCAST = b"\xff" * 6
_UNKNOWN_MAC = b"\0" * 6
_ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")
_ALL_NODES_MAC = b"\x33\x33\0\0\0\x01"  # RFC 2464, section 7

_SOLICITED_NODE = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13]
_NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = 135, 136
_ROUTER, _OVERRIDE = 0x80000000, 0x20000000
_TARGET_LINK_ADDRESS = 2
_HOP_LIMIT = 255

#: Interface types (``include/uapi/linux/if_arp.h``) whose frames are Ethernet's.
_ETHERNET_KINDS = (1, 772)


class _Link(NamedTuple):
    mac: bytes
    router: bool


class Announcer:
    """Sends announcements from any interface of the network namespace in which the object was created."""

    def __init__(self) -> None:
        try:
            # Protocol 0: this socket sends and never receives.
            self._packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except PermissionError as problem:
            raise PermissionRequired(
                "cannot open a packet socket to announce addresses; this needs root, or CAP_NET_RAW"
            ) from problem
        self._packet.setblocking(False)
        self._netlink: NetlinkSocket = route.open_socket()

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        self._packet.close()
        self._netlink.close()

    def announce(self, interface: str, *addresses: str) -> bool:
        """Announce ``addresses`` on ``interface``, once each.

        False when a frame was not sent: the interface is not Ethernet, its queue was full, or the gate refused. Raises
        NetlinkError (ENODEV, ENETDOWN ...), ValueError (not an address).
        """
        return self._send_all(
            interface, lambda link: [frame for address in addresses for frame in frames(address, link.mac, link.router)]
        )

    def ask(self, interface: str, *addresses: str) -> bool:
        """Ask once whether another machine has ``addresses``, without claiming them. As :meth:`announce` otherwise."""
        return self._send_all(interface, lambda link: [question(address, link.mac) for address in addresses])

    def _send_all(self, interface: str, made: Callable[[_Link], Sequence[bytes]]) -> bool:
        # Read each time: a bond changes its hardware address in a failover.
        found = route.link(self._netlink, interface)
        if found.kind not in _ETHERNET_KINDS or len(found.hardware) != 6:
            return False
        sent = [self._send(found.name, frame) for frame in made(_Link(found.hardware, found.forwards6))]
        return all(sent)

    def _send(self, interface: str, frame: bytes) -> bool:
        try:
            # With its protocol named, filters on every kernel recognise the frame.
            self._packet.sendto(frame, (interface, int.from_bytes(frame[12:14], "big")))
        except OSError as problem:
            # ENOBUFS also reports a frame that an egress rule dropped.
            if problem.errno in (errno.ENOBUFS, errno.EAGAIN, errno.EPERM):
                return False
            raise NetlinkError(
                f"cannot announce an address on {interface!r}: {problem.strerror}", problem.errno or errno.EIO
            ) from problem
        return True


def frames(address: str, mac: bytes, router: bool = False) -> list[bytes]:
    """The Ethernet frames that announce ``address`` at hardware address ``mac``. Raises ValueError."""
    raw = route.packed(address)
    if len(raw) == 4:
        return [_arp(raw, mac, 1), _arp(raw, mac, 2)]
    return [_advertisement(raw, mac, router)]


def question(address: str, mac: bytes) -> bytes:
    """The Ethernet frame that asks for ``address`` and names only the sender's hardware address ``mac``: an ARP probe
    (RFC 5227, section 2.1.1), or the solicitation of duplicate address detection (RFC 4862, section 5.4.2).
    Raises ValueError.
    """
    raw = route.packed(address)
    if len(raw) == 4:
        body = _ARP.pack(1, 0x0800, 6, 4, 1, mac, bytes(4), _UNKNOWN_MAC, raw)
        return (_ETHERNET.pack(_BROADCAST, mac, _ETH_P_ARP) + body).ljust(60, b"\0")
    group = _SOLICITED_NODE + raw[13:]

    # From the unspecified address, and therefore without the option with the sender's hardware address.
    message = struct.pack("!BBHI16s", _NEIGHBOUR_SOLICITATION, 0, 0, 0, raw)
    return _neighbour_discovery(b"\x33\x33" + group[12:], mac, bytes(16), group, message)


def _arp(address: bytes, mac: bytes, operation: int) -> bytes:
    """Gratuitous ARP: the sender and the target are the same address (RFC 5227, section 3; RFC 2002, section 4.6).

    Both forms are sent, as CTDB does: some devices update their tables on requests only, others on replies.
    """
    target = _UNKNOWN_MAC if operation == 1 else mac
    body = _ARP.pack(1, 0x0800, 6, 4, operation, mac, address, target, address)
    return (_ETHERNET.pack(_BROADCAST, mac, _ETH_P_ARP) + body).ljust(60, b"\0")


def _advertisement(address: bytes, mac: bytes, router: bool) -> bytes:
    """An unsolicited neighbour advertisement to all nodes, with the override flag (RFC 4861, section 7.2.6).

    The router flag equals that of this node's own answers: a host that uses the address as its router would drop it
    on a false flag (section 7.2.5).
    """
    flags = _OVERRIDE | (_ROUTER if router else 0)
    message = _ICMP6.pack(_NEIGHBOUR_ADVERTISEMENT, 0, 0, flags, address, _TARGET_LINK_ADDRESS, 1, mac)
    return _neighbour_discovery(_ALL_NODES_MAC, mac, address, _ALL_NODES, message)


def _neighbour_discovery(to: bytes, mac: bytes, source: bytes, destination: bytes, message: bytes) -> bytes:
    """The frame of an ICMPv6 ``message``, whose checksum (RFC 4443, section 2.3) is filled in."""
    pseudo_header = source + destination + struct.pack("!IxxxB", len(message), socket.IPPROTO_ICMPV6)
    checksum = struct.pack("!H", _checksum(pseudo_header + message))
    header = struct.pack("!IHBB", 6 << 28, len(message), socket.IPPROTO_ICMPV6, _HOP_LIMIT)
    body = message[:2] + checksum + message[4:]
    return _ETHERNET.pack(to, mac, _ETH_P_IPV6) + header + source + destination + body


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
