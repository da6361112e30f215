"""Duplicate address detection (RFC 4862) of the kernels of nodes and of other machines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from locum_lab import namespaces
from locum_lab.lab import Lab
from tests.lab.clusters import addresses_of, wait_moved
from tests.lab.failover.scene import Cluster, watched

pytestmark = pytest.mark.lab


@pytest.fixture
def lab(cluster: Cluster) -> Lab:
    """A cluster on whose public interfaces the kernel detects duplicates, which labs do without otherwise."""
    made = cluster()
    for node in made.layout.node_names:
        _sysctl(made.layout.namespace(node), "net.ipv6.conf.eth1.accept_dad=1")
    return made


@pytest.fixture
def stranger(lab: Lab) -> Iterator[str]:
    """The namespace of another machine on the public network, with duplicate address detection."""
    name = lab.layout.namespace("n9")
    namespaces.create([name])
    namespaces.run_ip([f"link add stranger master public type veth peer name eth1 netns {name}"], lab.layout.hub)
    namespaces.run_ip(["link set stranger up"], lab.layout.hub)
    # A busy machine answers late.
    _sysctl(name, "net.ipv6.conf.eth1.accept_dad=1", "net.ipv6.conf.eth1.dad_transmits=10")
    namespaces.run_ip(["link set eth1 up"], name)
    yield name
    namespaces.delete(name)


def _sysctl(namespace: str, *values: str) -> None:
    namespaces.run(["ip", "netns", "exec", namespace, "sysctl", "-qw", *values])


def _flags(namespace: str, address: str) -> str:
    return namespaces.run(["ip", "-n", namespace, "-6", "-oneline", "address", "show", "to", address])


def _is_refused(lab: Lab, stranger: str, address: str) -> bool:
    """Whether the stranger's kernel finds that the address is in use."""
    namespaces.run_ip([f"address add {address}/64 dev eth1"], stranger)
    try:
        lab.wait_for(
            "the end of the detection",
            lambda: "dadfailed" in _flags(stranger, address) or "tentative" not in _flags(stranger, address),
        )
        return "dadfailed" in _flags(stranger, address)
    finally:
        namespaces.run_ip([f"address delete {address}/64 dev eth1"], stranger)


def test_i1_the_holder_answers_the_detection_of_another_machine(lab: Lab, stranger: str) -> None:
    """Before a failover and after it. Nodes detect nothing for public addresses themselves, so they serve at once."""
    address = next(address for address in addresses_of(lab, "n1") if ":" in address)
    assert not _is_refused(lab, stranger, "fd77::9999"), "an address that is free"
    with watched(lab):
        assert _is_refused(lab, stranger, address)
        lab.fault("n1", "freeze")
        wait_moved(lab, (address,), "n1")
        holder = lab.served()[address]
        shown = _flags(lab.layout.namespace(holder), address)
        assert address in shown
        assert "tentative" not in shown
        assert "dadfailed" not in shown
        assert _is_refused(lab, stranger, address)
        lab.heal()
        lab.wait_served()
