"""The view: never backwards, never fooled by one bad value."""

from __future__ import annotations

from locum.rules import schema
from locum.rules.schema import AdminRecord, BeatRecord, ClaimRecord, MemberRecord
from locum.rules.view import View
from locum.store.base import Batch, Change, Delete, Entry, Put, Snapshot

CLAIM = schema.encode(ClaimRecord("n1", "abc", "eth0"))


def put(key: str, value: bytes, revision: int) -> Batch:
    return Batch(revision, (Change(key, value, revision),))


def test_an_own_commit_is_seen_before_its_echo_and_the_echo_is_no_news() -> None:
    view = View()
    assert view.applied([Put("claim/10.0.0.1", CLAIM)], 5) == {"claim/10.0.0.1"}
    assert view.apply(put("claim/10.0.0.1", CLAIM, 5)) == set()
    assert view.revision == 5


def test_an_older_change_that_arrives_late_does_not_undo_an_own_delete() -> None:
    view = View()
    view.applied([Delete("claim/10.0.0.1")], 9)
    assert view.apply(put("claim/10.0.0.1", CLAIM, 7)) == set()
    assert view.revision_of("claim/10.0.0.1") == 0
    view.apply(put("leader", b"{}", 9))
    assert view.apply(put("claim/10.0.0.1", CLAIM, 11)) == {"claim/10.0.0.1"}


def test_a_snapshot_removes_what_it_does_not_have() -> None:
    view = View()
    view.apply(put("claim/10.0.0.1", CLAIM, 5))
    changed = view.reset(Snapshot(8, (Entry("claim/10.0.0.2", CLAIM, 7),)))
    assert changed == {"claim/10.0.0.1", "claim/10.0.0.2"}
    assert set(view.claims) == {"10.0.0.2"}


def test_a_claim_of_another_incarnation_has_no_holder_but_is_not_free() -> None:
    view = View()
    view.apply(put("claim/10.0.0.1", CLAIM, 5))
    view.apply(put("member/n1", schema.encode(MemberRecord("other", 2.0, 0.1)), 6))
    assert view.claim_holder("10.0.0.1") is None
    assert view.revision_of("claim/10.0.0.1") == 5


def test_i9_a_value_that_cannot_be_read_is_complained_about_and_does_not_undo_what_was_known() -> None:
    view = View()
    view.apply(put("admin/n1", schema.encode(AdminRecord(disabled=True)), 5))
    view.apply(put("admin/n1", b"\xff not JSON", 6))
    assert view.admin["n1"].record.disabled
    assert "admin/n1" in view.corrupt
    assert "admin/n1" in view.corrupt["admin/n1"]
    assert view.revision_of("admin/n1") == 6
    view.apply(put("admin/n1", schema.encode(AdminRecord()), 7))
    assert not view.corrupt
    assert not view.admin["n1"].record.disabled


def test_keys_of_strangers_are_left_alone() -> None:
    view = View()
    view.apply(put("somebody/else", b"\x00", 5))
    assert not view.corrupt


def test_i1_a_claim_that_cannot_be_read_after_a_gap_is_not_taken_for_whose_it_was_before() -> None:
    view = View()
    view.apply(put("claim/10.0.0.1", CLAIM, 5))
    view.apply(put("member/n1", schema.encode(MemberRecord("abc", 2.0, 0.1)), 6))
    view.reset(Snapshot(9, (Entry("claim/10.0.0.1", b"garbage", 8), Entry("member/n1", b"garbage", 9))))
    assert not view.claims
    assert not view.members
    assert set(view.corrupt) == {"claim/10.0.0.1", "member/n1"}
    assert view.revision_of("claim/10.0.0.1") == 8


def test_i1_an_answer_that_comes_late_does_not_bring_back_what_was_deleted_since() -> None:
    view = View()
    view.apply(put("claim/10.0.0.1", CLAIM, 5))
    view.apply(Batch(6, (Change("claim/10.0.0.1", None, 6),)))
    assert view.applied([Put("claim/10.0.0.1", CLAIM)], 5) == set()
    assert not view.claims
    assert view.revision_of("claim/10.0.0.1") == 0


def test_everything_but_a_beat_counts_as_a_change() -> None:
    view = View()
    beat = schema.encode(BeatRecord("abc", 1))
    steps = [
        (put("claim/10.0.0.1", CLAIM, 1), True),
        (put("beat/n1", beat, 2), False),
        (put("beat/n1", b"spoiled", 3), True),
        (put("beat/n1", beat, 4), True),
        (put("beat/n1", beat, 5), False),
        (Batch(6, (Change("claim/10.0.0.1", None, 6),)), True),
        (put("node/n1", b"spoiled", 7), True),
    ]
    for batch, counts in steps:
        before = view.changes
        assert view.apply(batch)
        assert (view.changes != before) == counts, batch
    before = view.changes
    view.forget()
    assert view.changes != before
