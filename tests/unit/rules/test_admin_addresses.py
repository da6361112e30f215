"""Admin commands about addresses: moves, preferences, and what they wait for."""

from __future__ import annotations

import pytest

from locum.rules import schema
from locum.rules.admin import WaitFor
from locum.rules.schema import (
    SETTLED,
    AdminRecord,
    NodeRecord,
    PhaseRecord,
    PreferRecord,
    TunableRecord,
)
from locum.store.base import Delete, Put
from tests.unit.api.views import WALL, A, B, C, cluster, commit, delete, die, healthy, hosted, plan, put, serve
from tests.unit.rules.admin_scene import done, refused, run


def test_move_pins_the_address_and_waits_until_it_is_served() -> None:
    view = cluster()
    change = run(view, "move", address=A, node="n2")
    assert change.operations == (Put(f"prefer/{A}", schema.encode(PreferRecord("n2"))),)
    assert {c.key for c in change.conditions} == {f"prefer/{A}", "member/n2", "admin/n2"}
    assert change.wait == WaitFor("served", "n2", (A,), 20.0)
    commit(view, change.operations)
    assert change.wait.missing(view) == [A]
    assert change.wait.pending(view, WALL).startswith(f"still moving: {A} (")
    plan(view, {A: "n2", B: "n2", C: "n3"}, epoch=5)
    assert "once n1 has released it" in change.wait.pending(view, WALL)
    delete(view, f"claim/{A}")
    serve(view, A, "n2", serving=False)
    assert change.wait.missing(view) == [A]
    serve(view, A, "n2")
    assert change.wait.missing(view) == []


def test_move_to_where_it_is_pins_it_at_once() -> None:
    view = cluster()
    change = done(view, "move", address=A, node="n1")
    assert change.wait is None
    assert "was on n1 already" in change.message
    assert run(view, "move", address=A, node="n1").operations == ()


@pytest.mark.parametrize("text", ["2001:DB8::0003", "2001:db8:0:0:0:0:0:3", f"{C}/64", f" {C} "])
def test_an_address_in_any_of_its_forms(text: str) -> None:
    assert run(cluster(), "move", address=text, node="n1").operations[0].key == f"prefer/{C}"


@pytest.mark.parametrize("text", ["", "n1", "192.0.2", "192.0.2.1.1", "1:2:3", "0", "\0"])
def test_what_is_no_address(text: str) -> None:
    assert "is not an IP address" in refused(cluster(), "move", address=text, node="n1")


def test_an_address_that_no_node_has_names_some() -> None:
    message = refused(cluster(), "move", address="203.0.113.9", node="n1")
    assert message == f"203.0.113.9 is not a public address of this cluster; there are {A}, {B} and {C}"


def test_move_to_a_node_that_cannot_says_why_and_who_could() -> None:
    view = cluster()
    put(view, "node/n3", NodeRecord(2, "", hosted([B, C])))
    assert refused(view, "move", address=A, node="n3") == (
        f"{A} cannot move to n3, which is not configured for it; n1 and n2 could"
    )
    put(view, "health/n2", healthy("n2", healthy=False, reason="50.web: port 80 is closed"))
    assert refused(view, "move", address=A, node="n2") == (
        f"{A} cannot move to n2, which is UNHEALTHY (50.web: port 80 is closed); n1 could"
    )
    put(view, "health/n2", healthy("n2", down=("eth1",)))
    assert "has no link on eth1" in refused(view, "move", address=A, node="n2")
    put(view, "admin/n2", AdminRecord(stopped=True))
    assert "is STOPPED" in refused(view, "move", address=A, node="n2")
    die(view, "n2")
    assert "is DISCONNECTED" in refused(view, "move", address=A, node="n2")
    put(view, "admin/n1", AdminRecord(disabled=True))
    assert refused(view, "move", address=A, node="n1").endswith("at the moment no node can")
    assert "give the node" in refused(view, "move", address=A)


