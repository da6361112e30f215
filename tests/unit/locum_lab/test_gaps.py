"""Gaps computed from a probe's attempts."""

from __future__ import annotations

import pytest

from locum_lab.gaps import longest, measure, moves
from locum_lab.probe import Attempt

A = "10.77.0.2"


def attempts(text: str, address: str = A) -> list[Attempt]:
    """One attempt every 10 ms from t=0: a digit is an answer of that node, ``.`` a failure."""
    return [
        Attempt(t=index / 100, address=address, ok=letter != ".", node="" if letter == "." else f"n{letter}")
        for index, letter in enumerate(text)
    ]


def test_longest_time_between_two_answered_sends() -> None:
    gap = longest(attempts("111...22222.22"), 0, 0.13)[A]
    assert gap.seconds == pytest.approx(0.04)
    assert (gap.before, gap.after, gap.failed, gap.open, gap.moved) == ("n1", "n2", 3, False, True)


def test_nothing_failed() -> None:
    gap = longest(attempts("1111"), 0, 0.03)[A]
    assert gap.failed == 0
    assert gap.seconds == pytest.approx(0.01)


def test_never_answered_again() -> None:
    gap = longest(attempts("11.2...."), 0, 0.07)[A]
    assert gap.open
    assert gap.seconds == pytest.approx(0.04)


def test_never_answered_at_all() -> None:
    gap = longest(attempts("...."), 0, 0.5)[A]
    assert gap.open
    assert gap.seconds == 0.5


def test_only_the_time_looked_at_counts() -> None:
    gap = longest(attempts("1.......1111.11"), 0.08, 0.14)[A]
    assert gap.seconds == pytest.approx(0.02)


def test_the_order_of_lines_does_not_matter() -> None:
    lines = attempts("111...222")
    assert longest(lines[::-1], 0, 0.08) == longest(lines, 0, 0.08)


def test_moves() -> None:
    lines = attempts("11..22") + attempts("3333", "fd77::2")
    assert moves(lines, 0, 1) == {A: ("n1", "n2")}


def test_measure() -> None:
    found = measure([0.1, 0.4, 0.2])
    assert found is not None
    assert (found.median, found.longest, found.count) == (0.2, 0.4, 3)
    assert measure([]) is None
