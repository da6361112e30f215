"""Announcements on the wire, as another host sees them; ``ip neigh`` is the judge."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from locum.errors import NetlinkError
from locum.machine.announcements import Announcer
from tests.lab.namespaces import Namespace, Network, Tap, checksum, is_advertisement_of, is_arp_from, wait_for

pytestmark = pytest.mark.lab

A4, A6 = "10.77.0.100", "fd77::100"


@pytest.fixture(name="network")
def network_fixture() -> Iterator[Network]:
    made = Network()
    try:
        yield made
    finally:
        made.delete()


def neighbour(host: Namespace, address: str) -> bytes | None:
    found = json.loads(host.run("ip", "-j", "neigh", "show", address) or "[]")
    return bytes.fromhex(found[0]["lladdr"].replace(":", "")) if found and "lladdr" in found[0] else None


@pytest.mark.parametrize("address", [A4, A6])
def test_neighbours_follow(network: Network, address: str) -> None:
    first = network.host("first", "10.77.0.1/24", "fd77::1/64")
    second = network.host("second", "10.77.0.2/24", "fd77::2/64")
    client = network.host("client", "10.77.0.9/24", "fd77::9/64")
    bits = "64" if ":" in address else "24"
    nodad = ("nodad",) if ":" in address else ()
    first.run("ip", "addr", "add", f"{address}/{bits}", "dev", "eth0", *nodad)
    client.run("ping", "-c1", "-W10", address)
    assert neighbour(client, address) == first.mac("eth0")
    first.run("ip", "addr", "del", f"{address}/{bits}", "dev", "eth0")
    second.run("ip", "addr", "add", f"{address}/{bits}", "dev", "eth0", *nodad)
    with second.entered():
        announcer = Announcer()

    def moved() -> bool:
        # The kernel ignores an announcement within a second of the last confirmation (locktime): callers repeat.
        assert announcer.announce("eth0", address)
        return neighbour(client, address) == second.mac("eth0")

    wait_for(moved, "the client to learn the new place")
    announcer.close()


def test_the_frames_are_what_the_rfcs_say(network: Network) -> None:
    node = network.host("node", "10.77.0.1/24")
    tap = Tap(network.host("client", "10.77.0.9/24"))
    mac = node.mac("eth0")
    with node.entered():
        announcer = Announcer()
    announcer.announce("eth0", A4, A6)
    arps: list[bytes] = []
    while len(arps) < 2:
        seen = tap.collect(is_arp_from(A4), 10)
        assert seen is not None
        arps.append(seen.frame)
    for frame, operation in zip(arps, (1, 2), strict=True):
        assert frame[:12] == b"\xff" * 6 + mac
        assert frame[14:22] == bytes([0, 1, 8, 0, 6, 4, 0, operation])
        assert frame[22:32] == mac + bytes([10, 77, 0, 100])
        assert frame[38:42] == bytes([10, 77, 0, 100])
    tap.clear()
    announcer.announce("eth0", A6)
    seen = tap.collect(is_advertisement_of(A6), 10)
    assert seen is not None
    frame = seen.frame
    assert frame[:6] == bytes.fromhex("333300000001")
    assert frame[21] == 255
    assert frame[22:38] == frame[62:78]
    assert frame[38:54].hex() == "ff020000000000000000000000000001"
    assert frame[58] == 0x20, "override, not solicited, not a router"
    assert frame[78:86] == b"\x02\x01" + mac
    body = frame[54:]
    assert checksum(frame[22:54] + bytes([0, 0, 0, len(body), 0, 0, 0, 58]) + body) == 0
    announcer.close()
    tap.close()


def test_a_router_says_that_it_is_one(network: Network) -> None:
    node = network.host("node")
    tap = Tap(network.host("client"))
    node.sysctl("net.ipv6.conf.eth0.forwarding", "1")
    with node.entered():
        announcer = Announcer()
    announcer.announce("eth0", A6)
    seen = tap.collect(is_advertisement_of(A6), 10)
    assert seen is not None
    assert seen.frame[58] == 0xA0
    announcer.close()
    tap.close()


def test_what_cannot_be_announced_is_said(network: Network) -> None:
    node = network.host("node")
    with node.entered():
        announcer = Announcer()
    with pytest.raises(NetlinkError, match="no-such-if"):
        announcer.announce("no-such-if", A4)
    with pytest.raises(ValueError, match="nonsense"):
        announcer.announce("eth0", "nonsense")
    node.run("ip", "link", "set", "eth0", "down")
    with pytest.raises(NetlinkError, match="eth0"):
        announcer.announce("eth0", A4)
    announcer.close()


def test_two_hundred_addresses_in_one_burst(network: Network) -> None:
    node = network.host("node")
    tap = Tap(network.host("client"))
    many = [f"10.77.1.{n}" for n in range(1, 101)] + [f"fd77:1::{n:x}" for n in range(1, 101)]
    with node.entered():
        announcer = Announcer()
    tap.clear()
    assert announcer.announce("eth0", *many)
    missing = set(many)

    def complete() -> bool:
        for seen in tap.pending():
            missing.difference_update(
                a for a in list(missing) if (is_advertisement_of(a) if ":" in a else is_arp_from(a))(seen.frame)
            )
        return not missing

    wait_for(complete, "all announcements")
    announcer.close()
    tap.close()
