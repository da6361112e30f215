"""The gate's rules as text."""

from __future__ import annotations

import itertools
import re

import pytest

from locum.machine.gate import gate_rules


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
