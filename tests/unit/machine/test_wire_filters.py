"""What is heard of other machines: filters, run as the kernel would, and what the reader makes of frames."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.machine import announcements, wire_filters
from locum.machine.netlink.filters import Instruction
from locum.machine.wire_filters import Heard

MAC, OTHER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def run(program: Sequence[Instruction], packet: bytes) -> bool:
    """What the kernel does with a classic filter (Documentation/networking/filter.rst): whether it keeps the packet."""
    place, value = 0, 0
    while True:
        code, true, false, constant = program[place]
        place += 1
        if code in (0x20, 0x28, 0x30):
            size = {0x20: 4, 0x28: 2, 0x30: 1}[code]
            if constant + size > len(packet):
                return False
            value = int.from_bytes(packet[constant : constant + size], "big")
        elif code == 0x05:
            place += constant
        elif code in (0x15, 0x35, 0x25):
            hit = {0x15: value == constant, 0x35: value >= constant, 0x25: value > constant}[code]
            place += true if hit else false
        else:
            assert code == 0x06
            return constant != 0


def arp(operation: int, source: str, target: str) -> bytes:
    v4 = socket.inet_aton
    return struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, operation, OTHER, v4(source), bytes(6), v4(target))


def nd(kind: int, source: str, target: str, hops: int = 255) -> bytes:
    v6 = [socket.inet_pton(socket.AF_INET6, address) for address in (source, "ff02::1", target)]
    return struct.pack("!IHBB", 6 << 28, 24, 58, hops) + v6[0] + v6[1] + struct.pack("!BBHI", kind, 0, 0, 0) + v6[2]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (arp(1, "10.0.0.1", "10.0.0.1"), Heard("10.0.0.1", OTHER, probe=False)),
        (arp(2, "10.0.0.1", "10.0.0.50"), Heard("10.0.0.1", OTHER, probe=False)),
        (arp(1, "10.0.0.1", "10.0.0.50"), Heard("10.0.0.1", OTHER, probe=False)),
        (arp(1, "0.0.0.0", "10.0.0.1"), Heard("10.0.0.1", OTHER, probe=True)),
        (arp(1, "10.0.0.50", "10.0.0.1"), None),
        (arp(1, "0.0.0.0", "10.0.0.50"), None),
        (nd(136, "fe80::2", "fd00::1"), Heard("fd00::1", None, probe=False)),
        (nd(135, "::", "fd00::1"), Heard("fd00::1", None, probe=True)),
        (nd(135, "fd00::1", "fd00::50"), Heard("fd00::1", None, probe=False)),
        (nd(135, "fd00::50", "fd00::1"), None),
        (nd(136, "fe80::2", "fd00::50"), None),
        (nd(134, "fe80::2", "fd00::1"), None),
    ],
)
def test_what_counts_passes_the_kernels_filter_and_is_read(message: bytes, expected: Heard | None) -> None:
    """Ordinary questions for an address, and all that is about others, wake no process."""
    six = message[0] >> 4 == 6
    program = wire_filters.neighbour_discovery(["fd00::1"]) if six else wire_filters.arp(["10.0.0.1"])
    read = wire_filters.read_neighbour_discovery if six else wire_filters.read_arp
    assert run(program, message) == (expected is not None)
    if expected is not None:
        assert read(message) == expected


def test_neighbour_discovery_from_beyond_the_link_does_not_count() -> None:
    assert wire_filters.read_neighbour_discovery(nd(136, "fe80::2", "fd00::1", hops=254)) is None


@given(st.binary(max_size=120))
def test_garbage_is_read_as_nothing_or_as_an_address(message: bytes) -> None:
    for read in (wire_filters.read_arp, wire_filters.read_neighbour_discovery):
        heard = read(message)
        if heard is not None:
            ipaddress.ip_address(heard.address)


@given(st.sets(st.integers(0, 2**32 - 1), min_size=1, max_size=200), st.integers(1, 70))
def test_ranges_cover_everything_and_are_few(numbers: set[int], limit: int) -> None:
    found = wire_filters.ranges(numbers, limit)
    assert len(found) <= limit
    assert all(any(first <= number <= last for first, last in found) for number in numbers)
    assert all(first in numbers and last in numbers for first, last in found)
    if len(numbers) <= limit:
        assert sum(last - first + 1 for first, last in found) == len(numbers)


@given(st.sets(st.integers(1, 2**32 - 1).map(lambda n: str(ipaddress.IPv4Address(n))), min_size=1, max_size=300))
def test_the_filter_of_many_addresses_keeps_each_of_them(addresses: set[str]) -> None:
    program = wire_filters.arp(sorted(addresses))
    assert len(program) < 4096
    for address in addresses:
        assert run(program, arp(2, address, "198.51.100.7"))


def test_a_probe_names_no_sender() -> None:
    frame = announcements.question("10.0.0.1", MAC)
    assert (len(frame), frame[:6], frame[6:12]) == (60, b"\xff" * 6, MAC)
    assert frame[20:22] == b"\0\1"
    assert frame[22:28] == MAC
    assert frame[28:32] == bytes(4), "RFC 5227, section 2.1.1: an all-zero sender"
    assert frame[38:42] == socket.inet_aton("10.0.0.1")
    assert wire_filters.read_arp(frame[14:]) == Heard("10.0.0.1", MAC, probe=True)


@given(st.ip_addresses(v=6).map(str))
def test_a_solicitation_of_duplicate_address_detection_is_from_the_unspecified_address(address: str) -> None:
    frame = announcements.question(address, MAC)
    raw = socket.inet_pton(socket.AF_INET6, address)
    assert frame[:6] == b"\x33\x33\xff" + raw[13:]
    assert frame[22:38] == bytes(16)
    assert frame[38:54] == socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13] + raw[13:]
    assert frame[54] == 135
    assert len(frame) == 78, "without an option: the sender has no address yet"
    data = frame[22:54] + (24).to_bytes(4, "big") + bytes([0, 0, 0, 58]) + frame[54:]
    total = sum(int.from_bytes(data[n : n + 2], "big") for n in range(0, len(data), 2))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    assert total == 0xFFFF
    assert wire_filters.read_neighbour_discovery(frame[14:]) == Heard(
        socket.inet_ntop(socket.AF_INET6, raw), None, probe=True
    )
