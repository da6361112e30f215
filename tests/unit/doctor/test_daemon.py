"""What the doctor says of a running daemon's hold and gate."""

from __future__ import annotations

import pytest

from locum.api.model import DaemonState, GateReport
from locum.doctor.daemon import judge_gate, judge_hold

OPEN = GateReport(
    installed=True, open_for=1.6, held=("192.0.2.1", "192.0.2.2"), egress=("eth1",), refused={"inet": 3, "arp": 0}
)


def member(gate: GateReport | None = OPEN, hold_left: float = 1.5, problem: str = "") -> DaemonState:
    return DaemonState(hold_left=hold_left, hold=2.0, store_problem=problem, stage="member", gate=gate)


def test_an_open_gate_is_good_and_says_what_it_dropped() -> None:
    finding = judge_gate(member())
    assert finding.level == "good"
    assert finding.text == "open for 1.6 s; addresses that may speak: 2; packets dropped so far: arp 0, inet 3"


@pytest.mark.parametrize(
    ("gate", "level", "words"),
    [
        (None, "warning", "only lifetimes"),
        (GateReport(problem="no permission"), "problem", "no permission"),
        (GateReport(installed=False), "problem", "gone from the kernel"),
        (GateReport(installed=True, open_for=1.0, egress_missing=("eth1",)), "warning", "bypass it on eth1"),
        (GateReport(installed=True, open_for=0.0), "problem", "although the hold lasts"),
    ],
)
def test_what_is_wrong_with_a_gate_is_said(gate: GateReport | None, level: str, words: str) -> None:
    finding = judge_gate(member(gate))
    assert finding.level == level
    assert words in f"{finding.text} {finding.advice}"


def test_a_gate_that_is_shut_at_the_end_of_the_hold_is_as_it_should_be() -> None:
    assert judge_gate(member(GateReport(installed=True), hold_left=0.0)).level == "good"


def test_the_hold() -> None:
    assert judge_hold(member()).level == "good"
    assert judge_hold(member(hold_left=0.0)).level == "problem"
    finding = judge_hold(member(problem="no endpoint answers"))
    assert (finding.level, "no endpoint answers" in finding.text) == ("problem", True)
