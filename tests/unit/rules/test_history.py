"""A store that goes back: how a view tells another history, and what a node does then."""

from __future__ import annotations

import pytest

from locum.rules import schema
from locum.rules.effects import CommitWork, ConfirmHold, DropHold, Note, ReadAnew, SendBeat, TakeAddress
from locum.rules.node import Adoption, Identity, Node, Stage
from locum.rules.schema import (
    ClaimRecord,
    HistoryRecord,
    HostedAddress,
    LeaderRecord,
    MemberRecord,
    NodeRecord,
    PlanRecord,
)
from locum.rules.view import View
from locum.store.base import Batch, Change, CommitResult, Delete, Entry, Put, Snapshot

NAME = Entry("history", schema.encode(HistoryRecord("first")), 1)
CLAIM = Entry("claim/10.0.0.1", schema.encode(ClaimRecord("n1", "abc", "eth0")), 5)
OTHER_CLAIM = schema.encode(ClaimRecord("n2", "xyz", "eth0"))


def loaded(*entries: Entry, revision: int = 8) -> View:
    """A view that has read ``entries``."""
    view = View()
    view.reset(Snapshot(revision, (NAME, *entries)))
    return view


class TestView:
    def test_reading_the_same_history_again_is_no_news(self) -> None:
        view = loaded(CLAIM)
        assert view.reset(Snapshot(8, (NAME, CLAIM)), known=8) == set()
        assert view.reset(Snapshot(12, (NAME,)), known=8) == {CLAIM.key}
        assert not view.another_history

    @pytest.mark.parametrize(
        ("snapshot", "why"),
        [
            (Snapshot(7, (NAME, CLAIM)), "went back from 8 to 7"),
            (Snapshot(90, (CLAIM,)), "the name of its history is gone"),
            (Snapshot(90, (Entry("history", schema.encode(HistoryRecord("second")), 1), CLAIM)), "has another name"),
            (Snapshot(90, (NAME, Entry(CLAIM.key, CLAIM.value, 4))), "went back from revision 5 to 4"),
            (Snapshot(90, (NAME, Entry(CLAIM.key, OTHER_CLAIM, 5))), "another value at revision 5"),
        ],
    )
    def test_i1_a_read_of_another_history_replaces_everything(self, snapshot: Snapshot, why: str) -> None:
        view = loaded(CLAIM, Entry("leader", b"garbage", 7))
        view.applied([Delete("plan")], 9)
        changed = view.reset(snapshot, known=8)
        assert why in view.another_history
        assert {CLAIM.key, "leader"} <= changed
        assert {key: view.revision_of(key) for key in changed} == {
            **dict.fromkeys(changed, 0),
            **{entry.key: entry.revision for entry in snapshot.entries},
        }
        assert (view.revision, view.known, view.corrupt) == (snapshot.revision, snapshot.revision, {})

    def test_i1_a_key_that_is_missing_at_the_revision_that_wrote_it_shows_another_history(self) -> None:
        view = loaded(CLAIM, revision=5)
        view.reset(Snapshot(5, (NAME,)), known=5)
        assert "is missing at the revision that wrote it" in view.another_history
        assert not view.claims

    def test_an_own_commit_that_was_answered_while_the_store_was_being_read_stays(self) -> None:
        view = loaded()
        known = view.known
        view.applied([Put(CLAIM.key, CLAIM.value)], 10)
        view.reset(Snapshot(9, (NAME,)), known)
        assert not view.another_history
        assert view.revision_of(CLAIM.key) == 10

    def test_i1_a_watch_that_goes_back_shows_another_history(self) -> None:
        view = loaded(CLAIM)
        view.apply(Batch(8, (Change("claim/10.0.0.2", OTHER_CLAIM, 8),)))
        assert "watch went back from revision 8 to 8" in view.another_history
        assert not view.loaded
        assert not view.claims

    @pytest.mark.parametrize("value", [None, schema.encode(HistoryRecord("second"))])
    def test_i1_a_history_whose_name_changes_under_the_watch_is_another(self, value: bytes | None) -> None:
        view = loaded(CLAIM)
        view.apply(Batch(9, (Change("history", value, 9),)))
        assert view.another_history
        assert not view.claims

    def test_a_name_that_a_stranger_made_unreadable_is_no_other_history(self) -> None:
        view = loaded(CLAIM)
        view.apply(Batch(9, (Change("history", b"garbage", 9),)))
        assert not view.another_history
        assert view.history is not None
        assert view.history.record == HistoryRecord("first")

    def test_what_comes_late_from_before_the_view_forgot_everything_is_not_taken(self) -> None:
        view = loaded(CLAIM)
        view.forget()
        assert view.apply(Batch(9, (Change(CLAIM.key, CLAIM.value, 9),))) == set()
        assert view.applied([Put(CLAIM.key, CLAIM.value)], 10) == set()
        assert not view.claims

    @pytest.mark.parametrize(
        ("result", "operations", "another"),
        [
            (CommitResult(True, 9), [Put("k", b"")], False),
            (CommitResult(True, 8), [Put("k", b"")], True),
            (CommitResult(True, 8), [Delete("k")], False),
            (CommitResult(True, 7), [Delete("k")], True),
            (CommitResult(False, 8), [Put("k", b"")], False),
            (CommitResult(False, 7), [Put("k", b"")], True),
        ],
    )
    def test_i1_an_answer_tells_the_history(
        self, result: CommitResult, operations: list[Put | Delete], another: bool
    ) -> None:
        assert bool(loaded().answered(result, operations, known=8)) is another


