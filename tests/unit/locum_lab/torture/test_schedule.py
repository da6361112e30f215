"""The rounds that torture draws: the same for a seed, consistent in themselves, and of every kind."""

from __future__ import annotations

import itertools

import pytest

from locum_lab.torture.kinds import (
    EVENTS_BY_HAND,
    FLEETING,
    GOING_BACK,
    GROUPS,
    NO_AGENT,
    NOT_WITH_FLUSH,
    ON_STORE,
    PASSING,
    SCRIPT_EVENTS,
    STANDING,
    TUNABLES,
    WAY_TO_ETCD,
    standing_on,
)
from locum_lab.torture.schedule import Act, Round, Shape, draw

NODES = ("n1", "n2", "n3")
ADDRESSES = ("10.77.0.2", "fd77::2")
SHAPES = {
    "etcd": Shape(NODES, ADDRESSES, "etcd", NODES),
    "embedded-file": Shape(NODES, ADDRESSES, "embedded-file"),
    "embedded": Shape(NODES, ADDRESSES, "embedded"),
}


def rounds(shape: Shape, count: int = 400) -> list[Round]:
    return [draw(7, number, shape) for number in range(count)]


@pytest.mark.parametrize("store", SHAPES)
def test_a_seed_gives_the_same_rounds_again(store: str) -> None:
    assert rounds(SHAPES[store]) == rounds(SHAPES[store])
    assert draw(7, 0, SHAPES[store]) != draw(8, 0, SHAPES[store])


@pytest.mark.parametrize("store", SHAPES)
def test_every_kind_is_drawn(store: str) -> None:
    drawn = {act.kind for one in rounds(SHAPES[store]) for act in one.acts}
    assert drawn == {*standing_on(store), *FLEETING, *PASSING, *ON_STORE[store]}


@pytest.mark.parametrize("store", SHAPES)
def test_nothing_that_makes_it_unfit_is_done_to_a_fit_node(store: str) -> None:
    fits = 0
    for one in rounds(SHAPES[store]):
        for act in one.acts:
            assert act.kind not in {*STANDING, *FLEETING} or act.node not in one.fit
        fits += bool(one.fit and any(act.lasts is None for act in one.acts))
    assert fits > 100, "the bound while faults stand is hardly ever tested"


def test_nobody_is_fit_without_the_store() -> None:
    for one in rounds(SHAPES["embedded-file"]):
        if any(act.kind in ("kill-store", "freeze-store") and act.lasts is None for act in one.acts):
            assert one.fit == ()
    for one in rounds(SHAPES["etcd"]):
        away = WAY_TO_ETCD | {"kill-etcd", "freeze-etcd"}
        lost = {act.node for act in one.acts if act.kind in away and act.lasts is None}
        assert len(lost) < 2 or one.fit == ()


@pytest.mark.parametrize("store", SHAPES)
def test_faults_of_one_node_that_would_undo_each_other_do_not_overlap(store: str) -> None:
    for one in rounds(SHAPES[store]):
        for first, second in itertools.combinations(one.acts, 2):
            together = first.at <= second.until and second.at <= first.until
            if first.node == second.node and together:
                assert first.kind != second.kind or first.kind in PASSING
                assert not any(first.kind in group and second.kind in group for group in GROUPS)


@pytest.mark.parametrize("store", SHAPES)
def test_the_firewall_is_flushed_where_somebody_puts_it_back_or_nobody_has_addresses(store: str) -> None:
    """What docs/safety.md says is not covered is not drawn; the harmless half of it is."""
    shape = SHAPES[store]
    late = 0
    for one in rounds(shape, 800):
        for act in one.acts:
            if act.kind != "flush":
                continue
            for other in one.acts:
                if other.node == act.node and other.kind in NOT_WITH_FLUSH:
                    assert other.kind in NO_AGENT
                    assert other.lasts is None
                    assert act.at >= other.at + shape.hold + 3.25
                    late += 1
    assert late > 20


@pytest.mark.parametrize("store", SHAPES)
def test_no_address_is_added_where_a_daemon_ended_in_order(store: str) -> None:
    for one in rounds(SHAPES[store]):
        for node in NODES:
            assert not {"terminate", "foreign-address"} <= {act.kind for act in one.acts if act.node == node}


def test_what_nobody_in_the_cluster_can_see_does_not_stand() -> None:
    for one in rounds(SHAPES["etcd"]):
        assert all(act.lasts for act in one.acts if act.kind in FLEETING)


def test_every_event_tunable_and_value_is_drawn() -> None:
    acts = [act for one in rounds(SHAPES["etcd"], 2000) for act in one.acts]
    for kind in ("hang-script", "fail-script"):
        assert {act.detail for act in acts if act.kind == kind} == set(SCRIPT_EVENTS)
    assert {act.detail for act in acts if act.kind == "event"} == set(EVENTS_BY_HAND)
    wanted = {f"{name}={value:g}" for name, values in TUNABLES.items() for value in values}
    assert {act.detail for act in acts if act.kind == "tunable"} == wanted


def test_a_round_is_as_long_as_what_happens_in_it() -> None:
    acts = (Act(1.0, "freeze", "n1", 2.5), Act(2.0, "cut", "n2", None), Act(3.0, "kill-agent", "n3"))
    assert Round(0, acts, (), False).length == 3.5
    assert Round(0, (), (), False).length == 0.0


@pytest.mark.parametrize("store", ["embedded-file", "etcd"])
def test_the_store_goes_back_in_some_rounds_and_the_round_knows(store: str) -> None:
    drawn = rounds(SHAPES[store])
    found = [one for one in drawn if any(act.kind in GOING_BACK for act in one.acts)]
    assert {act.kind for one in found for act in one.acts} >= GOING_BACK
    assert all(one.store_disturbed for one in found)
    assert [one for one in drawn if one.went_back] == found
