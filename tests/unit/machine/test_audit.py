"""What the audit finds, from snapshots of kernels that are wrong in one way each."""

from __future__ import annotations

import msgspec
import pytest

from locum.machine.audit import Claim, Finding, Interface, Present, Snapshot, Ways, findings
from locum.rules.schema import HostedAddress

PUBLIC, SIX, OWN = "10.0.0.1", "2001:db8::1", "10.0.0.250"
CLAIMS = (Claim(PUBLIC, 24, "eth1"), Claim(SIX, 64, "eth1"))
HOSTED = (
    HostedAddress(PUBLIC, 24, ("eth1",)),
    HostedAddress(SIX, 64, ("eth1",)),
    HostedAddress("10.0.0.2", 24, ("eth1",)),
)
GOOD = Snapshot(
    addresses=(
        Present(OWN, 24, "eth1", permanent=True),
        Present(PUBLIC, 24, "eth1", secondary=True),
        Present("fe80::1", 64, "eth1", permanent=True),
        Present(SIX, 64, "eth1"),
        Present("192.168.0.7", 24, "eth0", permanent=True),
        Present("127.0.0.1", 8, "lo", permanent=True),
    ),
    interfaces={"eth0": Interface(), "eth1": Interface(), "lo": Interface(loopback=True)},
    local=frozenset({OWN, PUBLIC, SIX}),
    held=frozenset({PUBLIC, SIX}),
    ways=(
        Ways("eth1", "10.0.0.0/24", PUBLIC, "10.0.0.3", answers_by="eth1", source=OWN),
        Ways("eth1", "2001:db8::/64", SIX, "2001:db8::3", answers_by="eth1"),
    ),
    settings={("ipv4", "all", "promote_secondaries"): 1},
)


def found(seen: Snapshot) -> list[Finding]:
    """The findings of the usual claims."""
    return list(findings(CLAIMS, HOSTED, seen))


def without(address: str, *instead: Present) -> Snapshot:
    """The good kernel with another account of one address."""
    rest = tuple(p for p in GOOD.addresses if p.address != address)
    return msgspec.structs.replace(GOOD, addresses=(*rest, *instead))


def with_setting(family: str, interface: str, name: str, value: int) -> Snapshot:
    """The good kernel with one setting."""
    return msgspec.structs.replace(GOOD, settings={**GOOD.settings, (family, interface, name): value})


def way(**changes: object) -> Snapshot:
    """The good kernel with other ways of packets of the IPv4 subnet."""
    return msgspec.structs.replace(GOOD, ways=(msgspec.structs.replace(GOOD.ways[0], **changes), GOOD.ways[1]))


def test_a_kernel_as_it_should_be_has_no_findings() -> None:
    assert found(GOOD) == []


@pytest.mark.parametrize(
    ("seen", "kind", "action"),
    [
        (without(PUBLIC), "missing", "restore"),
        (without(PUBLIC, Present(PUBLIC, 24, "eth0")), "missing", "restore"),
        (without(SIX, Present(SIX, 64, "eth1", tentative=True, duplicate=True)), "duplicate", "replace"),
        (without(SIX, Present(SIX, 64, "eth1", tentative=True)), "tentative", "replace"),
        (without(SIX, Present(SIX, 64, "eth1", permanent=True)), "permanent", "replace"),
        (msgspec.structs.replace(GOOD, undelivered={PUBLIC: "forwarded"}), "undelivered", "replace"),
        (msgspec.structs.replace(GOOD, held=frozenset({SIX})), "gate", "allow"),
        (msgspec.structs.replace(GOOD, held=frozenset({SIX, PUBLIC, "10.0.0.2"})), "gate", "deny"),
        (msgspec.structs.replace(GOOD, settings={("ipv4", "all", "promote_secondaries"): 0}), "secondaries", "renew"),
    ],
)
def test_what_can_be_mended_says_how(seen: Snapshot, kind: str, action: str) -> None:
    assert [(f.kind, f.action) for f in found(seen)] == [(kind, action)]


