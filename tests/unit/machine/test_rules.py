"""The pure parts of what is built on netlink: lifetimes, rules, announcements."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.machine import addresses, announcements
from locum.machine.gate import gate_rules, lifetimes


@given(st.floats(0.05, 3600))
def test_lifetimes_are_whole_seconds_rounded_to_the_safe_side(hold: float) -> None:
    enforced, alone = lifetimes.lifetime_for(hold), lifetimes.lifetime_without_gate(hold)
    assert enforced - lifetimes.EARLINESS >= hold, "the kernel must not take away what a beat in time would keep"
    assert enforced < hold + 1.1 or enforced == 1
    assert alone == max(1, math.floor(hold))
    assert hold + lifetimes.gone_after(alone) <= hold + lifetimes.margin_without_gate(hold), "given just before its end"


@pytest.mark.parametrize(
    ("hold", "lifetime", "margin"), [(2.0, 2, 3.25), (0.4, 1, 2.25), (2.9, 2, 3.25), (1.0, 1, 2.25)]
)
def test_the_margin_without_a_gate(hold: float, lifetime: int, margin: float) -> None:
    assert lifetimes.lifetime_without_gate(hold) == lifetime
    assert lifetimes.margin_without_gate(hold) == pytest.approx(margin)


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


def test_every_judging_chain_ends_in_the_gate_or_a_drop() -> None:
    text = gate_rules.ruleset(["10.0.0.1"], ["fd00::1"], ["eth0"]) + gate_rules.egress_ruleset(
        [], [], [gate_rules.Device(3, "eth0", "02:00:00:00:00:03")]
    )
    for held, public in itertools.product(("held4", "held6", "held6_target"), ("public4", "public6", "public6_target")):
        assert f"@{held} accept" not in text
        assert f"@{public} accept" not in text
    assert "policy drop" not in text, "what is not about public addresses is not ours to judge"
    for chain in re.findall(
        r"chain (?:(?:frame\d_)?(?:from4|from6|to4|to6|arp4?|advertise6|nd6)) \{(.*?)\n\t\}", text, re.S
    ):
        rules = [line.strip() for line in chain.splitlines() if line.strip()]
        assert "goto gate" in rules[0]
        assert rules[-1].endswith('counter name "refused" drop') or rules[-1] == "goto bridged"
    [bridged] = re.findall(r"chain bridged \{(.*?)\n\t\}", text, re.S)
    assert bridged.rstrip().endswith('counter name "refused" drop')
    gates = re.findall(r"chain gate \{(.*?)\n\t\}", text, re.S)
    assert len(gates) == 3
    for gate in gates:
        rules = [line.strip() for line in gate.splitlines() if line.strip()]
        assert len(rules) == gate_rules.SLOTS + 1
        assert rules[-1] == 'counter name "refused" drop'
        for number, rule in enumerate(rules[:-1]):
            assert re.fullmatch(rf"(\S+ \S+) @slot_{number} meta time @until_{number} \1 @ok_{number} return", rule)


def test_new_tables_start_with_nothing_held_and_no_slot_open() -> None:
    text = gate_rules.ruleset(["10.0.0.1"], ["fd00::1"], ["eth0"]) + gate_rules.egress_ruleset(
        ["10.0.0.1"], ["fd00::1"], [gate_rules.Device(3, "eth0", "02:00:00:00:00:03")]
    )
    for line in re.findall(r"^\tset .*$", text, re.M):
        name = line.split()[1]
        assert ("elements" in line) == (name.startswith("public") or name == "interfaces"), line
    assert text.count("delete table") == 3


def test_the_identity_changes_with_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gate_rules.identity()
    assert before == gate_rules.identity()
    monkeypatch.setattr(gate_rules, "_INET", gate_rules._INET + "\n")
    assert gate_rules.identity() != before


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