def test_move_is_refused_when_no_address_may_be_taken() -> None:
    view = cluster()
    put(view, "tunable/NoIPTakeover", TunableRecord(1))
    assert "NoIPTakeover" in refused(view, "move", address=A, node="n2")
    assert run(view, "move", address=A, node="n1").operations != ()


def test_a_move_that_cannot_end_well_is_not_waited_for() -> None:
    view = cluster()
    wait = done(view, "move", address=A, node="n2").wait
    assert wait is not None
    assert wait.hopeless(view) is None
    put(view, "health/n2", healthy("n2", refused={A: "takeip: 50.web failed"}))
    assert wait.hopeless(view) == f"n2 could not take {A}: takeip: 50.web failed"
    put(view, "health/n2", healthy("n2"))
    done(view, "move", address=A, node="n3")
    assert wait.hopeless(view) == f"another command has since moved {A} elsewhere, or back"
    done(view, "move", address=A, node="n2")
    done(view, "disable", node="n2")
    assert wait.hopeless(view) == "n2 has been disabled, stopped or banned since"
    die(view, "n2")
    assert wait.hopeless(view) == "n2 has left the cluster"


def test_auto_drops_the_preference() -> None:
    view = cluster()
    done(view, "move", address=A, node="n2")
    change = run(view, "auto", address=A)
    assert change.operations == (Delete(f"prefer/{A}"),)
    assert change.conditions == (view.condition(f"prefer/{A}"),)
    commit(view, change.operations)
    assert "nothing to do" in run(view, "auto", address=A).message
    # Also for an address that is configured no more, whose preference would otherwise stay for ever.
    put(view, "prefer/203.0.113.9", PreferRecord("n1"))
    assert run(view, "auto", address="203.0.113.9").operations != ()
    assert "is not a public address" in refused(view, "auto", address="203.0.113.10")


def test_not_waiting() -> None:
    assert run(cluster(), "move", address=A, node="n2", wait=0).wait is None
    assert run(cluster(), "disable", node="n2", wait=0).wait is None
    for wait in (-1, 1e9, float("nan")):
        assert "cannot wait" in refused(cluster(), "disable", node="n2", wait=wait)


def test_disable_waits_until_others_serve_what_the_node_had() -> None:
    view = cluster()
    wait = done(view, "disable", node="n1").wait
    assert wait is not None
    assert wait.missing(view) == [A]
    plan(view, {A: "n3", B: "n2", C: "n3"}, epoch=5)
    delete(view, f"claim/{A}")
    assert wait.missing(view) == [A]
    serve(view, A, "n3", serving=False)
    assert wait.missing(view) == [A]
    serve(view, A, "n3")
    assert wait.missing(view) == []
    assert wait.hopeless(view) is None


def test_disable_of_the_last_waits_only_until_the_address_is_gone() -> None:
    view = cluster()
    for name in ("n2", "n3"):
        put(view, f"admin/{name}", AdminRecord(disabled=True))
    wait = done(view, "disable", node="n1").wait
    assert wait is not None
    plan(view, {}, epoch=5)
    assert wait.missing(view) == [A]
    delete(view, f"claim/{A}")
    # Claim gone, but nothing says yet that the node has settled.
    assert wait.missing(view) == [A]
    put(view, "phase/n1", PhaseRecord("n1-1", 5, SETTLED))
    assert wait.missing(view) == []


def test_waiting_ends_when_the_node_dies_meanwhile() -> None:
    view = cluster()
    wait = done(view, "disable", node="n1").wait
    assert wait is not None
    die(view, "n1")
    plan(view, {A: "n2", B: "n2", C: "n3"}, epoch=5)
    serve(view, A, "n2")
    assert wait.missing(view) == []


def test_pending_names_a_few_addresses_and_counts_the_rest() -> None:
    view = cluster()
    many = [f"198.51.100.{number}" for number in range(8)]
    for name, number in (("n1", 0), ("n2", 1)):
        put(view, f"node/{name}", NodeRecord(number, "", hosted(many)))
    text = WaitFor("served", "n2", tuple(many), 20).pending(view, WALL)
    assert text.endswith("3 more")
