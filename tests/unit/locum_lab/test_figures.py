"""The demo's figures from attempts and records."""

from __future__ import annotations

import pytest

from locum_lab.figures import Round, holders, row, start_row, target
from locum_lab.observer import Record
from locum_lab.probe import Attempt

A, B = "10.77.0.2", "fd77::2"


def attempts(address: str, text: str, start: float = 0.0) -> list[Attempt]:
    """One attempt every 10 ms: a digit is an answer of that node, ``.`` a failure."""
    return [
        Attempt(t=start + index / 100, address=address, ok=letter != ".", node="" if letter == "." else f"n{letter}")
        for index, letter in enumerate(text)
    ]


def test_a_row_takes_the_gaps_of_the_addresses_that_the_node_served() -> None:
    lines = attempts(A, "11....22") + attempts(B, "33333333")
    found = row("lost link", [Round("lost link", "n1", (A,), 0, 0.07)], lines, [], hold=2)
    assert list(found.gaps) == pytest.approx([0.05])
    assert (found.moves, found.others, found.holders, found.unserved, found.reached) == (1, 0, 1, (), True)


def test_nothing_failed_is_a_gap_of_zero() -> None:
    lines = attempts(A, "1111")
    found = row("killed agent", [Round("killed agent", "n1", (A,), 0, 0.03)], lines, [], hold=2)
    assert found.gaps == (0.0,)
    assert found.reached


def test_one_failed_request_is_more_than_a_killed_agent_may_cost() -> None:
    lines = attempts(A, "1.11")
    assert not row("killed agent", [Round("killed agent", "n1", (A,), 0, 0.03)], lines, [], hold=2).reached


def test_an_address_that_stays_unserved_is_named() -> None:
    lines = attempts(A, "11.....") + attempts(B, "2222222")
    found = row("cut host", [Round("cut host", "n1", (A,), 0, 0.06)], lines, [], hold=2)
    assert found.unserved == (A,)
    assert not found.reached


def test_a_machine_that_was_busy_for_a_moment_at_the_end_is_no_outage() -> None:
    lines = attempts(A, "11111")
    found = row("killed agent", [Round("killed agent", "n1", (A,), 0, 0.07)], lines, [], hold=2)
    assert (found.gaps, found.unserved, found.reached) == ((0.0,), (), True)


def test_a_probe_that_stopped_asking_proves_no_service() -> None:
    lines = attempts(A, "11111")
    found = row("killed agent", [Round("killed agent", "n1", (A,), 0, 0.5)], lines, [], hold=2)
    assert (found.unserved, found.reached) == ((A,), False)


def test_an_address_that_nobody_asked_for_counts_as_unmeasured_not_as_good() -> None:
    found = row("cut host", [Round("cut host", "n1", (A,), 0, 5)], [], [], hold=2)
    assert found.gaps == (5.0,)
    assert not found.reached


def test_needless_moves_are_counted() -> None:
    lines = attempts(A, "1122") + attempts(B, "3311")
    found = row("lost link", [Round("lost link", "n1", (A,), 0, 0.03)], lines, [], hold=2)
    assert (found.moves, found.others) == (2, 1)


def test_rounds_are_put_together() -> None:
    lines = attempts(A, "1..2") + attempts(A, "2....1", start=1)
    rounds = [Round("lost link", "n1", (A,), 0, 0.03), Round("lost link", "n2", (A,), 1, 1.05)]
    found = row("lost link", rounds, lines, [], hold=2)
    assert list(found.gaps) == pytest.approx([0.03, 0.05])
    assert found.median == pytest.approx(0.04)
    assert found.longest == pytest.approx(0.05)


def test_holders() -> None:
    records = [
        Record(1.0, "speaks", A, "n1"),
        Record(1.5, "violation", A, "n1", other="n2", before=1.4),
        Record(2.5, "violation", B, "n1", other="n3", before=2.4),
    ]
    assert holders(records, 0, 1) == 1
    assert holders(records, 1, 2) == 2


def test_the_start_ends_with_the_last_address() -> None:
    lines = attempts(A, "...1", start=10) + attempts(B, ".....2", start=10)
    found = start_row([A, B], lines, [], 10.0, 11.0, hold=2)
    assert found.median == pytest.approx(0.05)
    assert found.reached
    assert found.holders == 1
    assert not start_row([A, B, "fd77::9"], lines, [], 10.0, 11.0, hold=2).reached


def test_i1_two_holders_at_the_start_are_shown_with_the_start() -> None:
    record = Record(10.5, "violation", A, "n1", other="n2", before=10.4)
    assert start_row([A], attempts(A, "1", start=10), [record], 10.0, 11.0, hold=2).holders == 2


def test_targets_with_the_hold() -> None:
    assert target("cut host", 2.0) == 2.5
    assert target("planned move", 2.0) == 0.04
