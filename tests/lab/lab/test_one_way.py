"""Cuts that go one way: what is sent arrives, or what is meant for the node does, and never both."""

from __future__ import annotations

import pytest

from locum.errors import UsageError
from locum_lab.lab import Lab
from tests.lab.conftest import MakeLab

pytestmark = pytest.mark.lab


def asks_client(lab: Lab) -> bool:
    """n1 asks the client something on the public network; whether it was answered."""
    lab.run("n1", ["ip", "neighbour", "flush", "dev", "eth1"])
    lab.run("client", ["ip", "neighbour", "flush", "dev", "eth0"])
    return lab.run("n1", ["ping", "-c1", "-W1", "10.77.0.1"]).returncode == 0


def client_heard(lab: Lab) -> bool:
    """Whether n1's question (ARP) has come to the client: it remembers who asked."""
    return lab.layout.mac("n1", "eth1") in lab.run("client", ["ip", "neighbour", "show", "10.77.0.2"]).stdout


def test_a_mute_node_is_not_heard_and_a_deaf_one_hears_nothing(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, services=(), daemons=False)
    assert lab.run("n1", ["ip", "address", "add", "10.77.0.2/24", "dev", "eth1"]).returncode == 0
    assert asks_client(lab)
    assert client_heard(lab)
    lab.fault("n1", "deaf-public")
    assert not asks_client(lab)
    assert client_heard(lab)
    lab.fault("n1", "mute-public")
    lab.undo("n1", "deaf-public")
    assert not asks_client(lab)
    assert not client_heard(lab)
    assert lab.run("n1", ["ping", "-c1", "-W1", "10.78.0.2"]).returncode == 0, "the private network is another one"
    assert lab.run("n1", ["cat", "/sys/class/net/eth1/carrier"]).stdout == "1\n"
    lab.heal()
    assert asks_client(lab)


def test_a_store_on_a_unix_socket_is_cut_both_ways(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, services=(), daemons=False)
    with pytest.raises(UsageError, match="cut-private"):
        lab.fault("n1", "mute-private")
    assert lab.state.nodes["n1"].faults == ()


def test_the_private_network_of_a_lab_on_etcd_is_cut_one_way(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, services=(), daemons=False, store="etcd")

    def reached() -> bool:
        return lab.run("n1", ["ping", "-c1", "-W1", "10.78.0.2"]).returncode == 0

    lab.wait_for("the private network", reached)
    for kind in ("mute-private", "deaf-private"):
        lab.fault("n2", kind)
        assert not reached()
        lab.undo("n2", kind)
        # A question that was sent while nobody could answer is repeated a second later; until then pings wait for it.
        lab.wait_for(f"the end of {kind}", reached)