HOLD, MARGIN = 2.0, 0.034
WAIT = HOLD + MARGIN
ADDRESS = HostedAddress("10.0.0.1", 24, ("eth0",))


def member_entries(incarnation: str, *, beat: int, wait: float = WAIT) -> tuple[Entry, ...]:
    """A store in which n1 is a member and the leader, and is to serve the address."""
    return (
        NAME,
        Entry("member/n1", schema.encode(MemberRecord(incarnation, HOLD, MARGIN, "here")), 2),
        Entry("node/n1", schema.encode(NodeRecord(0, "", (ADDRESS,), WAIT)), 2),
        Entry("node/n2", schema.encode(NodeRecord(1, "", (ADDRESS,), wait)), 2),
        Entry("number/0", b'{"node":"n1"}', 2),
        Entry("leader", schema.encode(LeaderRecord("n1", incarnation)), 3),
        Entry("plan", schema.encode(PlanRecord(1, {"10.0.0.1": "n1"}, {"n1": incarnation}, "test")), 4),
        Entry("claim/10.0.0.1", schema.encode(ClaimRecord("n1", incarnation, "eth0")), 5),
        Entry("beat/n1", schema.encode(schema.BeatRecord(incarnation, 1)), beat),
    )


class Scene:
    """One node; the test plays store and time. It begins with an adopted membership and the address held."""

    def __init__(
        self,
        deadline: float = 102.0,
        revision: int = 20,
        wait: float = WAIT,
        quiet: float = 0.0,
        entries: tuple[Entry, ...] | None = None,
        takes_end: bool = True,
    ) -> None:
        self.now = 100.5
        self.takes_end = takes_end
        identity = Identity("n1", HOLD, MARGIN, None, "", (ADDRESS,), "here")
        adoption = Adoption("abc", deadline, 0, revision, quiet, {"10.0.0.1": "eth0"})
        self.names = iter(f"new{number}" for number in range(100))
        self.node = Node(identity, View(), lambda: next(self.names), adoption)
        self.node.links_changed({"eth0": True}, self.now, 1.7e9)
        entries = member_entries("abc", beat=20, wait=wait) if entries is None else entries
        self.first = self.read(Snapshot(max(entry.revision for entry in entries), entries))

    def read(self, snapshot: Snapshot) -> list[object]:
        """The store was read."""
        self.node.store_read(snapshot, self.node.view.known, self.now, 1.7e9)
        return self.effects()

    def effects(self) -> list[object]:
        """What the node asks for; events end at once, without trouble."""
        found: list[object] = []
        while effects := self.node.take_effects():
            found += effects
            for effect in effects:
                if isinstance(effect, TakeAddress) and not self.takes_end:
                    continue
                if hasattr(effect, "request") and not isinstance(effect, SendBeat | CommitWork):
                    self.node.activity_done(effect.request, True, "", self.now, 1.7e9)
        return found

    def beat(self, after: float) -> SendBeat:
        """The next beat, ``after`` seconds from now."""
        self.now += after
        self.node.tick(self.now, 1.7e9)
        (beat,) = [effect for effect in self.effects() if isinstance(effect, SendBeat)]
        return beat

    def answer(self, beat: SendBeat, result: CommitResult) -> list[object]:
        """The store answers it."""
        self.node.beat_done(beat.request, result, self.now, self.now, 1.7e9)
        return self.effects()

    def claims(self, seconds: float) -> float | None:
        """After how many seconds of accepted beats the node takes or claims the address, within ``seconds``."""
        began, revision = self.now, max(self.node.view.known, 1000)
        while self.now < began + seconds:
            self.now += 0.05
            self.node.tick(self.now, 1.7e9)
            for effect in self.effects():
                if isinstance(effect, TakeAddress):
                    return self.now - began
                if isinstance(effect, SendBeat):
                    revision += 1
                    self.node.beat_done(effect.request, CommitResult(True, revision), self.now, self.now, 1.7e9)
        return None


