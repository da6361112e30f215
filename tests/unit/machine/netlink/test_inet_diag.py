"""The filter programs for the kernel, run by an interpreter written after net/ipv4/inet_diag.c."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.machine.netlink import inet_diag

_MAPPED = bytes(10) + b"\xff\xff"


def audit(program: bytes) -> None:
    """What the kernel checks before it takes a program (``inet_diag_bc_audit``)."""
    places = set()
    place = 0
    while place < len(program):
        places.add(place)
        code, yes, no = struct.unpack_from("=BBH", program, place)
        left = len(program) - place
        assert code in (1, 7)
        assert yes % 4 == 0
        assert no % 4 == 0
        assert 4 <= yes <= left + 4
        assert 4 <= no <= left + 4
        place += yes
    assert place == len(program), "the steps do not lead to the end"
    place = 0
    for place in places:
        no = struct.unpack_from("=BBH", program, place)[2]
        target = place + no
        assert target in places or target in (len(program), len(program) + 4), "a jump into the middle of a step"


def takes(program: bytes, family: int, address: bytes, port: int) -> bool:
    """What the kernel does (``inet_diag_bc_run``)."""
    place = 0
    while place < len(program):
        code, yes, no = struct.unpack_from("=BBH", program, place)
        good = code == 7 and _holds(program[place + 4 : place + yes], family, address, port)
        place += yes if good else no
    return place == len(program)


def _holds(condition: bytes, family: int, address: bytes, port: int) -> bool:
    wanted, bits, number = struct.unpack_from("=BBxxi", condition)
    if number not in (-1, port):
        return False
    if wanted not in (socket.AF_UNSPEC, family):
        if family == socket.AF_INET6 and wanted == socket.AF_INET and address.startswith(_MAPPED):
            return address[12:] == condition[8:12]
        return False
    return bits == 0 or address == condition[8 : 8 + bits // 8]


ADDRESSES = [bytes([10, 0, 0, n]) for n in range(4)] + [bytes(15) + bytes([n]) for n in range(4)]
PORTS = [1, 80, 445, 65535]


@given(
    wanted=st.none() | st.sets(st.sampled_from(ADDRESSES)),
    ports=st.none() | st.sets(st.sampled_from(PORTS)),
)
def test_a_program_takes_what_was_asked_for(wanted: set[bytes] | None, ports: set[int] | None) -> None:
    program = inet_diag.condition(wanted, ports)
    audit(program)
    for address in ADDRESSES:
        for port in PORTS:
            expected = (wanted is None or address in wanted) and (ports is None or port in ports)
            family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
            assert takes(program, family, address, port) == expected
            if family == socket.AF_INET:
                assert takes(program, socket.AF_INET6, _MAPPED + address, port) == expected


def test_no_condition_is_no_program() -> None:
    assert inet_diag.condition() == b""


def test_what_is_too_much_for_the_kernel_is_left_to_the_caller() -> None:
    many = range(1, inet_diag.MOST_ALTERNATIVES + 2)
    assert inet_diag.condition(None, many) == b""
    assert inet_diag.condition([ADDRESSES[0]], many) == inet_diag.condition([ADDRESSES[0]])
    audit(inet_diag.condition(None, many[:-1]))


@pytest.mark.parametrize(
    ("family", "raw", "expected"),
    [
        (socket.AF_INET, b"\x0a\0\0\1" + bytes(12), b"\x0a\0\0\1"),
        (socket.AF_INET6, _MAPPED + b"\x0a\0\0\1", b"\x0a\0\0\1"),
        (socket.AF_INET6, bytes(15) + b"\1", bytes(15) + b"\1"),
    ],
)
def test_an_identity_is_taken_apart(family: int, raw: bytes, expected: bytes) -> None:
    identity = struct.pack("!HH", 445, 1023) + raw + raw + bytes(4) + struct.pack("=II", 7, 1)
    found = inet_diag.Found(family, inet_diag.ESTABLISHED, identity, 5)
    assert (found.port, found.peer_port, found.address, found.peer) == (445, 1023, expected, expected)
    assert found.cookie == (1 << 32) + 7
