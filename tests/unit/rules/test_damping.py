"""Damping: a loss counts at once, a return when it has lasted; what that means for plans."""

from __future__ import annotations

import math

from locum.config.tunables import Tunables
from locum.rules.damping import Damper, Rule
from locum.rules.plan import NodeState, node_state
from tests.unit.rules.test_plan import ADDRESSES, Cluster

RULE = Rule(delay=3.0, longest=20.0, window=100.0)


def flap(damper: Damper, times: tuple[float, ...], rule: Rule = RULE) -> None:
    """Lost at each of ``times``, back a second later."""
    for when in times:
        damper.seen(False, when, rule)
        damper.seen(True, when + 1.0, rule)


def test_what_was_there_from_the_start_is_steady() -> None:
    damper = Damper()
    damper.seen(True, 10.0, RULE)
    assert not damper.unsteady(10.0, RULE)
    assert math.isinf(damper.next_due(10.0, RULE))


def test_each_loss_doubles_the_time_that_a_return_must_last() -> None:
    damper = Damper()
    damper.seen(True, 0.0, RULE)
    found = []
    for when in (10.0, 20.0, 30.0, 40.0):
        flap(damper, (when,))
        found.append(damper.until(RULE) - (when + 1.0))
    assert found == [3.0, 6.0, 12.0, 20.0]
    assert damper.unsteady(damper.until(RULE) - 0.001, RULE)
    assert not damper.unsteady(damper.until(RULE), RULE)


def test_losses_outside_of_the_window_are_forgotten() -> None:
    damper = Damper()
    damper.seen(True, 0.0, RULE)
    flap(damper, (10.0, 20.0, 30.0, 200.0))
    assert damper.until(RULE) == 204.0


def test_free_losses_cost_nothing() -> None:
    rule = Rule(delay=30.0, longest=100.0, window=600.0, free=1)
    damper = Damper()
    damper.seen(True, 0.0, rule)
    flap(damper, (10.0,), rule)
    assert not damper.unsteady(11.0, rule)
    flap(damper, (20.0,), rule)
    assert damper.until(rule) == 51.0


def test_no_damping_without_a_delay() -> None:
    rule = Rule(delay=0.0, longest=100.0, window=600.0)
    damper = Damper()
    damper.seen(True, 0.0, rule)
    flap(damper, (10.0, 12.0, 14.0), rule)
    assert not damper.unsteady(15.0, rule)


def test_a_changed_rule_is_in_force_at_once() -> None:
    damper = Damper()
    damper.seen(True, 0.0, RULE)
    flap(damper, (10.0, 20.0, 30.0))
    assert damper.unsteady(35.0, RULE)
    assert not damper.unsteady(35.0, Rule(delay=0.0, longest=20.0, window=100.0))


def test_a_node_with_an_unsteady_link_gets_nothing_that_a_steady_node_can_serve() -> None:
    cluster = Cluster("n1", "n2")
    cluster.health("n1", unsteady=("eth0", "eth1"))
    assert set(cluster.assignment().values()) == {"n2"}
    assert node_state(cluster.view, "n1", 1000.0) is NodeState.PARTIALLYONLINE


def test_an_unsteady_node_serves_what_no_other_node_can_serve() -> None:
    cluster = Cluster("n1", "n2")
    cluster.health("n1", unsteady=("eth0", "eth1"))
    cluster.health("n2", refused={ADDRESSES[0]: "takeip: 50.x failed"})
    assert cluster.assignment()[ADDRESSES[0]] == "n1"
    cluster.health("n2", healthy=False)
    assert set(cluster.assignment().values()) == {"n1"}


def test_a_link_that_all_nodes_lost_together_brings_all_addresses_back_at_once() -> None:
    cluster = Cluster("n1", "n2")
    for name in ("n1", "n2"):
        cluster.health(name, unsteady=("eth0", "eth1"))
    counts = list(cluster.assignment().values())
    assert sorted(counts.count(n) for n in ("n1", "n2")) == [2, 2]


def test_one_steady_interface_is_enough() -> None:
    cluster = Cluster("n1", "n2")
    cluster.health("n1", unsteady=("eth0",))
    assert "n1" in cluster.assignment().values()


def test_a_node_that_is_healthy_again_after_repeated_failures_waits_its_turn() -> None:
    cluster = Cluster("n1", "n2")
    cluster.health("n1", settling="monitor passes again")
    assert set(cluster.assignment().values()) == {"n2"}
    assert node_state(cluster.view, "n1", 1000.0) is NodeState.UNHEALTHY
    cluster.health("n2", healthy=False)
    assert set(cluster.assignment().values()) == {"n1"}


def test_a_node_that_can_serve_nothing_gets_nothing_even_when_no_other_can() -> None:
    cluster = Cluster("n1")
    cluster.health("n1", unable="the kernel's gate cannot be armed")
    assert cluster.assignment(Tunables()) == {}