def test_i1_a_beat_is_accepted_only_where_the_one_before_is_known() -> None:
    scene = Scene()
    beat = scene.beat(0.5)
    scene.answer(beat, CommitResult(True, 21))
    again = scene.beat(0.5)
    assert [(c.key, c.revision, c.at_least) for c in again.commit.conditions] == [
        ("member/n1", 2, False),
        ("beat/n1", 21, True),
    ]


@pytest.mark.parametrize("result", [CommitResult(True, 12), CommitResult(True, 20), CommitResult(False, 12)])
def test_i1_an_answer_from_another_history_silences_the_node_at_once(result: CommitResult) -> None:
    scene = Scene()
    effects = scene.answer(scene.beat(0.5), result)
    assert any(isinstance(effect, DropHold) for effect in effects)
    assert any(isinstance(effect, ReadAnew) for effect in effects)
    told = [effect.text for effect in effects if isinstance(effect, Note) and "history has changed" in effect.text]
    assert len(told) == 1
    assert "wiped or restored from a copy" in told[0]
    assert scene.node.status().stage is Stage.LOST
    # The scripts have been told, without the store.
    assert not scene.node.parts.serving.local


def test_i1_after_another_history_the_node_joins_anew_and_waits_for_the_longest_hold_it_ever_heard_of() -> None:
    scene = Scene(wait=5.0)
    scene.answer(scene.beat(0.5), CommitResult(True, 12))
    (join,) = [e for e in scene.read(Snapshot(12, (NAME,))) if isinstance(e, CommitWork)]
    name = scene.node.parts.joining.tried
    assert name != "abc"
    scene.node.commit_done(join.request, CommitResult(True, 13), scene.now, 1.7e9)
    first = next(effect for effect in scene.effects() if isinstance(effect, SendBeat))
    scene.answer(first, CommitResult(True, 14))
    written = {o.key: o.value for o in join.commit.operations if isinstance(o, Put)}
    scene.read(Snapshot(14, (NAME, Entry("member/n1", written["member/n1"], 13))))
    scene.node.view.applied([Put("plan", schema.encode(PlanRecord(1, {"10.0.0.1": "n1"}, {"n1": name}, "t")))], 15)
    scene.node.view.applied([Put(CLAIM.key, schema.encode(ClaimRecord("n1", name, "eth0")))], 16)
    waited = scene.claims(20.0)
    assert waited is not None
    assert 4.9 <= waited <= 6.0


