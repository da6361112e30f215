"""Socket filters, run by an interpreter of their own: a wrong jump would silence the wrong messages."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from locum.machine.netlink import filters
from locum.machine.netlink.filters import Instruction


def keeps(program: list[Instruction], data: bytes) -> bool:
    """Classic BPF as the kernel runs it (a load beyond the end drops)."""
    place, accumulator = 0, 0
    while True:
        code, jump_true, jump_false, constant = program[place]
        place += 1
        if code in (0x20, 0x28):
            size = 4 if code == 0x20 else 2
            if constant + size > len(data):
                return False
            accumulator = int.from_bytes(data[constant : constant + size], "big")
        elif code == 0x15:
            place += jump_true if accumulator == constant else jump_false
        else:
            assert code == 0x06
            return constant > 0


def message(kind: int, port: int, body: bytes = b"") -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, port) + body


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF))
def test_only_that_type_and_only_from_others(kind: int, port: int) -> None:
    program = filters.type_from_others(0x0A0F, (1234, 77))
    assert keeps(program, message(kind, port)) == (kind == 0x0A0F and port not in (1234, 77))
    assert keeps(program, message(0x0A0F, port)) == (port not in (1234, 77))
    assert not keeps(program, message(0x0A0F, 1234))
    assert not keeps(program, message(0x0A0F, 77))
    assert keeps(filters.type_from_others(0x0A0F, ()), message(0x0A0F, port))


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(min_size=16, max_size=16) | st.just(bytes(16)))
def test_only_sockets_with_a_port_and_without_a_peer(port: int, peer_port: int, peer: bytes) -> None:
    program = filters.listening_inet_sockets()
    body = bytes(4) + struct.pack("!HH", port, peer_port) + b"\7" * 16 + peer + bytes(32)
    expected = port != 0 and peer_port == 0 and peer == bytes(16)
    assert keeps(program, message(20, 0, body)) == expected


def test_the_kernel_accepts_and_obeys_them() -> None:
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with first, second:
        filters.attach(second, filters.type_from_others(0x0A0F, (1234, 77)))
        second.setblocking(False)
        for kind, port in ((0x0A0F, 1234), (0x0A0F, 77), (0x0A0E, 1), (0x0A0F, 99)):
            first.send(message(kind, port))
        assert second.recv(100) == message(0x0A0F, 99)
        try:
            second.recv(100)
        except BlockingIOError:
            pass
        else:
            raise AssertionError("more came through")