@pytest.mark.parametrize(
    ("seen", "kind", "advice"),
    [
        (msgspec.structs.replace(GOOD, uncovered=("eth1",)), "egress", ""),
        (with_setting("ipv6", "eth1", "disable_ipv6", 1), "ipv6", "net.ipv6.conf.eth1.disable_ipv6=0"),
        (without("fe80::1"), "link-local", "addr_gen_mode"),
        (with_setting("ipv4", "all", "proxy_arp", 1), "proxy", "proxy_arp=0"),
        (with_setting("ipv4", "eth1", "proxy_arp_pvlan", 1), "proxy", "proxy_arp_pvlan=0"),
        (with_setting("ipv4", "eth1", "arp_ignore", 8), "arp", "arp_ignore=1"),
        (way(arrives="dropped by rp_filter", filtered=True), "rp_filter", "net.ipv4.conf.eth1.rp_filter=2"),
        (way(far_filtered=True), "rp_filter", "net.ipv4.conf.eth1.rp_filter=2"),
        (way(arrives="the kernel would forward them"), "delivery", "table local"),
        (way(answers_by="eth0"), "asymmetric", "ip route get"),
        (way(source=PUBLIC), "source", f"src {OWN}"),
        (msgspec.structs.replace(GOOD, far=(PUBLIC,)), "source", "src"),
        (
            msgspec.structs.replace(GOOD, addresses=(*GOOD.addresses, Present("10.0.0.9", 24, "eth0", permanent=True))),
            "flux",
            "net.ipv4.conf.all.arp_ignore=1",
        ),
    ],
)
def test_what_only_an_admin_can_mend_says_what_to_do(seen: Snapshot, kind: str, advice: str) -> None:
    (finding,) = found(seen)
    assert (finding.kind, finding.action) == (kind, "warn")
    assert advice in finding.advice


def test_arp_filter_makes_an_interface_mute_when_answers_leave_by_another() -> None:
    seen = msgspec.structs.replace(way(answers_by="eth0"), settings={**GOOD.settings, ("ipv4", "all", "arp_filter"): 1})
    (finding,) = found(seen)
    assert "does not answer ARP" in finding.text


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (with_setting("ipv4", "eth1", "arp_ignore", 2), "arp"),
        (with_setting("ipv4", "eth1", "drop_gratuitous_arp", 1), "deaf"),
        (with_setting("ipv6", "eth1", "drop_unsolicited_na", 1), "deaf"),
    ],
)
def test_what_is_only_unusual_is_for_those_who_ask(seen: Snapshot, kind: str) -> None:
    assert [(f.kind, f.action) for f in found(seen)] == [(kind, "hint")]


def test_an_own_address_behind_the_public_one_is_put_first() -> None:
    seen = without(OWN, Present(OWN, 24, "eth1", permanent=True, secondary=True))
    seen = msgspec.structs.replace(seen, ways=(msgspec.structs.replace(GOOD.ways[0], source=PUBLIC), GOOD.ways[1]))
    (finding,) = found(seen)
    assert (finding.action, finding.addresses, finding.interface) == ("order", (PUBLIC,), "eth1")


def test_a_node_without_an_address_of_its_own_in_the_subnet_is_a_hint() -> None:
    seen = without(OWN)
    seen = msgspec.structs.replace(seen, ways=(msgspec.structs.replace(GOOD.ways[0], source=PUBLIC), GOOD.ways[1]))
    (finding,) = found(seen)
    assert finding.action == "hint"


def test_the_interface_below_a_macvlan_answers_arp_unless_it_is_told_not_to() -> None:
    links = {**GOOD.interfaces, "eth1": Interface(below="eth2"), "eth2": Interface()}
    seen = msgspec.structs.replace(GOOD, interfaces=links)
    (finding,) = found(seen)
    assert (finding.kind, finding.interface) == ("flux", "eth2")
    assert finding.advice == "sysctl -w net.ipv4.conf.eth2.arp_ignore=1"
    told = msgspec.structs.replace(seen, settings={**GOOD.settings, ("ipv4", "eth2", "arp_ignore"): 1})
    assert found(told) == []
    down = msgspec.structs.replace(seen, interfaces={**links, "eth2": Interface(up=False)})
    assert found(down) == []


@pytest.mark.parametrize(("driver", "expected"), [("bridge", ["master"]), ("bond", ["master"]), ("vrf", [])])
def test_a_port_of_another_interface(driver: str, expected: list[str]) -> None:
    links = {**GOOD.interfaces, "eth1": Interface(master="br0", driver=driver)}
    assert [f.kind for f in found(msgspec.structs.replace(GOOD, interfaces=links))] == expected


def test_no_arp_on_an_interface() -> None:
    links = {**GOOD.interfaces, "eth1": Interface(noarp=True)}
    assert [f.kind for f in found(msgspec.structs.replace(GOOD, interfaces=links))] == ["noarp"]


def test_two_interfaces_in_one_subnet_are_fine_when_each_answers_for_its_own() -> None:
    addresses = (*GOOD.addresses, Present("10.0.0.9", 24, "eth0", permanent=True))
    seen = msgspec.structs.replace(
        GOOD, addresses=addresses, settings={**GOOD.settings, ("ipv4", "all", "arp_ignore"): 1}
    )
    assert found(seen) == []
