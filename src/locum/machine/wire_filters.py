"""Socket filters for the ARP and neighbour discovery messages that concern a set of addresses, and their parser.

Pure. Messages begin with the network header (packet sockets of kind SOCK_DGRAM). A filter keeps slightly too much
(ranges of addresses, only the last 32 bits of IPv6 addresses), so the parser checks again.

Messages that count (RFC 5227, sections 2.1.1 and 2.4; RFC 4862, sections 5.4.3 and 5.4.4):

- **use**: ARP of either kind whose sender's address is one of them; a neighbour advertisement about one of them, or a
  solicitation from one of them;
- **probe**: an ARP request with the sender 0.0.0.0, or a solicitation from ::, for one of them: another machine is
  about to take it.

An ordinary client's request for an address is neither, and wakes no process.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from locum.machine.netlink.filters import Instruction

_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ABOVE = 0x15, 0x35, 0x25
_JUMP = 0x05
_RETURN = 0x06
_KEEP, _DROP = 0xFFFFFFFF, 0

#: Ranges of addresses in one filter; with more, the gaps between close ranges are kept as well.
MAX_RANGES = 64

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_UNSPECIFIED4, _UNSPECIFIED6 = bytes(4), bytes(16)
_SOLICITATION, _ADVERTISEMENT = 135, 136


class Heard(NamedTuple):
    """A message about ``address``. ``mac``: the hardware address that it names for the address (ARP), or None: the
    frame's own sender. ``probe``: its sender does not use the address yet."""

    address: str
    mac: bytes | None
    probe: bool


def ranges(numbers: Iterable[int], limit: int = MAX_RANGES) -> list[tuple[int, int]]:
    """At most ``limit`` ranges (first, last) that cover ``numbers`` and as few others as possible."""
    ordered = sorted(set(numbers))
    if not ordered:
        return []
    gaps = sorted(range(1, len(ordered)), key=lambda n: ordered[n] - ordered[n - 1], reverse=True)
    adjacent = {n for n in gaps if ordered[n] - ordered[n - 1] == 1}
    cuts = sorted(n for n in gaps[: limit - 1] if n not in adjacent)
    starts = [0, *cuts]
    return [(ordered[a], ordered[b - 1]) for a, b in zip(starts, [*cuts, len(ordered)], strict=True)]


def arp(addresses: Sequence[str]) -> list[Instruction]:
    """The filter for ARP about IPv4 ``addresses``."""
    found = ranges(int.from_bytes(socket.inet_aton(address), "big") for address in addresses)
    return [
        (_LOAD_WORD, 0, 0, 14),  # the sender's address
        (_JUMP_EQUAL, 0, 1, 0),
        (_LOAD_WORD, 0, 0, 24),  # a probe has none: the target's
        *_among(found),
        (_RETURN, 0, 0, _DROP),
    ]


def neighbour_discovery(addresses: Sequence[str]) -> list[Instruction]:
    """The filter for neighbour solicitations and advertisements about IPv6 ``addresses``, by their last 32 bits."""
    found = ranges(int.from_bytes(socket.inet_pton(socket.AF_INET6, address)[12:], "big") for address in addresses)
    among = _among(found)
    return [
        (_LOAD_BYTE, 0, 0, 6),  # ICMPv6 comes first: neighbour discovery has no extension headers of use
        (_JUMP_EQUAL, 1, 0, socket.IPPROTO_ICMPV6),
        (_RETURN, 0, 0, _DROP),
        (_LOAD_BYTE, 0, 0, 40),
        (_JUMP_EQUAL, 5, 0, _ADVERTISEMENT),
        (_JUMP_EQUAL, 1, 0, _SOLICITATION),
        (_RETURN, 0, 0, _DROP),
        (_LOAD_WORD, 0, 0, 8),  # the source's first bits: among those that count, only :: has zero
        (_JUMP_EQUAL, 1, 0, 0),
        (_JUMP, 0, 0, 2 + len(among)),
        (_LOAD_WORD, 0, 0, 60),  # the target
        *among,
        (_RETURN, 0, 0, _DROP),
        (_LOAD_WORD, 0, 0, 20),  # the source
        *among,
        (_RETURN, 0, 0, _DROP),
    ]


def _among(found: Sequence[tuple[int, int]]) -> list[Instruction]:
    """Keep the message when the loaded word is in one of the ranges, else continue."""
    program: list[Instruction] = []
    for first, last in found:
        program += [(_JUMP_AT_LEAST, 0, 2, first), (_JUMP_ABOVE, 1, 0, last), (_RETURN, 0, 0, _KEEP)]
    return program


def read_arp(message: bytes) -> Heard | None:
    """Parse an ARP message; None when it does not count."""
    if len(message) < _ARP.size:
        return None
    hardware, protocol, hlen, plen, operation, mac, source, _, target = _ARP.unpack_from(message)
    if (hardware, protocol, hlen, plen) != (1, 0x0800, 6, 4):
        return None
    if source != _UNSPECIFIED4:
        return Heard(socket.inet_ntoa(source), mac, probe=False)
    return Heard(socket.inet_ntoa(target), mac, probe=True) if operation == 1 else None


def read_neighbour_discovery(message: bytes) -> Heard | None:
    """Parse an IPv6 packet; None when it does not count."""
    # Only a hop limit of 255 proves that it comes from this link (RFC 4861, section 7.1).
    if len(message) < 64 or message[6] != socket.IPPROTO_ICMPV6 or message[7] != 255:
        return None
    kind, source, target = message[40], message[8:24], message[48:64]
    if kind == _ADVERTISEMENT:
        return Heard(socket.inet_ntop(socket.AF_INET6, target), None, probe=False)
    if kind != _SOLICITATION:
        return None
    if source == _UNSPECIFIED6:
        return Heard(socket.inet_ntop(socket.AF_INET6, target), None, probe=True)
    return Heard(socket.inet_ntop(socket.AF_INET6, source), None, probe=False)
