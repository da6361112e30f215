"""Announcements as bytes, and broadcast addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.machine import addresses, announcements


@pytest.mark.parametrize(
    ("address", "bits", "expected"),
    [
        ("10.1.2.3", 24, "0a0102ff"),
        ("10.1.2.3", 8, "0affffff"),
        ("10.1.2.3", 30, "0a010203"),
        ("10.1.2.3", 31, None),
        ("10.1.2.3", 32, None),
        ("10.1.2.3", 0, "ffffffff"),
    ],
)
def test_broadcast_addresses(address: str, bits: int, expected: str | None) -> None:
    found = addresses.broadcast(address, bits)
    assert (None if found is None else found.hex()) == expected


@given(st.ip_addresses(v=6).map(str), st.binary(min_size=6, max_size=6))
def test_advertisements_have_a_right_checksum(address: str, mac: bytes) -> None:
    [frame] = announcements.frames(address, mac)
    body = frame[54:]
    data = frame[22:54] + len(body).to_bytes(4, "big") + bytes([0, 0, 0, 58]) + body
    total = sum(int.from_bytes(data[n : n + 2], "big") for n in range(0, len(data), 2))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    assert total == 0xFFFF
    assert frame[22:38] == frame[62:78], "source and target are the address"


@given(st.ip_addresses(v=4).map(str), st.binary(min_size=6, max_size=6))
def test_gratuitous_arp_comes_in_both_forms(address: str, mac: bytes) -> None:
    request, reply = announcements.frames(address, mac)
    assert (request[21], reply[21]) == (1, 2)
    for frame in (request, reply):
        assert len(frame) == 60
        assert frame[28:32] == frame[38:42]
        assert frame[22:28] == frame[6:12] == mac
