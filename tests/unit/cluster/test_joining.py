"""Becoming a member when somebody else has the name, or the number."""

from __future__ import annotations

from itertools import count

from locum.cluster import schema
from locum.cluster.effects import CommitWork, Exit
from locum.cluster.node import Identity, Node
from locum.cluster.schema import BeatRecord, MemberRecord, NodeRecord, NumberRecord, Record
from locum.cluster.view import View
from locum.store.base import Batch, Change, Put, Snapshot


class Joiner:
    """A node that starts in a store with given records, and is fed what happens there."""

    def __init__(self, records: dict[str, Record], number: int | None = None) -> None:
        self._revision = 0
        names = count()
        identity = Identity(name="n1", hold=2.0, margin=0.1, number=number, machine="here")
        self.node = Node(identity, View(), lambda: f"life{next(names)}")
        self.node.view.reset(Snapshot(0, ()))
        for key, record in records.items():
            self._apply(key, record)
        self.node.tick(0.0, 0.0)

    def _apply(self, key: str, record: Record) -> set[str]:
        self._revision += 1
        change = Change(key, schema.encode(record), self._revision)
        return self.node.view.apply(Batch(self._revision, (change,)))

    def put(self, key: str, record: Record, now: float) -> None:
        """``record`` is committed by another, and seen at ``now``."""
        self.node.view_changed(self._apply(key, record), now, 0.0)

    def writes(self) -> set[str]:
        """The keys that the node has asked to write since the last call."""
        effects = self.node.take_effects()
        operations = [o for e in effects if isinstance(e, CommitWork) for o in e.commit.operations]
        return {o.key for o in operations if isinstance(o, Put)}

    def problem(self) -> str | None:
        """Why the node has given up, if it has."""
        return next((e.problem for e in self.node.take_effects() if isinstance(e, Exit)), None)


ELSEWHERE = MemberRecord("other", 2.0, 0.1, "elsewhere")


def test_a_living_node_of_the_same_name_on_another_machine_ends_the_newcomer() -> None:
    joiner = Joiner({"member/n1": ELSEWHERE, "beat/n1": BeatRecord("other", 1)})
    assert not joiner.writes()
    joiner.put("beat/n1", BeatRecord("other", 2), now=0.4)
    joiner.node.tick(0.5, 0.0)
    problem = joiner.problem()
    assert problem is not None
    assert "another node named 'n1' is alive (on elsewhere)" in problem


def test_i1_a_dead_member_of_the_same_name_on_another_machine_is_waited_for() -> None:
    joiner = Joiner({"member/n1": ELSEWHERE, "beat/n1": BeatRecord("other", 1)})
    joiner.node.tick(2.0, 0.0)
    assert not joiner.writes()
    joiner.node.tick(2.2, 0.0)
    assert "member/n1" in joiner.writes()


def test_an_earlier_life_in_the_same_place_is_not_waited_for() -> None:
    joiner = Joiner({"member/n1": MemberRecord("before", 2.0, 0.1, "here"), "beat/n1": BeatRecord("before", 7)})
    assert "member/n1" in joiner.writes()


def test_a_number_that_belongs_to_another_node_ends_the_newcomer() -> None:
    joiner = Joiner({"node/n2": NodeRecord(3), "number/3": NumberRecord("n2")}, number=3)
    problem = joiner.problem()
    assert problem is not None
    assert "number 3 belongs to node 'n2'" in problem
