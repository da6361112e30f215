"""Failover with real daemons, real faults and a real observer: what each fault does, and that I1 holds throughout."""

from __future__ import annotations

import signal
import time

import pytest

from locum.clock import boottime
from locum_lab import gaps, namespaces, processes
from tests.lab.clusters import (
    addresses_of,
    check_kernels,
    locum,
    locum_json,
    node_report,
    wait_moved,
    wait_state,
)
from tests.lab.failover.scene import Cluster, answered_elsewhere, answered_since, kernels_are_right, wait_even, watched

pytestmark = pytest.mark.lab


def test_a_new_cluster_serves_every_address_once_and_evenly(cluster: Cluster) -> None:
    lab = cluster()
    wait_even(lab)
    report = lab.status()
    assert {node.state for node in report.nodes} == {"OK"}
    assert report.leader in lab.layout.node_names
    check_kernels(lab)
    as_json = locum_json(lab, "n2", "status")
    assert {"nodes", "addresses", "leader", "epoch"} <= set(as_json)
    with watched(lab):
        time.sleep(0.5)


@pytest.mark.parametrize(
    ("fault", "states"),
    [
        ("service", ("UNHEALTHY",)),
        ("link", ("UNHEALTHY",)),
        ("cut", ("DISCONNECTED",)),
        ("cut-private", ("DISCONNECTED",)),
        ("kill-all", ("DISCONNECTED",)),
        ("freeze", ("DISCONNECTED",)),
    ],
)
@pytest.mark.parametrize("leader", [False, True], ids=["follower", "leader"])
def test_i1_a_fault_moves_the_addresses_to_one_holder_each(
    cluster: Cluster, fault: str, states: tuple[str, ...], leader: bool
) -> None:
    lab = cluster()
    leading = lab.status().leader
    victim = next(node for node in lab.layout.node_names if (node == leading) == leader)
    mine = addresses_of(lab, victim)
    others = {address: holder for address, holder in lab.served().items() if holder != victim}
    assert mine
    with watched(lab) as watching:
        start = lab.fault(victim, fault)
        wait_moved(lab, mine, victim)
        wait_state(lab, victim, *states)
        served = lab.served()
        assert {address: served[address] for address in others} == others, "an address moved without need"
        lab.wait_for("the client to be answered by the others", lambda: answered_elsewhere(watching, mine, victim))
        healed = boottime()
        lab.heal()
        if fault == "service":
            locum(lab, victim, "event", "run", "monitor")
        lab.wait_served()
        wait_even(lab)
    found = gaps.longest(watching.attempts, start, healed)
    assert [found[address] for address in others if found[address].failed] == [], "others were interrupted"
    lab.wait_for("the kernels to follow", lambda: kernels_are_right(lab))


def test_kill_of_the_agent_moves_and_interrupts_nothing(cluster: Cluster) -> None:
    lab = cluster()
    before = lab.status()
    with watched(lab) as watching:
        for node in lab.layout.node_names:
            old, report = lab.agent(node), node_report(lab, node)
            assert old is not None
            assert report is not None
            start = lab.fault(node, "kill-agent")

            def back(node: str = node, old: processes.Process = old) -> bool:
                return lab.agent(node) not in (None, old) and node_report(lab, node, asked=node) is not None

            lab.wait_for(f"the agent of {node}", back)
            seconds = boottime() - start
            after = node_report(lab, node, asked=node)
            assert after is not None
            assert after.incarnation == report.incarnation, "the agent did not adopt its incarnation"
            print(f"{node}: agent back and answering after {seconds:.2f} s")
        lab.wait_served()
    failed = [attempt for attempt in watching.attempts if not attempt.ok]
    assert not failed
    after_all = lab.status()
    assert after_all.epoch == before.epoch
    assert {a.address: a.node for a in after_all.addresses} == {a.address: a.node for a in before.addresses}


def test_i1_frozen_for_longer_than_its_hold_and_thawed_it_does_nothing_stale(cluster: Cluster) -> None:
    lab = cluster()
    victim = lab.status().leader
    assert victim is not None
    mine = addresses_of(lab, victim)
    with watched(lab):
        lab.fault(victim, "freeze")
        wait_moved(lab, mine, victim)
        epoch = lab.status().epoch
        moved = lab.served()
        lab.heal(victim)
        wait_state(lab, victim, "OK")
        lab.wait_served()
    assert lab.status().epoch >= epoch
    assert set(moved) == set(lab.served())
    check_kernels(lab)


def test_i1_a_short_freeze_moves_nothing(cluster: Cluster) -> None:
    lab = cluster(hold=3.0)
    before = lab.status()
    with watched(lab) as watching:
        lab.fault("n1", "freeze")
        time.sleep(0.5)
        lab.heal("n1")
        lab.wait_served()
    assert [attempt for attempt in watching.attempts if not attempt.ok] == []
    assert lab.status().epoch == before.epoch


def test_the_last_node_serves_everything(cluster: Cluster) -> None:
    lab = cluster()
    with watched(lab) as watching:
        lab.fault("n1", "kill-all")
        lab.fault("n2", "cut")
        lab.wait_for("n3 to serve all", lambda: len(addresses_of(lab, "n3")) == 6)
        start = boottime()
        lab.wait_for("answers", lambda: answered_since(lab, watching, start))
        lab.heal()
        lab.wait_served()


def test_a_killed_guard_takes_its_processes_along_and_the_addresses_fall_silent(cluster: Cluster) -> None:
    lab = cluster()
    mine = addresses_of(lab, "n1")
    guard = lab.state.nodes["n1"].daemon
    assert guard is not None
    with watched(lab):
        processes.send(guard, signal.SIGKILL)
        wait_moved(lab, mine, "n1")
        lab.wait_for("the others to end", lambda: lab.ours("n1") == ())
        assert namespaces.inhabitants([lab.layout.namespace("n1")])  # the services live on
        lab.start_daemon("n1")
        lab.wait_served()
    check_kernels(lab)
