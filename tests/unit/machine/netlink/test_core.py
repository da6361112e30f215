"""Framing of netlink messages: what is packed is parsed, and what is damaged does no harm."""

from __future__ import annotations

import errno
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.errors import NetlinkError, PermissionRequired
from locum.machine.netlink import core, nftables, route, sock_diag
from locum.machine.netlink.core import Message, Request


def test_attributes_are_padded_and_parsed_back() -> None:
    data = core.attribute(1, b"abcde") + core.string(2, "eth0") + core.nested(3, core.attribute(4, b"\1\2\3\4"))
    assert len(data) % 4 == 0
    found = core.parse(data)
    assert found[1] == b"abcde"
    assert core.text(found[2]) == "eth0"
    assert core.parse(found[3]) == {4: b"\1\2\3\4"}


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=200)), max_size=8))
def test_any_attributes_come_back_in_order(attributes: list[tuple[int, bytes]]) -> None:
    data = b"".join(core.attribute(kind, value) for kind, value in attributes)
    assert list(core.iterate(data)) == attributes


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=100)), max_size=5))
def test_messages_come_back(wanted: list[tuple[int, bytes]]) -> None:
    data = b"".join(core.pack(Request(kind, 0, payload), number) for number, (kind, payload) in enumerate(wanted))
    found = list(core.messages(data))
    assert [(m.type, m.payload, m.sequence) for m in found] == [(k, p, n) for n, (k, p) in enumerate(wanted)]


@given(st.binary(max_size=300))
def test_garbage_is_never_an_exception(data: bytes) -> None:
    list(core.messages(data))
    core.parse(data)
    route.parse_link(data)
    route.parse_address(data)
    sock_diag.parse(data)


def _refusal(number: int, flags: int, echoed: bytes, attributes: bytes = b"") -> Message:
    header = struct.pack("=IHHII", 16 + len(echoed), 20, 5, 1, 0)
    return Message(core.NLMSG_ERROR, flags, 1, struct.pack("=i", -number) + header + echoed + attributes)


def test_the_kernels_explanation_is_found_behind_a_capped_or_full_echo() -> None:
    why = core.string(1, "no such thing")
    full = _refusal(errno.ENOENT, core.NLM_F_ACK_TLVS, b"12345678", why)
    capped = _refusal(errno.ENOENT, core.NLM_F_ACK_TLVS | core.NLM_F_CAPPED, b"", why)
    assert core.acknowledgement(full) == core.acknowledgement(capped) == (errno.ENOENT, "no such thing")
    assert core.acknowledgement(_refusal(0, core.NLM_F_CAPPED, b"")) == (0, "")


def test_errors_say_what_and_why() -> None:
    refused = core.error(errno.ENODEV, "cannot do it", "ipv4: no such device")
    assert isinstance(refused, NetlinkError)
    assert refused.errno == errno.ENODEV
    assert str(refused) == "cannot do it: No such device (ipv4: no such device)"
    forbidden = core.error(errno.EPERM, "cannot do it")
    assert isinstance(forbidden, PermissionRequired)
    assert "CAP_NET_ADMIN" in str(forbidden)


def test_addresses_have_one_spelling() -> None:
    assert route.canonical("FD00:0:0::00A") == "fd00::a"
    assert route.packed("10.0.0.1") == b"\n\0\0\1"


@pytest.mark.parametrize("nonsense", ["", "10.0.0", "10.0.0.256", "fd00:::1", "eth0", "10.0.0.1/24"])
def test_what_is_no_address_is_named(nonsense: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(nonsense))):
        route.packed(nonsense)


def test_a_long_list_of_elements_is_split_over_messages() -> None:
    keys = [number.to_bytes(16, "big") for number in range(2500)]
    batch = nftables.Batch().add(nftables.NFPROTO_INET, "t", "s", keys)
    assert len(batch.requests) == 3
    assert all(len(request.payload) < 0xFFFF for request in batch.requests)


def test_flushing_is_a_deletion_without_a_list_and_deleting_nothing_is_nothing() -> None:
    [flush] = nftables.Batch().flush(nftables.NFPROTO_INET, "t", "s").requests
    assert 3 not in core.parse(flush.payload, 4)
    assert nftables.Batch().delete(nftables.NFPROTO_INET, "t", "s", []).requests == []
    assert nftables.Batch().add(nftables.NFPROTO_INET, "t", "s", []).requests == []
