"""Becoming a member when somebody else has the name, or the number."""

from __future__ import annotations

from itertools import count

import pytest

from locum.rules import schema
from locum.rules.effects import CommitWork, Exit, Note
from locum.rules.node import Identity, Node
from locum.rules.schema import BeatRecord, MemberRecord, NodeRecord, NumberRecord, Record
from locum.rules.view import View
from locum.store.base import Batch, Change, Delete, Put, Snapshot


class Joiner:
    """A node that starts in a store with given records, and is fed what happens there."""

    def __init__(self, records: dict[str, Record], number: int | None = None) -> None:
        self._revision = 0
        names = count()
        identity = Identity(name="n1", hold=2.0, margin=0.1, number=number, machine="here")
        self.node = Node(identity, View(), lambda: f"life{next(names)}")
        self.node.view.reset(Snapshot(0, ()))
        for key, record in records.items():
            self.node.view.apply(self._batch(key, record))
        self.node.tick(0.0, 0.0)

    def _batch(self, key: str, record: Record) -> Batch:
        self._revision += 1
        return Batch(self._revision, (Change(key, schema.encode(record), self._revision),))

    def put(self, key: str, record: Record, now: float) -> None:
        """``record`` is committed by another, and seen at ``now``."""
        self.node.store_changed(self._batch(key, record), now, 0.0)

    def writes(self) -> set[str]:
        """The keys that the node has asked to write since the last call."""
        effects = self.node.take_effects()
        operations = [o for e in effects if isinstance(e, CommitWork) for o in e.commit.operations]
        return {o.key for o in operations if isinstance(o, Put)}

    def obstacle(self) -> str:
        """Why the node cannot join, as status shows it; the log has said so once, and the node has not given up."""
        effects = self.node.take_effects()
        assert not any(isinstance(effect, Exit) for effect in effects)
        obstacle = self.node.parts.joining.obstacle
        assert any(obstacle in effect.text for effect in effects if isinstance(effect, Note))
        return obstacle


ELSEWHERE = MemberRecord("other", 2.0, 0.1, "elsewhere")


def test_a_living_node_of_the_same_name_on_another_machine_keeps_the_newcomer_waiting() -> None:
    joiner = Joiner({"member/n1": ELSEWHERE, "beat/n1": BeatRecord("other", 1)})
    assert not joiner.writes()
    joiner.put("beat/n1", BeatRecord("other", 2), now=0.4)
    joiner.node.tick(0.5, 0.0)
    assert "another node named 'n1' is alive (on elsewhere)" in joiner.obstacle()
    # It is waited for anew with each beat, and joins once the other is silent for its hold.
    for tenths in range(6, 40):
        joiner.put("beat/n1", BeatRecord("other", tenths), now=tenths / 10)
        joiner.node.tick(tenths / 10, 0.0)
    assert not joiner.writes()
    joiner.node.tick(5.9, 0.0)
    assert not joiner.writes()
    joiner.node.tick(6.1, 0.0)
    assert "member/n1" in joiner.writes()
    assert joiner.node.parts.joining.obstacle == ""


def test_i1_a_dead_member_of_the_same_name_on_another_machine_is_waited_for() -> None:
    joiner = Joiner({"member/n1": ELSEWHERE, "beat/n1": BeatRecord("other", 1)})
    joiner.node.tick(2.0, 0.0)
    assert not joiner.writes()
    joiner.node.tick(2.2, 0.0)
    assert "member/n1" in joiner.writes()


def test_an_earlier_life_in_the_same_place_is_not_waited_for() -> None:
    joiner = Joiner({"member/n1": MemberRecord("before", 2.0, 0.1, "here"), "beat/n1": BeatRecord("before", 7)})
    assert "member/n1" in joiner.writes()


def test_a_number_that_belongs_to_another_node_keeps_the_newcomer_waiting() -> None:
    joiner = Joiner({"node/n2": NodeRecord(3), "number/3": NumberRecord("n2")}, number=3)
    assert "number 3 belongs to node 'n2'" in joiner.obstacle()
    joiner.put("node/n2", NodeRecord(4), now=1.0)
    assert {"number/3", "member/n1"} <= joiner.writes()


def test_a_number_of_a_node_that_does_not_exist_is_taken_over() -> None:
    joiner = Joiner({"number/3": NumberRecord("ghost")}, number=3)
    assert {"number/3", "member/n1"} <= joiner.writes()


def test_a_node_keeps_its_number_against_one_that_is_not_a_member() -> None:
    """A stranger wrote the number over; the node's own record says what admins know it by."""
    records: dict[str, Record] = {
        "node/n1": NodeRecord(3),
        "node/ghost": NodeRecord(3),
        "number/3": NumberRecord("ghost"),
    }
    assert {"number/3", "member/n1"} <= Joiner(records, number=3).writes()


@pytest.mark.parametrize("name", ["²", "٣", "03", "-1", "9" * 5000, "1e3", "", "1000"])
def test_a_number_that_locum_would_not_write_is_not_read(name: str) -> None:
    joiner = Joiner({f"number/{name}": NumberRecord("n1")} if name else {})
    assert {"number/0", "member/n1"} <= joiner.writes()


def test_with_all_numbers_taken_those_of_nodes_that_do_not_exist_are_free() -> None:
    joiner = Joiner({f"number/{n}": NumberRecord("ghost") for n in range(1000)})
    assert {"number/0", "member/n1"} <= joiner.writes()


def test_a_number_that_another_node_has_meanwhile_is_not_freed() -> None:
    records: dict[str, Record] = {"node/n1": NodeRecord(3), "number/3": NumberRecord("n2"), "node/n2": NodeRecord(3)}
    joiner = Joiner({**records, "member/n2": MemberRecord("living", 2.0, 0.1, "there")}, number=7)
    effects = joiner.node.take_effects()
    deleted = {
        o.key for e in effects if isinstance(e, CommitWork) for o in e.commit.operations if isinstance(o, Delete)
    }
    assert "number/3" not in deleted
