"""The page that guard and agent share."""

from __future__ import annotations

from pathlib import Path

from locum.lateness import Stop
from locum.node.guard.hold_page import HoldPage


def test_what_the_agent_writes_the_guard_and_the_next_agent_read(tmp_path: Path) -> None:
    agent, guard = HoldPage(str(tmp_path / "hold")), HoldPage(str(tmp_path / "hold"))
    agent.confirm("0123456789abcdef", slot=3, deadline=1234.5, revision=2**40, quiet=1233.5)
    assert (guard.incarnation, guard.slot, guard.deadline) == ("0123456789abcdef", 3, 1234.5)
    assert (guard.revision, guard.quiet) == (2**40, 1233.5)


def test_i1_a_new_incarnation_does_not_inherit_the_deadline_of_the_old(tmp_path: Path) -> None:
    page = HoldPage(str(tmp_path / "hold"))
    page.confirm("old", slot=1, deadline=1000.0, revision=7, quiet=0.0)
    page.clear()
    assert page.deadline == 0.0
    assert page.incarnation == ""


def test_a_page_of_an_earlier_life_is_read_as_it_is(tmp_path: Path) -> None:
    page = HoldPage(str(tmp_path / "hold"))
    page.beat(77.0)
    page.close()
    assert HoldPage(str(tmp_path / "hold")).pulse == 77.0


def test_the_longest_stop_of_the_guard_reaches_the_agent_whatever_its_place_is_called(tmp_path: Path) -> None:
    guard, agent = HoldPage(str(tmp_path / "hold")), HoldPage(str(tmp_path / "hold"))
    assert agent.guard_stop is None
    for where in ("node/guard/children.py:70 (start)", "", "x" * 400):
        guard.tell_guard_stop(Stop(1.5, where, 1.7e9, everything=not where))
        told = agent.guard_stop
        assert told is not None
        assert (told.seconds, told.at, told.everything) == (1.5, 1.7e9, not where)
        assert told.where == where[:152]
    guard.tell_guard_stop(None)
    assert agent.guard_stop is None


class Watched(HoldPage):
    """A page of which an agent that adopts, or the guard, may see every state in between."""

    def __init__(self) -> None:
        super().__init__(bytearray(HoldPage.SIZE))
        self.seen: list[tuple[str, float]] = []

    def _changed(self) -> None:
        self.seen.append((self.incarnation, self.deadline))


def test_i1_a_deadline_is_written_after_all_that_it_stands_for() -> None:
    page = Watched()
    page.confirm("one", 0, 100.0, 5, 3.0)
    page.seen.clear()
    page.confirm("one", 1, 200.0, 6, 4.0)
    assert {deadline for _, deadline in page.seen[:-1]} == {100.0}
    assert (page.incarnation, page.slot, page.deadline, page.revision, page.quiet) == ("one", 1, 200.0, 6, 4.0)


def test_i1_no_membership_is_seen_with_the_deadline_of_another() -> None:
    page = Watched()
    page.confirm("one", 0, 100.0, 5, 3.0)
    page.seen.clear()
    page.confirm("two", 1, 200.0, 6, 4.0)
    assert {deadline for _, deadline in page.seen[:-1]} == {0.0}
    assert page.seen[-1] == ("two", 200.0)


def test_i1_a_page_that_is_cleared_has_no_deadline_at_any_moment() -> None:
    page = Watched()
    page.confirm("one", 0, 100.0, 5, 3.0)
    page.seen.clear()
    page.clear()
    assert page.seen == [("one", 0.0), ("", 0.0)]
