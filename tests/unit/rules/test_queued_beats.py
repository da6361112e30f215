"""Beats that waited in the store's queue during an outage, and come back in a row when it ends."""

from __future__ import annotations

from locum.rules import schema
from locum.rules.hold import FailureDetector
from locum.rules.schema import MemberRecord
from locum.rules.view import View
from locum.store.base import Batch, Change


def test_they_do_not_hide_that_nothing_had_been_seen() -> None:
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
