"""TCP segments without data, and the raw sockets that send them.

This file knows bytes and sockets; :mod:`locum.connections.tickle` and :mod:`locum.connections.reset` know why a segment
is sent. RFC 9293 (TCP), RFC 791 (IPv4), RFC 8200 (IPv6), RFC 1071 (checksum).
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterable
from typing import NamedTuple

from locum.errors import NetlinkError, PermissionRequired

ACK, RST = 0x10, 0x04

#: Sequence numbers for segments outside the receiver's window, one for each try. The first is CTDB's. One connection in
#: some thousand has it within its window and does not answer, so the others are far apart.
SEQUENCES = (0, 0x55555555, 0xAAAAAAAA)

#: The window of every segment sent here, to recognise it in a packet dump (CTDB uses the same).
WINDOW = 1234

_TCP = struct.Struct("!HHIIBBHHH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_HOPS = 64

_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # include/uapi/linux/in.h, in6.h

#: Segments sent in a row before a short pause for the kernel's queues.
_BURST = 256
_FULL = (errno.ENOBUFS, errno.EAGAIN)


class Segment(NamedTuple):
    """A segment to send: addresses and ports (source and destination) are packed."""

    source: bytes
    destination: bytes
    ports: bytes
    sequence: int = 0
    acknowledged: int = 0
    flags: int = ACK


def checksum(data: bytes) -> int:
    """The Internet checksum of an even number of bytes."""
    # The sum of 16-bit words with end-around carry is the whole number modulo 65535.
    return 0xFFFF - int.from_bytes(data, "big") % 0xFFFF


def build(wanted: Segment) -> bytes:
    """The IP packet with a TCP segment without data."""
    source, destination, ports, sequence, acknowledged, flags = wanted
    head = ports + struct.pack("!IIBBHHH", sequence, acknowledged, _TCP.size // 4 << 4, flags, WINDOW, 0, 0)
    total = checksum(source + destination + struct.pack("!HH", socket.IPPROTO_TCP, _TCP.size) + head)
    tcp = head[:16] + total.to_bytes(2, "big") + head[18:]
    if len(source) == 16:
        return _IPV6.pack(6 << 28, _TCP.size, socket.IPPROTO_TCP, _HOPS, source, destination) + tcp
    size = _IPV4.size + _TCP.size
    ip = _IPV4.pack(0x45, 0, size, 0, 0, _HOPS, socket.IPPROTO_TCP, 0, source, destination)
    return ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:] + tcp


def parse(packet: bytes) -> Segment | None:
    """The TCP segment in an IP packet; None without one, or when its beginning is missing."""
    if not packet:
        return None
    version = packet[0] >> 4
    if version == 4 and len(packet) >= _IPV4.size:
        start = (packet[0] & 15) * 4
        fragment = int.from_bytes(packet[6:8], "big") & 0x1FFF
        if packet[9] != socket.IPPROTO_TCP or fragment:
            return None
        source, destination = packet[12:16], packet[16:20]
    elif version == 6 and len(packet) >= _IPV6.size:
        start = _IPV6.size
        if packet[6] != socket.IPPROTO_TCP:
            return None
        source, destination = packet[8:24], packet[24:40]
    else:
        return None
    if len(packet) < start + _TCP.size:
        return None
    sequence, acknowledged = struct.unpack_from("!II", packet, start + 4)
    return Segment(source, destination, packet[start : start + 4], sequence, acknowledged, packet[start + 13])


class RawSender:
    """Sends segments of one version of IP, in the network namespace in which it was created.

    With ``source`` (packed) the socket is bound to it, so that routing rules for that address ("ip rule from ...")
    apply as to the packets of the service.
    """

    def __init__(self, family: int, source: bytes | None = None) -> None:
        self._family = family
        try:
            self._socket = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
        except PermissionError as problem:
            raise PermissionRequired(
                "cannot open a raw socket to notify clients of a move; this needs root, or CAP_NET_RAW"
            ) from problem
        # It receives nothing: no host sends packets of protocol 255.
        self._socket.setblocking(False)
        if source is not None:
            self._bind(socket.inet_ntop(family, source))

    def _bind(self, source: str) -> None:
        try:
            # Works without the address too: then it has no route, and no packet is sent.
            if self._family == socket.AF_INET:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            else:
                self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            self._socket.bind((source, 0))
        except OSError as problem:
            self._socket.close()
            raise NetlinkError(f"cannot send from {source}: {problem.strerror}", problem.errno or errno.EIO) from None

    def __enter__(self) -> RawSender:
        return self

    def __exit__(self, *raised: object) -> None:
        self._socket.close()

    def send(self, segments: Iterable[Segment]) -> int:
        """Send ``segments``; returns how many the kernel accepted (a packet without a route or dropped by a rule does
        not count)."""
        sent = 0
        for number, wanted in enumerate(segments, 1):
            sent += self._one(build(wanted), wanted.destination)
            if number % _BURST == 0:
                time.sleep(0.001)
        return sent

    def _one(self, packet: bytes, destination: bytes) -> bool:
        # An IPv6 raw socket requires port 0 here.
        where = (socket.inet_ntop(self._family, destination), 0)
        for _ in range(3):
            try:
                self._socket.sendto(packet, where)
                return True
            except OSError as problem:
                if problem.errno not in _FULL:
                    return False
                time.sleep(0.002)
        return False
