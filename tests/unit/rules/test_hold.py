"""Holds: when one's own ends, and when another's is certainly over (I1)."""

from __future__ import annotations

from locum.rules import schema
from locum.rules.hold import SLOTS, FailureDetector, OwnHold, interval_for, margin_for, rejoin_allowance
from locum.rules.schema import MemberRecord
from locum.rules.view import View
from locum.store.base import Batch, Change

HOLD = 2.0


def view_with_member(name: str, hold: float = HOLD, margin: float = 0.1) -> View:
    view = View()
    record = MemberRecord("abc", hold, margin)
    view.apply(Batch(1, (Change(f"member/{name}", schema.encode(record), 1),)))
    return view


def see_own_beats(detector: FailureDetector, start: float, end: float) -> None:
    """Own beats go out and come back, every 0.4 s."""
    sequence, now = int(start * 1000), start
    while now <= end:
        sequence += 1
        detector.beat_sent(sequence, now)
        detector.beat_echoed(sequence, now + 0.005)
        now += 0.4


class TestOwnHold:
    def test_i1_counts_from_the_sending_and_not_from_the_answer(self) -> None:
        hold = OwnHold(HOLD)
        hold.begin(1, now=100.0)
        assert hold.finished(1, accepted=True, sent_at=100.0) is not None
        assert hold.deadline == 102.0

    def test_an_answer_that_did_not_come_prolongs_nothing(self) -> None:
        hold = OwnHold(HOLD)
        hold.begin(1, now=100.0)
        assert hold.finished(1, accepted=None, sent_at=100.0) is None
        assert not hold.valid(100.1)

    def test_i1_the_slot_that_carries_the_hold_is_never_armed_again_while_it_does(self) -> None:
        hold = OwnHold(HOLD)
        carrier = hold.begin(1, now=100.0)
        assert hold.finished(1, accepted=True, sent_at=100.0) == carrier
        armed = [hold.begin(request, now=100.0 + request) for request in range(2, 40)]
        assert carrier not in armed

    def test_i1_a_beat_whose_slot_was_given_to_a_newer_one_confirms_nothing(self) -> None:
        hold = OwnHold(HOLD)
        for request in range(1, SLOTS + 2):
            hold.begin(request, now=100.0 + request)
        assert hold.finished(1, accepted=True, sent_at=101.0) is None

    def test_an_older_beat_answered_late_does_not_shorten_the_hold(self) -> None:
        hold = OwnHold(HOLD)
        hold.begin(1, now=100.0)
        hold.begin(2, now=100.4)
        hold.finished(2, accepted=True, sent_at=100.4)
        assert hold.finished(1, accepted=True, sent_at=100.0) is None
        assert hold.deadline == 102.4

    def test_several_beats_fit_into_a_hold(self) -> None:
        assert interval_for(HOLD) * 4 < HOLD
        assert interval_for(60.0) <= 1.0

    def test_i1_the_margin_covers_clock_rates_and_jiffies(self) -> None:
        for hold in (0.1, 2.0, 60.0):
            assert margin_for(hold) >= 0.001 * hold + 0.01


