"""Events of real nodes: their order, what overlaps, and what failing and hanging scripts do (I2 to I7)."""

from __future__ import annotations

import itertools
import time

import pytest

from locum.clock import boottime
from locum_lab import gaps
from tests.lab.clusters import (
    addresses_of,
    forget_events,
    locum,
    seen,
    tell,
    wait_moved,
    wait_state,
)
from tests.lab.failover.scene import Cluster, wait_even, watched

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("kind", ["node", "move"])
def test_i2_i3_planned_moves(cluster: Cluster, kind: str) -> None:
    """Release ends before take begins; several takes are followed by one recovered, on every node."""
    lab = cluster(addresses=12)
    before = lab.status()
    mine = addresses_of(lab, "n1")
    assert len(mine) == 4
    moved = mine if kind == "node" else mine[:1]
    forget_events(lab)
    with watched(lab):
        if kind == "node":
            locum(lab, "n2", "node", "disable", "n1")
        else:
            locum(lab, "n3", "ip", "move", moved[0], "n2")
        wait_moved(lab, moved, "n1")
        lab.wait_for("the plan to settle", lambda: lab.status().progress == "settled")
        settled = lab.status()
    assert settled.epoch > before.epoch
    released = {one.arguments[1]: one for one in seen(lab, "n1", "releaseip")}
    assert set(released) == set(moved)
    taken = {}
    for node in ("n2", "n3"):
        for one in seen(lab, node, "takeip"):
            assert one.arguments[1] not in taken, "taken twice"
            taken[one.arguments[1]] = one
    assert set(taken) == set(moved)
    for address in moved:
        interface, _, bits = taken[address].arguments
        assert (interface, bits) == ("eth1", "64" if ":" in address else "24")
        assert released[address].ended <= taken[address].began, f"I2: {address} was taken before it was released"
    last_take = max(one.ended for one in taken.values())
    for node in lab.layout.node_names:
        recovered = seen(lab, node, "recovered")
        assert len(recovered) == settled.epoch - before.epoch, f"I3: {node} saw {recovered}"
        assert recovered[-1].began >= last_take, "I3: recovered before the last take"
        allocated = seen(lab, node, "ipreallocated")
        assert len(allocated) == len(recovered)


def test_i5_no_script_runs_twice_at_once(cluster: Cluster) -> None:
    lab = cluster(settings="[tunables]\nMonitorInterval = 0.2\n")
    for node in lab.layout.node_names:
        tell(lab, node, "slow-monitor", "0.1")
        tell(lab, node, "slow-takeip", "0.05")
    for _ in range(3):
        locum(lab, "n1", "node", "disable", "n2")
        locum(lab, "n1", "node", "enable", "n2")
    lab.wait_served()
    for node in lab.layout.node_names:
        runs = sorted(seen(lab, node), key=lambda one: one.began)
        assert len(runs) > 10
        for one, other in itertools.pairwise(runs):
            assert one.ended <= other.began, f"{node}: {one} and {other} overlap"


def test_a_failing_monitor_moves_the_addresses_and_a_passing_one_brings_the_node_back(cluster: Cluster) -> None:
    lab = cluster(settings="[tunables]\nMonitorInterval = 0.5\n")
    mine = addresses_of(lab, "n3")
    with watched(lab):
        tell(lab, "n3", "fail-monitor", "7")
        report = wait_state(lab, "n3", "UNHEALTHY")
        assert "90.recorder" in report.reason
        wait_moved(lab, mine, "n3")
        assert lab.configured("n3") == {}
        tell(lab, "n3", "fail-monitor", None)
        wait_state(lab, "n3", "OK")
        lab.wait_served()
        wait_even(lab)


def test_i4_a_failing_script_stops_the_event_there(cluster: Cluster) -> None:
    lab = cluster(settings="[tunables]\nMonitorInterval = 0.5\n")
    lab.write_script("n1", "40.fails", '#!/bin/sh\n[ "$1" = monitor ] && exit 3\nexit 0\n')
    report = wait_state(lab, "n1", "UNHEALTHY")
    assert "40.fails" in report.reason
    forget_events(lab)
    time.sleep(1.5)
    assert seen(lab, "n1", "monitor") == []


@pytest.mark.parametrize(("command", "undo"), [("stop", "continue"), ("ban", "unban")])
def test_i6_a_node_that_was_stopped_proves_its_services_again(cluster: Cluster, command: str, undo: str) -> None:
    lab = cluster()
    locum(lab, "n2", "node", command, "n1")
    wait_state(lab, "n1", "STOPPED", "BANNED")
    tell(lab, "n1", "fail-monitor")
    forget_events(lab)
    locum(lab, "n2", "node", undo, "n1")
    lab.wait_for("two failed monitors", lambda: len(seen(lab, "n1", "monitor")) >= 2)
    assert wait_state(lab, "n1", "UNHEALTHY")
    assert seen(lab, "n1", "takeip") == []
    tell(lab, "n1", "fail-monitor", None)
    lab.wait_served()


@pytest.mark.parametrize("way", ["fail", "hang"])
def test_i7_the_address_is_gone_whatever_releaseip_does(cluster: Cluster, way: str) -> None:
    lab = cluster(settings="[tunables]\nEventTimeout = 1\n")
    mine = addresses_of(lab, "n1")
    with watched(lab):
        tell(lab, "n1", f"{way}-releaseip")
        locum(lab, "n2", "node", "disable", "n1")
        wait_moved(lab, mine, "n1")
        assert lab.configured("n1") == {}


@pytest.mark.parametrize("way", ["fail", "hang"])
def test_i7_a_take_that_fails_says_why_and_the_address_is_served_elsewhere(cluster: Cluster, way: str) -> None:
    lab = cluster(settings="[tunables]\nEventTimeout = 1\n")
    mine = addresses_of(lab, "n1")

    def n3_alone() -> bool:
        served = lab.served()
        return all(served.get(address) == "n3" for address in mine) and not set(lab.configured("n2")) & set(mine)

    with watched(lab):
        tell(lab, "n2", f"{way}-takeip")
        locum(lab, "n3", "node", "disable", "n1")
        lab.wait_for("n3 to serve them", n3_alone)
    assert "90.recorder" in lab.daemon_log("n2").read_text()


def test_a_node_that_can_take_nothing_costs_the_others_no_service(cluster: Cluster) -> None:
    lab = cluster()
    theirs = addresses_of(lab, "n3")
    with watched(lab) as watching:
        start = boottime()
        tell(lab, "n2", "fail-takeip")
        locum(lab, "n3", "node", "disable", "n1")
        lab.wait_for("n2 to have failed", lambda: "cannot serve" in lab.daemon_log("n2").read_text())
        time.sleep(2.0)
        end = boottime()
    found = gaps.longest(watching.attempts, start, end)
    assert [found[address] for address in theirs if found[address].failed] == []
