"""TCP segments as bytes: what a receiver checks, checked here by other means."""

from __future__ import annotations

import socket
import struct

import pytest

from locum.connections.segments import ACK, RST, Segment, build, checksum, parse

PAIRS = [("192.0.2.1", "198.51.100.7"), ("2001:db8::1", "2001:db8:1::ffff")]


def raw(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def ones_complement_sum(data: bytes) -> int:
    """RFC 1071, the slow way."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize(("source", "destination"), PAIRS)
@pytest.mark.parametrize("sequence", [0, 0x55555555, 0xFFFFFFFF])
def test_checksums_are_right(source: str, destination: str, sequence: int) -> None:
    wanted = Segment(raw(source), raw(destination), struct.pack("!HH", 445, 50123), sequence, 77, RST | ACK)
    packet = build(wanted)
    six = ":" in source
    tcp = packet[40:] if six else packet[20:]
    pseudo = wanted.source + wanted.destination + struct.pack("!II" if six else "!HH", *((20, 6) if six else (6, 20)))
    assert ones_complement_sum(pseudo + tcp) == 0xFFFF
    if not six:
        assert ones_complement_sum(packet[:20]) == 0xFFFF
        assert struct.unpack_from("!H", packet, 2)[0] == len(packet) == 40
    else:
        assert struct.unpack_from("!H", packet, 4)[0] == len(packet) - 40 == 20
    assert parse(packet) == wanted


@pytest.mark.parametrize("data", [bytes(20), b"\xff" * 20, bytes(range(20)), b"\xff\xff" + bytes(18)])
def test_the_quick_checksum_is_the_slow_one(data: bytes) -> None:
    # 0 and 65535 mean the same in this arithmetic.
    assert checksum(data) % 0xFFFF == (~ones_complement_sum(data) & 0xFFFF) % 0xFFFF


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_what_is_no_tcp_segment_is_refused(source: str, destination: str) -> None:
    packet = build(Segment(raw(source), raw(destination), struct.pack("!HH", 1, 2)))
    for length in range(len(packet)):
        assert parse(packet[:length]) is None
    protocol = 6 if ":" in source else 9
    assert parse(packet[:protocol] + b"\x11" + packet[protocol + 1 :]) is None
    assert parse(b"\x70" + packet[1:]) is None


def test_a_fragment_has_no_ports() -> None:
    packet = build(Segment(raw(PAIRS[0][0]), raw(PAIRS[0][1]), struct.pack("!HH", 1, 2)))
    assert parse(packet[:6] + b"\0\1" + packet[8:]) is None


def test_options_of_the_ip_header_are_passed_over() -> None:
    packet = build(Segment(raw(PAIRS[0][0]), raw(PAIRS[0][1]), struct.pack("!HH", 1, 2), 5))
    found = parse(b"\x46" + packet[1:20] + bytes(4) + packet[20:])
    assert found is not None
    assert found.sequence == 5