class TestFailureDetector:
    def test_a_node_that_beats_is_not_expired(self) -> None:
        view, detector = view_with_member("n2"), FailureDetector(0.4)
        see_own_beats(detector, 100.0, 110.0)
        detector.beat_seen("n2", 7, 109.0)
        assert not detector.expired(view, "n2", 110.0)

    def test_i1_a_silent_node_is_expired_after_hold_and_margin_and_not_before(self) -> None:
        view, detector = view_with_member("n2"), FailureDetector(0.4)
        see_own_beats(detector, 90.0, 100.0)
        detector.beat_seen("n2", 7, 100.0)
        see_own_beats(detector, 100.4, 102.2)
        assert not detector.expired(view, "n2", 102.09)
        assert detector.expired(view, "n2", 102.11)

    def test_i1_the_expiry_rests_on_the_beat_that_was_seen(self) -> None:
        detector = FailureDetector(0.4)
        detector.beat_seen("n2", 7, 100.0)
        assert detector.seen_revision("n2") == 7

    def test_the_same_beat_seen_again_is_no_sign_of_life(self) -> None:
        view, detector = view_with_member("n2"), FailureDetector(0.4)
        see_own_beats(detector, 90.0, 103.0)
        detector.beat_seen("n2", 7, 100.0)
        detector.beat_seen("n2", 7, 102.0)
        assert detector.expired(view, "n2", 102.2)

    def test_who_does_not_see_its_own_beats_expires_nobody(self) -> None:
        view, detector = view_with_member("n2"), FailureDetector(0.4)
        see_own_beats(detector, 90.0, 100.0)
        detector.beat_seen("n2", 7, 100.0)
        assert not detector.expired(view, "n2", 104.0)

    def test_after_an_outage_of_the_store_everybody_gets_some_beats_to_be_heard_of_again(self) -> None:
        view, detector = view_with_member("n2"), FailureDetector(0.4)
        see_own_beats(detector, 90.0, 100.0)
        detector.beat_seen("n2", 7, 100.0)
        see_own_beats(detector, 110.0, 111.2)
        assert not detector.expired(view, "n2", 110.01)
        assert not detector.expired(view, "n2", 111.2)
        assert detector.expired(view, "n2", 111.21)

    def test_who_is_heard_of_after_an_outage_has_a_full_hold_again(self) -> None:
        view, detector = view_with_member("n2"), FailureDetector(0.4)
        see_own_beats(detector, 90.0, 100.0)
        detector.beat_seen("n2", 7, 100.0)
        see_own_beats(detector, 110.0, 113.0)
        detector.beat_seen("n2", 8, 110.3)
        assert not detector.expired(view, "n2", 112.39)
        assert detector.expired(view, "n2", 112.41)

    def test_i1_an_outage_does_not_shorten_the_wait_for_a_hold(self) -> None:
        view, detector = view_with_member("n2"), FailureDetector(0.4)
        see_own_beats(detector, 90.0, 100.0)
        see_own_beats(detector, 101.3, 104.0)
        # Seen just before the gap, or just after it: the hold counts from there.
        detector.beat_seen("n2", 7, 101.3)
        assert not detector.expired(view, "n2", 103.39)
        assert detector.expired(view, "n2", 103.41)

    def test_a_store_that_goes_away_again_gives_everybody_the_same_chance_again(self) -> None:
        view, detector = view_with_member("n2"), FailureDetector(0.4)
        see_own_beats(detector, 90.0, 100.0)
        detector.beat_seen("n2", 7, 100.0)
        see_own_beats(detector, 110.0, 110.0)
        see_own_beats(detector, 115.0, 116.2)
        assert not detector.expired(view, "n2", 115.01)
        assert not detector.expired(view, "n2", 116.2)
        assert detector.expired(view, "n2", 116.21)

    def test_the_first_beat_after_an_outage_calls_for_ones_own_once(self) -> None:
        detector = FailureDetector(0.4)
        see_own_beats(detector, 90.0, 100.0)
        assert not detector.store_is_back(100.3)
        # Own beats are lost from now on; another's is seen.
        assert detector.store_is_back(101.0)
        assert not detector.store_is_back(101.1)
        see_own_beats(detector, 101.2, 101.6)
        assert not detector.store_is_back(101.7)
        assert detector.store_is_back(103.0)

    def test_a_slow_store_is_not_asked_more_and_more(self) -> None:
        detector, sequence, calls = FailureDetector(0.4), 0, 0
        sent: list[float] = []
        for tick in range(1000):
            now = 100.0 + tick * 0.1
            if tick % 4 == 0:
                sequence += 1
                detector.beat_sent(sequence, now)
                sent.append(now)
            if tick % 4 == 2:
                calls += detector.store_is_back(now)
            # Each comes back after 1.2 s.
            if tick >= 12 and tick % 4 == 0:
                detector.beat_echoed((tick - 12) // 4 + 1, now)
        assert calls == 1

    def test_several_beats_fit_into_the_time_that_is_given_after_an_outage(self) -> None:
        for hold in (1.0, 2.0, 3.0, 60.0):
            assert rejoin_allowance(hold, margin_for(hold)) >= 2.5 * interval_for(hold)
        for hold in (0.1, 0.25):
            # Processes may be late by more than such beats: as long as for a silent node.
            assert rejoin_allowance(hold, margin_for(hold)) == hold + margin_for(hold)

    def test_i1_the_others_word_on_hold_and_margin_counts(self) -> None:
        view, detector = view_with_member("n2", hold=5.0, margin=3.0), FailureDetector(0.4)
        detector.beat_seen("n2", 7, 100.0)
        see_own_beats(detector, 90.0, 108.5)
        assert not detector.expired(view, "n2", 107.9)
        assert detector.expired(view, "n2", 108.1)


def test_beats_that_waited_in_the_queue_of_the_store_do_not_hide_that_nothing_had_been_seen() -> None:
    """They come back in a row when the outage ends."""
    view, detector = View(), FailureDetector(0.1)
    member = schema.encode(MemberRecord("other", 0.5, 0.031))
    view.apply(Batch(1, (Change("member/n2", member, 1),)))
    for sequence in range(10):
        detector.beat_sent(sequence, 99.0 + 0.1 * sequence)
        detector.beat_echoed(sequence, 99.01 + 0.1 * sequence)
    detector.beat_seen("n2", 7, 99.95)
    # The store is away from 100.0 to 100.6: the own beats of that time are committed then, those of n2 were lost.
    for sequence in range(10, 16):
        detector.beat_sent(sequence, 99.0 + 0.1 * sequence)
    for sequence in range(10, 16):
        detector.beat_echoed(sequence, 100.6)
    assert detector.trusted(100.61, 0.5)
    assert not detector.expired(view, "n2", 100.61)
