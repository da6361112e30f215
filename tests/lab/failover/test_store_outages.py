"""The store is away: for less than a hold, for longer, for one node alone."""

from __future__ import annotations

import json
import time

import pytest

from locum.clock import boottime
from tests.lab.clusters import (
    check_kernels,
    locum,
)
from tests.lab.failover.scene import LOCUM, Cluster, all_silent, answered_since, watched

pytestmark = pytest.mark.lab


def test_the_store_away_for_less_than_a_hold_moves_nothing(cluster: Cluster) -> None:
    lab = cluster(hold=3.0)
    before = lab.status()
    with watched(lab) as watching:
        for node in lab.layout.node_names:
            lab.fault(node, "cut-private")
        time.sleep(1.0)
        lab.heal()
        lab.wait_served()
    assert [attempt for attempt in watching.attempts if not attempt.ok] == []
    assert lab.served() == {a.address: a.node for a in before.addresses}


def test_i1_the_store_away_for_longer_silences_everybody_and_its_return_brings_all_back(cluster: Cluster) -> None:
    lab = cluster()
    with watched(lab) as watching:
        for node in lab.layout.node_names:
            lab.fault(node, "cut-private")
        lab.wait_for("silence", lambda: all_silent(lab, watching))
        lab.heal()
        lab.wait_served()
        start = boottime()
        lab.wait_for("answers", lambda: answered_since(lab, watching, start))
    check_kernels(lab)


def test_an_outage_of_the_store_for_longer_than_the_hold_moves_nothing(cluster: Cluster) -> None:
    """It must not be taken for the deaths of the nodes: all are silent from the end of their holds, and speak again."""
    lab = cluster()
    before = lab.served()
    with watched(lab) as watching:
        lab.fault("n1", "freeze-store")
        lab.wait_for("silence", lambda: all_silent(lab, watching))
        time.sleep(2 * lab.layout.hold)
        lab.heal()
        lab.wait_served()
        start = boottime()
        lab.wait_for("answers", lambda: answered_since(lab, watching, start))
    assert lab.served() == before
    for node in lab.layout.node_names:
        assert "expiring it" not in lab.daemon_log(node).read_text()
    check_kernels(lab)


def test_a_node_that_is_cut_off_says_so_whatever_it_is_asked(cluster: Cluster) -> None:
    lab = cluster()
    assert locum(lab, "n2", "status", "--check").startswith("LOCUM OK - 6 public addresses, all served")
    lab.fault("n2", "cut-private")
    lab.wait_for("n2 to notice", lambda: lab.status("n2").stale)
    for command in ("status", "ip", "node", "tunable", "tunable get MonitorInterval"):
        said = locum(lab, "n2", *command.split(), status=3)
        assert "was true at" in said, said
        shown = json.loads(lab.run("n2", [*LOCUM, *command.split(), "--json"]).stdout)
        assert shown["stale"], command
        assert shown["age"] > 0
    assert "LOCUM UNKNOWN - n2 is cut off" in locum(lab, "n2", "status", "--check", status=3)
    # What is read from the store itself cannot be had.
    locum(lab, "n2", "connections", "list", status=1)
    lab.wait_for("the others to serve everything", lambda: set(lab.served().values()) == {"n1", "n3"})
    lab.wait_for("n1 to say so", lambda: lab.run("n1", [*LOCUM, "status", "--check"]).returncode == 0)
    warned = locum(lab, "n1", "status", "--check", "--warnings", status=1)
    assert "n2 is DISCONNECTED" in warned
    for node in ("n1", "n3"):
        locum(lab, "n1", "node", "disable", node, "--no-wait")
    lab.wait_for("addresses without a node", lambda: not lab.served())
    assert "6 of 6 public addresses not served" in locum(lab, "n3", "status", "--check", status=2)
    lab.heal()
    lab.wait_for("n2 to hear again", lambda: not lab.status("n2").stale)
    assert "was true at" not in locum(lab, "n2", "ip")
