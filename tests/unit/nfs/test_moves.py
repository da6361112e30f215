"""Whether addresses have moved, as every node finds out for itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from locum.nfs import moves, v4_records
from locum.nfs.moves import Notes, former_holders, holders, lost, will_move


def status(*addresses: tuple[str, str | None, str | None], **incarnations: str) -> dict[str, Any]:
    """A report: address, who has it, who is to have it."""
    return {
        "nodes": [{"name": name, "incarnation": number} for name, number in incarnations.items()],
        "addresses": [{"address": a, "node": node, "assigned": to} for a, node, to in addresses],
    }


def test_holders_are_incarnations() -> None:
    report = status(("A", "n1", "n1"), ("B", "n2", "n2"), ("C", None, None), n1="x", n2="y")
    assert holders(report) == {"A": "n1 x", "B": "n2 y"}


def test_nothing_moves() -> None:
    report = status(("A", "n1", "n1"), ("B", None, None), n1="x")
    assert will_move(report, {"A": "n1 x"}) == []
    assert will_move(report, None) == []


def test_what_the_plan_moves() -> None:
    report = status(("A", "n1", "n2"), ("B", "n1", "n1"), ("C", "n1", None), n1="x", n2="y")
    assert will_move(report, None) == ["A", "C"]


def test_dead_holder() -> None:
    """Its claim is gone already when the plan comes."""
    report = status(("A", None, "n2"), n2="y")
    assert will_move(report, {"A": "n1 x"}) == ["A"]


def test_holder_that_was_away_and_is_back() -> None:
    report = status(("A", "n1", "n1"), n1="later")
    assert will_move(report, {"A": "n1 x"}) == ["A"]


def test_lost_without_a_release() -> None:
    noted = {"A": "n1 x", "B": "n2 y", "C": "n1 x"}
    assert lost(status(n1="x", n2="y"), noted, "n1") == []
    assert lost(status(n1="later", n2="y"), noted, "n1") == ["A", "C"]
    assert lost(status(n2="y"), noted, "n1") == ["A", "C"]
    assert lost(status(n1="later"), None, "n1") == []


def test_whose_clients_come() -> None:
    noted = {"A": "n1 x", "B": "n2 y", "C": "n3 z"}
    # Nothing comes: what is here, what goes to others.
    report = status(("A", "n1", "n1"), ("B", "n2", "n3"), n1="x", n2="y", n3="z")
    assert former_holders(report, noted, "n1") == []
    # From a node that has it still, and from one that is dead.
    report = status(("B", "n2", "n1"), ("C", None, "n1"), n1="x", n2="y")
    assert former_holders(report, noted, "n1") == ["n2", "n3"]
    # It went on to another before all was settled.
    report = status(("A", "n2", "n3"), n1="x", n2="y", n3="z")
    assert former_holders(report, noted, "n3") == ["n1", "n2"]
    # This node itself, in an incarnation that is over.
    report = status(("A", None, "n1"), n1="later", n2="y")
    assert former_holders(report, noted, "n1") == ["n1"]


def test_whose_clients_come_when_nobody_knows() -> None:
    report = status(("A", None, "n1"), n1="x", n2="y", n3="z")
    assert former_holders(report, None, "n1") == ["n2", "n3"]
    assert former_holders(report, {}, "n1") == ["n2", "n3"]


def test_expected_once(tmp_path: Path) -> None:
    notes = Notes(str(tmp_path))
    notes.expect(["n3", "n2"])
    assert notes.expected() == ["n2", "n3"]
    assert notes.expected() == []
    notes.expect(["n2"])
    notes.settle({})
    assert notes.expected() == []


def test_nothing_of_an_earlier_life(tmp_path: Path) -> None:
    notes = Notes(str(tmp_path))
    notes.settle({"A": "n1 x"})
    notes.took("A")
    notes.begun()
    notes.entered()
    notes.dropped()
    notes.forget()
    assert notes.settled() is None
    assert [notes.changed(), notes.has_begun(), notes.has_entered(), notes.has_dropped()] == [False] * 4
    notes.forget()


def test_notes_between_events(tmp_path: Path) -> None:
    notes = Notes(str(tmp_path))
    assert notes.settled() is None
    assert not notes.changed()
    notes.took("10.0.0.1")
    notes.took("fd77::2")
    notes.released("10.0.0.1")
    notes.begun()
    again = Notes(str(tmp_path))
    assert again.taken() == ["fd77::2"]
    assert again.changed()
    assert again.has_begun()
    assert not again.has_dropped()
    again.dropped()
    assert again.has_dropped()
    again.settle({"fd77::2": "n1 x"})
    assert notes.settled() == {"fd77::2": "n1 x"}
    assert [notes.changed(), notes.has_begun(), notes.has_dropped()] == [False] * 3


def test_damaged_note_is_no_note(tmp_path: Path) -> None:
    (tmp_path / "holders.json").write_text("{")
    assert Notes(str(tmp_path)).settled() is None


@pytest.mark.parametrize("name", ["../../x", "/etc/x", ".", "..", "a/b"])
def test_notes_are_made_of_names_alone(tmp_path: Path, name: str) -> None:
    """Names of nodes are from the store; one that is a path would have root make or empty any file."""
    notes = moves.Notes(str(tmp_path / "a" / "b"))
    with pytest.raises(ValueError, match="node"):
        notes.expect([name])
    with pytest.raises(ValueError, match="node"):
        notes.took(name)
    with pytest.raises(ValueError, match="node"):
        v4_records.arguments(name)
    assert list(tmp_path.rglob("*")) == []


def test_previous_holders_are_other_nodes_that_had_the_addresses() -> None:
    noted = {"10.0.0.1": "n1 a", "10.0.0.2": "n2 b", "10.0.0.3": "n3 c"}
    assert moves.previous_holders(noted, ["10.0.0.1", "10.0.0.2", "10.0.0.9"], "n1") == ["n2"]
    assert moves.previous_holders(None, ["10.0.0.1"], "n1") == []
