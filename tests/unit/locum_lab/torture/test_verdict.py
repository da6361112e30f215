"""When an address counts as not served for too long."""

from __future__ import annotations

from locum_lab.probe import Attempt
from locum_lab.torture import verdict
from locum_lab.torture.verdict import Phase

PHASE = Phase("standing", start=100.0, end=110.0, bound=4.0, pause=1.0)
A, B = "10.77.0.2", "fd77::2"


def answered(address: str, *times: float) -> list[Attempt]:
    return [Attempt(t, address, True, "n1") for t in times]


def every(start: float, end: float) -> list[float]:
    return [start + 0.5 * number for number in range(int((end - start) / 0.5) + 1)]


def too_long(attempts: list[Attempt], *addresses: str) -> list[tuple[str, float]]:
    found = verdict.stretches(PHASE, addresses or (A,), attempts)
    return [(stretch.address, round(stretch.seconds, 3)) for stretch in found if stretch.too_long]


def test_served_all_the_time() -> None:
    assert too_long(answered(A, *every(95.0, 115.0))) == []


def test_served_within_the_bound() -> None:
    assert too_long(answered(A, *every(103.9, 110.0))) == []


def test_served_after_the_bound() -> None:
    assert too_long(answered(A, *every(104.5, 110.0))) == [(A, 4.5)]


def test_never_served() -> None:
    assert too_long([Attempt(105.0, A, False, error="timeout")]) == [(A, 10.0)]
    assert too_long([]) == [(A, 10.0)]


def test_one_address_of_two() -> None:
    assert too_long(answered(A, *every(100.0, 110.0)), A, B) == [(B, 10.0)]


def test_lost_again_afterwards() -> None:
    assert too_long(answered(A, *every(100.0, 103.0), *every(104.5, 110.0))) == [(A, 1.5)]
    assert too_long(answered(A, *every(100.0, 103.0))) == [(A, 7.0)]


def test_what_lies_outside_of_the_phase_does_not_count() -> None:
    assert too_long(answered(A, 99.0, 111.0)) == [(A, 10.0)]


def test_what_the_machine_was_late_is_allowed() -> None:
    def late(start: float, end: float) -> float:
        assert (start, end) in ((100.0, 104.5), (104.5, 105.0), (105.0, 105.5))
        return 0.6

    found = verdict.stretches(PHASE, (A,), answered(A, *every(104.5, 110.0)), late)
    assert next((stretch.allowed, stretch.late, stretch.too_long) for stretch in found) == (4.6, 0.6, False)


def test_silent() -> None:
    attempts = [*answered(A, 1.0, 2.0), *answered(B, 1.0), Attempt(2.5, B, False, error="timeout")]
    assert verdict.silent((A, B), attempts, 1.5) == (B,)
    assert verdict.silent((A, B), attempts, 0.5) == ()
