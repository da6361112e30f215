"""Commands of an administrator on real nodes."""

from __future__ import annotations

import pytest

from tests.lab.clusters import (
    addresses_of,
    locum,
    wait_moved,
    wait_state,
)
from tests.lab.failover.scene import Cluster, watched

pytestmark = pytest.mark.lab


def test_node_states_by_command(cluster: Cluster) -> None:
    lab = cluster()
    with watched(lab):
        # Twice, because what was cancelled the first time must run the second time.
        for command, undo, state in 2 * (
            ("disable", "enable", "DISABLED"),
            ("stop", "continue", "STOPPED"),
            ("ban", "unban", "BANNED"),
        ):
            mine = addresses_of(lab, "n1")
            locum(lab, "n2", "node", command, "n1")
            wait_state(lab, "n1", state)
            wait_moved(lab, mine, "n1")
            assert lab.configured("n1") == {}
            locum(lab, "n2", "node", undo, "n1")
            wait_state(lab, "n1", "OK")
            lab.wait_served()


def test_a_moved_address_stays_where_it_was_put(cluster: Cluster) -> None:
    lab = cluster()
    address = addresses_of(lab, "n1")[0]
    locum(lab, "n3", "ip", "move", address, "n2")
    lab.wait_for("the move", lambda: lab.served().get(address) == "n2")
    lab.wait_served()
    locum(lab, "n3", "node", "disable", "n2")
    wait_moved(lab, (address,), "n2")
    locum(lab, "n3", "node", "enable", "n2")
    lab.wait_served()
    assert lab.served()[address] == "n2"
    locum(lab, "n3", "ip", "auto", address)
    lab.wait_served()


def test_what_cannot_be_done_is_refused_with_the_reason(cluster: Cluster) -> None:
    lab = cluster(nodes=2)
    assert "10.99.0.1" in locum(lab, "n1", "ip", "move", "10.99.0.1", "n2", status=2)
    assert "n9" in locum(lab, "n1", "node", "disable", "n9", status=2)
    locum(lab, "n1", "node", "disable", "n2")
    address = addresses_of(lab, "n1")[0]
    assert "n2" in locum(lab, "n1", "ip", "move", address, "n2", status=2)
    locum(lab, "n1", "node", "enable", "n2")
    lab.wait_served()