def test_i1_a_refused_beat_makes_the_node_read_anew_before_it_joins() -> None:
    scene = Scene()
    effects = scene.answer(scene.beat(0.5), CommitResult(False, 25))
    assert any(isinstance(effect, DropHold) for effect in effects)
    assert any(isinstance(effect, ReadAnew) for effect in effects)
    scene.now += 1.0
    scene.node.tick(scene.now, 1.7e9)
    assert not any(isinstance(effect, CommitWork) for effect in scene.effects())
    assert any(isinstance(effect, CommitWork) for effect in scene.read(Snapshot(26, (NAME,))))


def test_i1_an_agent_adopts_nothing_from_a_store_without_the_beat_that_carries_the_hold() -> None:
    assert Scene(revision=20).node.status().stage is Stage.MEMBER
    assert Scene(revision=21).node.status().stage is not Stage.MEMBER


def without(entries: tuple[Entry, ...], key: str, *instead: Entry) -> tuple[Entry, ...]:
    """``entries`` with ``instead`` in the place of the one of ``key``."""
    return (*(entry for entry in entries if entry.key != key), *instead)


OTHER = (
    Entry("member/n2", schema.encode(MemberRecord("def", HOLD, MARGIN, "there")), 6),
    Entry(CLAIM.key, schema.encode(ClaimRecord("n2", "def", "eth0")), 7),
)


@pytest.mark.parametrize("instead", [(), OTHER])
def test_i1_an_agent_adopts_nothing_from_a_store_without_the_claims_on_what_is_held(instead: tuple[Entry, ...]) -> None:
    """The embedded store gives the beats of a copy new revisions: the beat alone does not show that it is a copy."""
    entries = without(member_entries("abc", beat=1_000_000), CLAIM.key, *instead)
    scene = Scene(entries=entries)
    assert scene.node.status().stage is not Stage.MEMBER
    assert any(isinstance(effect, DropHold) for effect in scene.first)
    assert not any(isinstance(effect, SendBeat | ConfirmHold) for effect in scene.first)


def test_i1_what_is_held_falls_silent_at_once_where_its_claim_is_another_nodes() -> None:
    """Releases come one after the other, each with its scripts; the other node does not wait for them."""
    scene = Scene()
    scene.node.watch_lost(scene.now, 1.7e9)
    scene.now += 1.0
    effects = scene.read(Snapshot(1_000_000, without(member_entries("abc", beat=1_000_000), CLAIM.key, *OTHER)))
    assert any(isinstance(effect, DropHold) for effect in effects)
    assert not any(isinstance(effect, SendBeat) for effect in effects)


def test_i2_a_node_whose_claim_went_while_it_takes_the_address_is_silent_until_the_scripts_have_ended() -> None:
    scene = Scene(takes_end=False)
    scene.node.parts.serving.local.clear()
    assert scene.claims(10.0) is not None
    effects = scene.read(Snapshot(10**6, without(member_entries("abc", beat=10**6), CLAIM.key)))
    assert any(isinstance(effect, DropHold) for effect in effects)
    scene.now += 5.0
    scene.node.tick(scene.now, 1.7e9)
    assert not any(isinstance(effect, SendBeat | CommitWork) for effect in scene.effects())
    assert scene.node.status().stage is Stage.LOST


@pytest.mark.parametrize("quiet", [0.0, 104.5])
def test_i1_an_agent_that_adopts_waits_as_long_as_its_predecessor_had_to(quiet: float) -> None:
    scene = Scene(quiet=quiet)
    scene.node.parts.serving.local.clear()
    waited = scene.claims(10.0)
    assert waited is not None
    assert scene.now >= quiet


def test_i1_an_agent_that_adopts_takes_nothing_by_a_store_that_may_be_a_copy() -> None:
    """The embedded store rewrote the beats: the own claims are enough to keep what is held, not to take more."""
    scene = Scene(entries=member_entries("abc", beat=1_000_000))
    assert scene.node.status().stage is Stage.MEMBER
    assert scene.node.parts.serving.local["10.0.0.1"].held
    scene.node.parts.serving.local.clear()
    waited = scene.claims(10.0)
    assert waited is not None
    assert waited >= WAIT - 0.01


