"""The rounds that torture draws: the same for a seed, consistent in themselves, and of every kind."""

from __future__ import annotations

import itertools

import pytest

from locum.lab.torture.schedule import ON_STORE, PASSING, STANDING, Act, Round, Shape, draw

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
    assert drawn == {*STANDING, *PASSING, *ON_STORE[store]}


@pytest.mark.parametrize("store", SHAPES)
def test_nothing_that_makes_it_unfit_is_done_to_a_fit_node(store: str) -> None:
    fits = 0
    for one in rounds(SHAPES[store]):
        for act in one.acts:
            assert act.kind not in STANDING or act.node not in one.fit
        fits += bool(one.fit and any(act.lasts is None for act in one.acts))
    assert fits > 100, "the bound while faults stand is hardly ever tested"


def test_nobody_is_fit_without_the_store() -> None:
    for one in rounds(SHAPES["embedded-file"]):
        if any(act.kind in ("kill-store", "freeze-store") and act.lasts is None for act in one.acts):
            assert one.fit == ()
    for one in rounds(SHAPES["etcd"]):
        away = ("cut", "cut-private", "kill-etcd", "freeze-etcd")
        lost = {act.node for act in one.acts if act.kind in away and act.lasts is None}
        assert len(lost) < 2 or one.fit == ()


@pytest.mark.parametrize("store", SHAPES)
def test_faults_of_one_node_that_would_undo_each_other_do_not_overlap(store: str) -> None:
    groups = [("cut", "cut-private"), ("kill-all", "terminate", "freeze", "freeze-agent"), ("kill-etcd", "freeze-etcd")]
    for one in rounds(SHAPES[store]):
        for first, second in itertools.combinations(one.acts, 2):
            together = first.at <= second.until and second.at <= first.until
            if first.node == second.node and together:
                assert first.kind != second.kind or first.kind in PASSING
                assert not any(first.kind in group and second.kind in group for group in groups)


@pytest.mark.parametrize("store", SHAPES)
def test_the_firewall_is_not_flushed_in_a_round_that_freezes_the_node(store: str) -> None:
    for one in rounds(SHAPES[store]):
        for act in one.acts:
            if act.kind == "flush":
                beside = {other.kind for other in one.acts if other.node == act.node}
                assert not beside & {"freeze", "freeze-agent", "kill-all", "foreign-address"}


def test_a_round_is_as_long_as_what_happens_in_it() -> None:
    acts = (Act(1.0, "freeze", "n1", 2.5), Act(2.0, "cut", "n2", None), Act(3.0, "kill-agent", "n3"))
    assert Round(0, acts, (), False).length == 3.5
    assert Round(0, (), (), False).length == 0.0
