"""The verdict on who answered for an address (I1): what is a violation and what is an honest move."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from locum_lab.judge import Judge, Tenure, Violation

WINDOW = 0.03


def judge(heard: list[tuple[float, str]]) -> tuple[list[Tenure], list[Violation]]:
    """Run the sequence of (time, speaker) for one address."""
    one = Judge(WINDOW)
    tenures, violations = [], []
    for t, speaker in heard:
        begun, violation = one.hear(t, "10.77.0.2", speaker)
        if begun is not None:
            tenures.append(begun)
        if violation is not None:
            violations.append(violation)
    return tenures, violations


def test_i1_a_move_is_no_violation() -> None:
    tenures, violations = judge([(0.00, "n1"), (0.01, "n1"), (0.015, "n2"), (0.02, "n2"), (0.03, "n2")])
    assert [tenure.speaker for tenure in tenures] == ["n1", "n2"]
    assert tenures[1].packets == 3
    assert not violations


def test_i1_there_and_back_after_longer_than_the_window_is_no_violation() -> None:
    _, violations = judge([(0.00, "n1"), (0.02, "n2"), (0.04, "n1")])
    assert not violations


def test_i1_an_old_holder_that_speaks_once_more_is_a_violation() -> None:
    _, violations = judge([(0.00, "n1"), (0.005, "n2"), (0.01, "n1"), (0.015, "n2")])
    assert violations[0] == Violation("10.77.0.2", "n1", "n2", before=0.0, t=0.01)


def test_i1_a_holder_that_was_frozen_for_long_and_speaks_again_is_a_violation() -> None:
    # n1 is silent for a second, n2 takes the address, n1 wakes up and sends one packet.
    _, violations = judge([(0.0, "n1"), (1.0, "n2"), (1.01, "n2"), (1.015, "n1"), (1.02, "n2")])
    assert [(violation.speaker, violation.other) for violation in violations] == [("n2", "n1")]


def test_i1_two_answers_to_one_question_are_a_violation() -> None:
    _, violations = judge([(0.00, "n1"), (0.01, "n1"), (0.0102, "n2"), (0.02, "n2")])
    assert violations == [Violation("10.77.0.2", "n2", "n1", before=0.0102, t=0.0102)]


def test_the_closest_two_speakers_that_broke_nothing() -> None:
    one = Judge(WINDOW)
    assert one.closest == float("inf")
    for t, speaker in ((0.0, "n1"), (0.2, "n2"), (0.3, "n3"), (0.3005, "n1")):
        one.hear(t, "10.77.0.2", speaker)
    one.hear(0.301, "fd77::2", "n3")
    assert round(one.closest, 9) == 0.1


def test_i1_three_nodes_in_turn_are_counted() -> None:
    _, violations = judge([(0.0, "n1"), (0.001, "n2"), (0.002, "n3"), (0.003, "n1"), (0.004, "n2"), (0.005, "n3")])
    assert {name for one in violations for name in (one.speaker, one.other)} == {"n1", "n2", "n3"}


def test_who_is_heard_now() -> None:
    one = Judge(WINDOW)
    one.hear(1.0, "10.77.0.2", "n1")
    one.hear(2.0, "fd77::2", "n2")
    assert one.holders(2.02, 0.05) == {"10.77.0.2": None, "fd77::2": "n2"}


@given(
    overlap=st.floats(0.0101, 1.0),
    length=st.floats(0.1, 1.0),
    first=st.sampled_from(["n1", "n2"]),
)
def test_i1_every_overlap_of_one_asking_interval_is_found(overlap: float, length: float, first: str) -> None:
    """Both are asked every 10 ms and answer; n2 takes at ``length`` and n1 speaks ``overlap`` too long."""
    asked = [0.01 * index for index in range(int((length + overlap + 0.1) / 0.01))]
    later = {"n1": 0.0 if first == "n1" else 2e-4, "n2": 0.0 if first == "n2" else 2e-4}
    heard = [(t + later["n1"], "n1") for t in asked if t <= length + overlap]
    heard += [(t + later["n2"], "n2") for t in asked if t >= length]
    assert judge(sorted(heard))[1]


@given(st.lists(st.floats(0.031, 5.0), min_size=1, max_size=20))
def test_i1_moves_with_honest_tenures_are_never_violations(tenures: list[float]) -> None:
    heard, t = [], 0.0
    for index, seconds in enumerate(tenures):
        steps = max(1, int(seconds / 0.01))
        heard += [(t + seconds * step / steps, f"n{index % 2}") for step in range(steps + 1)]
        t += seconds + 0.0021
    assert not judge(heard)[1]
