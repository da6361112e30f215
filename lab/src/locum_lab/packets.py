"""The frames that the observer sends and reads: ARP, neighbour discovery, and the address that a frame speaks for.

Bytes in, values out; no sockets. Sources: RFC 826 (ARP), RFC 4861 sections 4.3, 4.4 and 7.2 (neighbour
solicitation and advertisement), RFC 4443 section 2.3 (ICMPv6 checksum), <linux/filter.h> (classic BPF).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_VLAN = 0x8100

_ICMPV6 = 58
_NEIGHBOUR_SOLICITATION = 135
_NEIGHBOUR_ADVERTISEMENT = 136

#: The bytes of a frame that :func:`speaks_for` needs: Ethernet, IPv6 header, neighbour advertisement's target.
SNAP_LENGTH = 14 + 40 + 24


def mac_bytes(mac: str) -> bytes:
    """``02:4c:00:00:01:01`` as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def link_local(mac: str) -> ipaddress.IPv6Address:
    """The link-local address made from a hardware address (RFC 4291 appendix A)."""
    raw = mac_bytes(mac)
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:])


def question(address: str, sender_mac: str, sender_v4: str) -> bytes:
    """The frame that asks for ``address``: an ARP request, or a neighbour solicitation to its multicast group."""
    target = ipaddress.ip_address(address)
    if isinstance(target, ipaddress.IPv4Address):
        return _arp_request(target, sender_mac, ipaddress.IPv4Address(sender_v4))
    return _neighbour_solicitation(target, sender_mac)


def _arp_request(target: ipaddress.IPv4Address, sender_mac: str, sender: ipaddress.IPv4Address) -> bytes:
    mac = mac_bytes(sender_mac)
    header = b"\xff" * 6 + mac + struct.pack("!H", ETHERTYPE_ARP)
    body = struct.pack("!HHBBH", 1, ETHERTYPE_IPV4, 6, 4, 1)
    return header + body + mac + sender.packed + bytes(6) + target.packed


def _neighbour_solicitation(target: ipaddress.IPv6Address, sender_mac: str) -> bytes:
    mac = mac_bytes(sender_mac)
    source = link_local(sender_mac).packed
    group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + target.packed[13:]
    option = b"\x01\x01" + mac  # source link-layer address: the answer needs no question in return
    body = struct.pack("!BBHI", _NEIGHBOUR_SOLICITATION, 0, 0, 0) + target.packed + option
    checksum = _checksum(source + group + struct.pack("!II", len(body), _ICMPV6) + body)
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    # Hop limit 255: a receiver ignores solicitations that have passed a router.
    header = struct.pack("!IHBB", 6 << 28, len(body), _ICMPV6, 255) + source + group
    return b"\x33\x33" + group[12:] + mac + struct.pack("!H", ETHERTYPE_IPV6) + header + body


def tagged(frame: bytes, vlan: int) -> bytes:
    """The frame in a VLAN (IEEE 802.1Q); unchanged when ``vlan`` is 0."""
    return frame[:12] + struct.pack("!HH", ETHERTYPE_VLAN, vlan) + frame[12:] if vlan else frame


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def speaks_for(frame: bytes | memoryview) -> tuple[bytes, bytes] | None:
    """The sender's hardware address and the (packed) address that the frame speaks for; None when it speaks for none.

    A frame speaks for the sender of an ARP packet, the source of an IP packet, the target of a neighbour advertisement.
    A question about an address (including duplicate address detection's, from ``::``) does not speak for it.
    """
    if len(frame) < 34:
        return None
    kind = frame[12] << 8 | frame[13]
    mac = bytes(frame[6:12])
    if kind == ETHERTYPE_ARP:
        return mac, bytes(frame[28:32])
    if kind == ETHERTYPE_IPV4:
        return mac, bytes(frame[26:30])
    if kind == ETHERTYPE_IPV6 and len(frame) >= 54:
        if frame[20] == _ICMPV6 and len(frame) >= SNAP_LENGTH and frame[54] == _NEIGHBOUR_ADVERTISEMENT:
            return mac, bytes(frame[62:78])
        return mac, bytes(frame[22:38])
    return None


def filter_program(ignored_macs: Sequence[str]) -> bytes:
    """A classic BPF program: ARP, IPv4 and IPv6 frames whose Ethernet source is not in ``ignored_macs``, cut to the
    bytes that :func:`speaks_for` needs. The kernel then drops the clients' half of the traffic.
    """
    load_word, load_half, jump_equal, give = 0x20, 0x28, 0x15, 0x06  # BPF_LD|W|ABS, |H|ABS, BPF_JMP|JEQ|K, BPF_RET
    # (code, jump if true, jump if false, k); every test is self-contained, so that jumps stay small.
    program: list[tuple[int, int, int, int]] = []
    for mac in ignored_macs:
        raw = mac_bytes(mac)
        program += [
            (load_word, 0, 0, 6),
            (jump_equal, 0, 3, int.from_bytes(raw[:4])),
            (load_half, 0, 0, 10),
            (jump_equal, 0, 1, int.from_bytes(raw[4:])),
            (give, 0, 0, 0),
        ]
    program += [
        (load_half, 0, 0, 12),
        (jump_equal, 3, 0, ETHERTYPE_ARP),
        (jump_equal, 2, 0, ETHERTYPE_IPV4),
        (jump_equal, 1, 0, ETHERTYPE_IPV6),
        (give, 0, 0, 0),
        (give, 0, 0, SNAP_LENGTH),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)