def test_i1_a_beat_answered_by_a_store_that_began_anew_carries_the_wait_for_the_next_agent() -> None:
    """Its agent may end before it has heard that its watch is lost."""
    scene = Scene()
    effects = scene.answer(scene.beat(0.5), CommitResult(True, 1_000_001, began=1_000_000))
    (confirmed,) = [effect for effect in effects if isinstance(effect, ConfirmHold)]
    assert confirmed.quiet == pytest.approx(scene.now + WAIT)
    assert any(isinstance(effect, ReadAnew) for effect in effects)
    assert scene.node.parts.serving.local["10.0.0.1"].held
    again = scene.answer(scene.beat(0.5), CommitResult(True, 1_000_002, began=1_000_000))
    assert [effect.quiet for effect in again if isinstance(effect, ConfirmHold)] == [confirmed.quiet]


def test_i1_a_read_of_a_store_that_began_anew_takes_nothing_for_a_hold() -> None:
    """It had begun before the watch did, so no watch was lost."""
    scene = Scene()
    scene.node.parts.serving.local.clear()
    entries = member_entries("abc", beat=1_000_000)
    scene.read(Snapshot(1_000_000, entries, began=1_000_000))
    waited = scene.claims(10.0)
    assert waited is not None
    assert waited >= WAIT - 0.01


def test_i1_a_refused_commit_of_a_store_that_began_anew_counts_as_a_lost_watch() -> None:
    scene = Scene()
    work = next(effect for effect in scene.first if isinstance(effect, CommitWork))
    scene.node.commit_done(work.request, CommitResult(False, 1_000_001, began=1_000_000), scene.now, 1.7e9)
    assert any(isinstance(effect, ReadAnew) for effect in scene.effects())
    assert scene.node.parts.history.quiet_until == pytest.approx(scene.now + WAIT)


def test_i1_after_a_gap_of_a_hold_nothing_is_taken_before_the_store_was_read_and_all_other_holds_are_over() -> None:
    scene = Scene()
    scene.answer(scene.beat(0.5), CommitResult(True, 21))
    beat = scene.beat(3.0)
    effects = scene.answer(beat, CommitResult(True, 30))
    assert any(isinstance(effect, ReadAnew) for effect in effects)
    assert scene.claims(10.0) is None, "not before it was read"
    effects = scene.read(Snapshot(10**6, member_entries("abc", beat=scene.node.parts.context.last_beat)))
    assert any(isinstance(effect, TakeAddress) for effect in effects), "at once: all other holds are over"


def test_a_gap_that_is_shorter_than_a_hold_changes_nothing() -> None:
    scene = Scene()
    scene.answer(scene.beat(0.5), CommitResult(True, 21))
    effects = scene.answer(scene.beat(1.9), CommitResult(True, 30))
    assert not any(isinstance(effect, ReadAnew | DropHold) for effect in effects)
    assert scene.node.parts.serving.local["10.0.0.1"].held


def test_the_others_are_told_of_it_for_an_hour() -> None:
    scene = Scene()
    scene.answer(scene.beat(0.5), CommitResult(True, 12))
    assert "history has changed" in scene.node._health._record().warning
    scene.node.tick(scene.now, 1.7e9 + 3601)
    assert scene.node._health._record().warning == ""


def test_i1_after_a_watch_that_lost_its_place_nothing_is_begun_and_what_is_held_stays() -> None:
    scene = Scene()
    scene.answer(scene.beat(0.5), CommitResult(True, 21))
    scene.node.watch_lost(scene.now, 1.7e9)
    assert not any(isinstance(effect, DropHold) for effect in scene.effects())
    assert scene.node.parts.serving.local["10.0.0.1"].held
    scene.node.parts.serving.local.clear()
    scene.read(Snapshot(22, member_entries("abc", beat=21)))
    waited = scene.claims(10.0)
    assert waited is not None
    assert waited >= WAIT - 0.01
