"""Addresses and the configuration: changed by hand, moved to another interface, added and removed by a reload."""

from __future__ import annotations

import re
import time

import pytest

from locum.clock import boottime
from locum_lab import gaps
from tests.lab.clusters import (
    address_report,
    addresses_of,
    check_kernels,
    forget_events,
    locum,
    seen,
    wait_moved,
    wait_state,
)
from tests.lab.failover.scene import Cluster, answered_since, remove, watched

pytestmark = pytest.mark.lab


def test_an_address_removed_by_hand_comes_back(cluster: Cluster) -> None:
    lab = cluster()
    address = addresses_of(lab, "n1")[0]
    with watched(lab):
        remove(lab, "n1", address)
        lab.wait_for("its return", lambda: address in lab.configured("n1"))
    lab.wait_served()
    assert address in addresses_of(lab, "n1")


@pytest.mark.parametrize("family", [4, 6])
def test_i1_an_address_added_by_hand_on_another_node_never_speaks_and_goes_away(cluster: Cluster, family: int) -> None:
    lab = cluster()
    holder, address = next((n, a) for a, n in lab.served().items() if (":" in a) == (family == 6))
    other = next(node for node in lab.layout.node_names if node != holder)
    extra = ["nodad"] if family == 6 else []
    bits = 64 if family == 6 else 24
    with watched(lab) as watching:
        for _ in range(3):
            done = lab.run(other, ["ip", "address", "add", f"{address}/{bits}", "dev", "eth1", *extra])
            assert done.returncode == 0, done.stderr
            lab.wait_for("it to go away", lambda: address not in lab.configured(other))
    assert {attempt.node for attempt in watching.attempts if attempt.address == address and attempt.ok} == {holder}
    check_kernels(lab)


def test_the_loss_of_a_primary_address_leaves_its_secondaries(cluster: Cluster) -> None:
    lab = cluster(nodes=2, addresses=12)
    mine = [address for address in addresses_of(lab, "n1") if ":" not in address]
    order = [address for address in lab.configured("n1") if address in mine]
    assert len(order) == 3
    with watched(lab) as watching:
        start = boottime()
        locum(lab, "n1", "ip", "move", order[0], "n2")
        lab.wait_for("the move", lambda: lab.served().get(order[0]) == "n2")
        assert {address for address in lab.configured("n1") if address in mine} == set(order[1:])
        remove(lab, "n1", next(address for address in lab.configured("n1") if address in mine))
        lab.wait_for("its return", lambda: set(order[1:]) <= set(lab.configured("n1")))
        time.sleep(0.3)
        end = boottime()
    last = gaps.longest(watching.attempts, start, end)[order[2]]
    assert last.failed == 0, f"a secondary was interrupted: {last}"


def test_updateip_moves_an_address_to_the_other_interface_of_its_node(cluster: Cluster) -> None:
    lab = cluster(interfaces=2)
    mine = addresses_of(lab, "n1")
    assert set(lab.configured("n1").values()) == {"eth1"}
    forget_events(lab)
    with watched(lab) as watching:
        lab.fault("n1", "link", "eth1")
        lab.wait_for("the other interface", lambda: set(lab.configured("n1").values()) == {"eth2"})
        lab.wait_for("updateip", lambda: len(seen(lab, "n1", "updateip")) == len(mine))
        assert addresses_of(lab, "n1") == mine
        assert wait_state(lab, "n1", "PARTIALLYONLINE")
        for one in seen(lab, "n1", "updateip"):
            old, new, address, bits = one.arguments
            assert (old, new) == ("eth1", "eth2")
            assert address in mine
            assert bits == ("64" if ":" in address else "24")
        assert seen(lab, "n1", "takeip") == seen(lab, "n1", "releaseip") == []
        start = boottime()
        lab.wait_for("answers", lambda: answered_since(lab, watching, start))
        lab.heal()
        lab.wait_served()
        lab.fault("n1", "link", "eth1")
        lab.fault("n1", "link", "eth2")
        wait_moved(lab, mine, "n1")
        lab.heal()
        lab.wait_served()


def test_reload_takes_up_a_new_address(cluster: Cluster) -> None:
    lab = cluster(addresses=4)
    for node in lab.layout.node_names:
        with (lab.node_directory(node) / "public_addresses").open("a") as file:
            file.write("10.77.0.99/24 eth1\n")
        locum(lab, node, "reload")

    def served() -> bool:
        report = address_report(lab, "10.77.0.99")
        return report is not None and report.serving

    lab.wait_for("the new address", served)
    for node in lab.layout.node_names:
        path = lab.node_directory(node) / "public_addresses"
        path.write_text(path.read_text().replace("10.77.0.99/24 eth1\n", ""))
        locum(lab, node, "reload")
    lab.wait_for("it to go away", lambda: address_report(lab, "10.77.0.99") is None)
    for node in lab.layout.node_names:
        assert "10.77.0.99" not in lab.run(node, ["ip", "address"]).stdout


def test_i1_what_the_configuration_has_no_more_is_judged_until_it_has_left(cluster: Cluster) -> None:
    lab = cluster(nodes=1, addresses=2)
    directory = lab.node_directory("n1")
    waits = f"touch {directory}/runs; while [ ! -e {directory}/go ]; do sleep 0.05; done"
    lab.write_script("n1", "20.slow", f'#!/bin/sh\n[ "$1" != releaseip ] || {{ {waits}; }}\n')
    address = next(a for a in lab.configured("n1") if ":" not in a)

    def judged() -> bool:
        return re.search(rf"\b{re.escape(address)}\b", lab.run("n1", ["nft", "list", "ruleset"]).stdout) is not None

    path = directory / "public_addresses"
    path.write_text(
        "".join(f"{line}\n" for line in path.read_text().splitlines() if not line.startswith(f"{address}/"))
    )
    locum(lab, "n1", "reload")
    lab.wait_for("releaseip", (directory / "runs").exists)
    assert judged()
    (directory / "go").touch()
    lab.wait_for("the gate to forget it", lambda: not judged())
    assert address not in lab.configured("n1")
