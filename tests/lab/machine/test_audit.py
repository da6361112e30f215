"""The audit against real kernels: what a snapshot sees of a namespace that is wrong in one way each."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from locum.machine import snapshot
from locum.machine.addresses import AddressTable
from locum.machine.audit import Claim, Finding, findings
from locum.machine.gate.gate import Gate
from locum.rules.schema import HostedAddress
from tests.lab.namespaces import Namespace, Network, wait_for

pytestmark = pytest.mark.lab

PUBLIC, SIX, OWN = "10.77.0.10", "fd77::10", "10.77.0.1"
CLAIMS = [Claim(PUBLIC, 24, "eth0"), Claim(SIX, 64, "eth0")]
HOSTED = [HostedAddress(claim.address, claim.bits, (claim.interface,)) for claim in CLAIMS]


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network()
    yield made
    made.delete()


@pytest.fixture
def node(network: Network) -> Namespace:
    """A node that serves both addresses as it should."""
    made = network.host("node", f"{OWN}/24", "fd77::1/64")
    network.plug(made, "eth1")
    made.sysctl("net.ipv4.conf.all.rp_filter", "0")
    made.sysctl("net.ipv4.conf.eth0.rp_filter", "0")
    with made.entered():
        table = AddressTable()
        for claim in CLAIMS:
            table.add(claim.address, claim.bits, claim.interface, 600)
        table.close()
    wait_for(lambda: "tentative" not in made.run("ip", "address"), "duplicate address detection")
    return made


def audit(node: Namespace) -> list[Finding]:
    """All findings now."""
    with node.entered():
        return list(findings(CLAIMS, HOSTED, snapshot.take(CLAIMS, HOSTED)))


def kinds(node: Namespace) -> list[tuple[str, str]]:
    """The kinds and actions of all findings now."""
    return [(finding.kind, finding.action) for finding in audit(node)]


def test_a_node_as_it_should_be_has_no_findings(node: Namespace) -> None:
    assert audit(node) == []


def test_own_connections_go_out_from_the_own_address_again(node: Namespace) -> None:
    for command in ("del", "add"):
        node.run("ip", "address", command, f"{OWN}/24", "dev", "eth0")
    assert f"src {PUBLIC}" in node.run("ip", "route", "get", "10.77.0.99")
    assert kinds(node) == [("source", "order")]
    with node.entered():
        table = AddressTable()
        table.put_last([(PUBLIC, 24, "eth0")], 600)
        table.close()
    assert f"src {OWN}" in node.run("ip", "route", "get", "10.77.0.99")
    assert audit(node) == []


def test_many_public_addresses_are_put_behind_the_own_one_in_one_go(node: Namespace) -> None:
    items = [(f"10.77.0.{number}", 24, "eth0") for number in (10, *range(100, 140))]
    with node.entered():
        table = AddressTable()
        for address, bits, interface in items:
            table.add(address, bits, interface, 600)
        for command in ("del", "add"):
            node.run("ip", "address", command, f"{OWN}/24", "dev", "eth0")
        table.put_last(items, 600)
        table.close()
    present = node.addresses()
    assert all(address in present for address, _, _ in items)
    assert f"src {OWN}" in node.run("ip", "route", "get", "10.77.0.99")


def test_without_an_own_address_the_public_one_as_source_is_a_hint(node: Namespace) -> None:
    node.run("ip", "address", "del", f"{OWN}/24", "dev", "eth0")
    assert kinds(node) == [("source", "hint")]


def test_a_missing_address_and_one_on_another_interface(node: Namespace) -> None:
    node.run("ip", "address", "del", f"{PUBLIC}/24", "dev", "eth0")
    assert kinds(node) == [("missing", "restore")]
    node.run("ip", "address", "add", f"{PUBLIC}/24", "dev", "eth1")
    assert ("missing", "restore") in kinds(node)


def test_an_address_that_another_machine_has_is_mute_and_found(network: Network, node: Namespace) -> None:
    network.host("other", "10.77.0.2/24", f"{SIX}/64")
    node.sysctl("net.ipv6.conf.eth0.accept_dad", "1")
    node.run("ip", "address", "del", f"{SIX}/64", "dev", "eth0")
    # For good: the kernel removes one with a lifetime when another machine has it.
    node.run("ip", "address", "add", f"{SIX}/64", "dev", "eth0")
    wait_for(lambda: "dadfailed" in node.run("ip", "address"), "duplicate address detection to fail")
    assert kinds(node) == [("duplicate", "replace")]


def test_an_address_without_its_local_route(node: Namespace) -> None:
    node.run("ip", "route", "del", "local", PUBLIC, "table", "local", "dev", "eth0")
    assert kinds(node) == [("undelivered", "replace")]
    node.run("ip", "-6", "route", "del", "local", SIX, "table", "local", "dev", "eth0")
    assert kinds(node) == [("undelivered", "replace"), ("undelivered", "replace")]
    with node.entered():
        table = AddressTable()
        for claim in CLAIMS:
            table.remove(claim.address, claim.bits, claim.interface)
            table.add(claim.address, claim.bits, claim.interface, 600)
        table.close()
    wait_for(lambda: not audit(node), "the local routes, which the kernel adds a little later")


def test_a_policy_rule_in_front_of_the_local_table(node: Namespace) -> None:
    node.run("ip", "rule", "del", "priority", "0")
    node.run("ip", "rule", "add", "priority", "50", "lookup", "local")
    node.run("ip", "rule", "add", "priority", "10", "to", "10.77.0.0/24", "lookup", "main")
    assert "delivery" in [kind for kind, _ in kinds(node)]


@pytest.mark.parametrize(
    ("setting", "value", "kind"),
    [
        ("net.ipv4.conf.eth0.arp_ignore", "8", "arp"),
        ("net.ipv4.conf.eth0.proxy_arp", "1", "proxy"),
        ("net.ipv4.conf.eth0.drop_gratuitous_arp", "1", "deaf"),
        ("net.ipv6.conf.eth0.disable_ipv6", "1", "ipv6"),
    ],
)
def test_a_setting_that_decides_who_answers(node: Namespace, setting: str, value: str, kind: str) -> None:
    node.sysctl(setting, value)
    assert kind in [kind for kind, _ in kinds(node)]


def test_strict_filtering_where_answers_would_leave_by_another_interface(node: Namespace) -> None:
    node.run("ip", "link", "set", "eth1", "up")
    node.run("ip", "address", "add", "10.88.0.1/24", "dev", "eth1")
    node.run("ip", "route", "add", "default", "via", "10.88.0.254", "dev", "eth1")
    assert audit(node) == []
    node.sysctl("net.ipv4.conf.eth0.rp_filter", "1")
    assert kinds(node) == [("rp_filter", "warn")]
    node.sysctl("net.ipv4.conf.eth0.rp_filter", "2")
    assert audit(node) == []
    node.run("ip", "route", "add", "10.77.0.0/25", "dev", "eth1")
    assert "asymmetric" in [kind for kind, _ in kinds(node)]
    node.sysctl("net.ipv4.conf.eth0.rp_filter", "1")
    assert "rp_filter" in [kind for kind, _ in kinds(node)]


def test_two_interfaces_in_one_subnet(node: Namespace) -> None:
    node.run("ip", "link", "set", "eth1", "up")
    node.run("ip", "address", "add", "10.77.0.7/24", "dev", "eth1")
    wait_for(lambda: "flux" in [kind for kind, _ in kinds(node)], "the finding, once the link is up")
    node.sysctl("net.ipv4.conf.all.arp_ignore", "1")
    assert "flux" not in [kind for kind, _ in kinds(node)]


def test_a_port_of_a_bridge_and_one_of_a_vrf(node: Namespace) -> None:
    node.run("ip", "link", "add", "br0", "type", "bridge")
    node.run("ip", "link", "set", "eth0", "master", "br0")
    assert "master" in [kind for kind, _ in kinds(node)]
    node.run("ip", "link", "set", "eth0", "nomaster")


def test_arp_switched_off(node: Namespace) -> None:
    node.run("ip", "link", "set", "eth0", "arp", "off")
    assert "noarp" in [kind for kind, _ in kinds(node)]


def test_an_address_that_the_gate_has_lost(node: Namespace) -> None:
    with node.entered():
        gate = Gate()
        gate.install([PUBLIC, SIX], ["eth0"])
        gate.allow([PUBLIC, SIX])
        reader = Gate()
        try:
            assert not list(findings(CLAIMS, HOSTED, snapshot.take(CLAIMS, HOSTED, reader)))
            node.run("nft", "delete", "element", "inet", "locum", "held4", f"{{ {PUBLIC} }}")
            (finding,) = findings(CLAIMS, HOSTED, snapshot.take(CLAIMS, HOSTED, reader))
            assert (finding.action, finding.addresses) == ("allow", (PUBLIC,))
            gate.allow([PUBLIC])
            assert not list(findings(CLAIMS, HOSTED, snapshot.take(CLAIMS, HOSTED, reader)))
        finally:
            reader.close()
            gate.close()


@pytest.mark.parametrize("count", [240, 1000])
def test_an_audit_of_many_addresses_is_complete_and_its_cost_is_printed(node: Namespace, count: int) -> None:
    claims = [Claim(f"10.77.{4 + number // 250}.{1 + number % 250}", 16, "eth0") for number in range(count)]
    hosted = [HostedAddress(claim.address, claim.bits, ("eth0",)) for claim in claims]
    with node.entered():
        table = AddressTable()
        for claim in claims:
            table.add(claim.address, claim.bits, claim.interface, 600)
        table.close()
        gate, reader = Gate(), Gate()
        gate.install([c.address for c in claims], ["eth0"])
        gate.allow([c.address for c in claims])
        began, used = time.monotonic(), time.process_time()
        found = findings(claims, hosted, snapshot.take(claims, hosted, reader))
        print(
            f"{count} addresses: {1000 * (time.monotonic() - began):.0f} ms, "
            f"{1000 * (time.process_time() - used):.0f} ms of processor time"
        )
        gate.close()
        reader.close()
    assert not [finding for finding in found if finding.action != "hint"]
