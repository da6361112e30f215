"""The gate against the real kernel: what may pass, by packets on the wire (I1)."""

from __future__ import annotations

import contextlib
import json
import select
import socket

import pytest

from locum.machine.announcements import Announcer
from locum.machine.gate.gate import Gate
from tests.lab.gate.scene import A4, A6, B4, B6, PUBLIC, SILENCE, Scene, gate_fixture, load_chain, opened, scene_fixture  # noqa: F401 - pytest finds them here
from tests.lab.namespaces import (
    Client,
    Namespace,
    Network,
    Tap,
    arp_request,
    echo4,
    echo6,
    is_advertisement_of,
    is_arp_from,
    is_ip_from,
    wait_for,
)

pytestmark = pytest.mark.lab


# -- closed by default ---


def test_i1_without_a_gate_the_node_answers(scene: Scene) -> None:
    """The counter-proof of all that follows: these probes do get answers."""
    scene.configure(A4, A6)
    scene.assert_speaks(A4, A6)


def test_i1_a_new_gate_is_closed_for_every_protocol(scene: Scene, gate: Gate) -> None:
    scene.configure(*PUBLIC)
    scene.install(gate)
    scene.assert_mute(*PUBLIC)
    assert gate.state().open_for == 0


def test_the_nodes_own_addresses_are_never_judged(scene: Scene, gate: Gate) -> None:
    scene.install(gate)
    scene.assert_speaks("10.77.0.1", "fd77::1")


def test_i1_needs_held_and_armed_and_confirmed(scene: Scene, gate: Gate) -> None:
    scene.configure(A4, B4, A6, B6)
    scene.install(gate)
    gate.allow([A4, A6])
    scene.assert_mute(*PUBLIC)
    armed = gate.arm(0, 30)
    scene.assert_mute(*PUBLIC)
    assert gate.confirm(armed)
    scene.assert_speaks(A4, A6)
    scene.assert_mute(B4, B6)
    gate.deny([A4, A6])
    scene.assert_mute(*PUBLIC)
    gate.allow([B4])
    scene.assert_speaks(B4)
    gate.shut()
    scene.assert_mute(*PUBLIC)
    assert not gate.confirm(armed)
    scene.assert_mute(*PUBLIC)


def test_i1_wrong_order_of_calls_opens_nothing(scene: Scene, gate: Gate) -> None:
    scene.configure(A4)
    scene.install(gate)
    gate.allow([A4])
    first = gate.arm(0, 30)
    second = gate.arm(0, 30)
    assert not gate.confirm(first), "the beat of the first arming must not confirm the second"
    scene.assert_mute(A4)
    assert gate.confirm(second)
    scene.assert_speaks(A4)
    gate.arm(0, 30)
    scene.assert_mute(A4)


def test_i1_an_established_connection_is_cut_too(scene: Scene, gate: Gate) -> None:
    scene.configure(A4)
    scene.install(gate)
    gate.allow([A4])
    opened(gate)
    with scene.node.entered():
        server = socket.create_server((A4, 7000))
    with scene.client_namespace.entered():
        connection = socket.create_connection((A4, 7000), timeout=10)
    accepted, _ = server.accept()
    gate.shut()
    scene.client.tap.pending()
    accepted.send(b"late")
    connection.send(b"question")
    assert not select.select([connection], [], [], SILENCE)[0]
    assert not select.select([accepted], [], [], 0)[0]
    assert not any(not s.outgoing and is_ip_from(A4)(s.frame) for s in scene.client.tap.pending())
    opened(gate)
    assert select.select([accepted], [], [], 30)[0], "the connection goes on when the gate opens again"
    for each in (connection, accepted, server):
        each.close()


def test_i1_datagrams_and_icmp_errors_are_judged(scene: Scene, gate: Gate) -> None:
    scene.configure(A4, A6)
    scene.install(gate)
    for address in (A4, A6):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with scene.node.entered():
            sender = socket.socket(family, socket.SOCK_DGRAM)
            sender.bind((address, 0))
        target = ("fd77::9" if ":" in address else "10.77.0.9", 5000)
        scene.client.tap.clear()
        with contextlib.suppress(PermissionError):
            sender.sendto(b"x", target)
        assert scene.client.tap.collect(is_ip_from(address), SILENCE) is None
        gate.allow([address])
        opened(gate)
        sender.sendto(b"x", target)
        assert scene.client.tap.collect(is_ip_from(address), 5) is not None
        gate.shut()
        sender.close()


def test_i1_our_own_announcements_go_out_only_through_an_open_gate(scene: Scene, gate: Gate) -> None:
    scene.configure(A4, A6)
    scene.install(gate)
    with scene.node.entered():
        announcer = Announcer()
    for address, recognised in ((A4, is_arp_from(A4)), (A6, is_advertisement_of(A6))):
        scene.client.tap.clear()
        assert not announcer.announce("eth0", address)
        assert scene.client.tap.collect(recognised, SILENCE) is None
        gate.allow([address])
        opened(gate)
        assert announcer.announce("eth0", address)
        assert scene.client.tap.collect(recognised, 5) is not None
        gate.shut()
    announcer.close()


def test_i1_packet_sockets_cannot_send_ip_either(scene: Scene, gate: Gate) -> None:
    scene.install(gate)
    frames = scene.client.questions("10.77.0.9", scene.client.tap.mac)
    tap = Tap(scene.node)
    for frame, source in (
        (echo4(tap.mac, scene.client.tap.mac, A4, "10.77.0.9"), A4),
        (echo6(tap.mac, scene.client.tap.mac, A6, "fd77::9"), A6),
    ):
        scene.client.tap.clear()
        with contextlib.suppress(OSError):
            tap.send(frame)
        assert scene.client.tap.collect(is_ip_from(source), SILENCE) is None
        gate.allow([source])
        opened(gate)
        tap.send(frame)
        assert scene.client.tap.collect(is_ip_from(source), 5) is not None
        gate.shut()
    assert frames
    tap.close()


def attach_container(scene: Scene) -> Namespace:
    """A container at 172.30.0.2 behind the node, which forwards."""
    container = scene.network.namespace("container")
    scene.node.run("ip", "link", "add", "docker0", "type", "veth", "peer", "name", "eth0", "netns", container.name)
    scene.node.run("ip", "addr", "add", "172.30.0.1/24", "dev", "docker0")
    scene.node.run("ip", "link", "set", "docker0", "up")
    container.run("ip", "addr", "add", "172.30.0.2/24", "dev", "eth0")
    container.run("ip", "link", "set", "eth0", "up")
    container.run("ip", "route", "add", "default", "via", "172.30.0.1")
    scene.node.sysctl("net.ipv4.ip_forward", "1")
    return container


def test_i1_a_service_behind_address_translation_is_judged_too(scene: Scene, gate: Gate) -> None:
    """A container on the node publishes a port on the public address (destination NAT)."""
    container = attach_container(scene)
    load_chain(scene.node, "ip nat", "type nat hook prerouting priority -100", "tcp dport 80 dnat to 172.30.0.2:80")
    scene.configure(A4)
    scene.install(gate)
    gate.allow([A4])
    opened(gate)
    with container.entered():
        server = socket.create_server(("172.30.0.2", 80))
    with scene.client_namespace.entered():
        connection = socket.create_connection((A4, 80), timeout=10)
    accepted, _ = server.accept()
    accepted.send(b"1")
    assert connection.recv(1) == b"1"
    gate.shut()
    # The answer leaves the container from 172.30.0.2 and would leave the node from A, even without A configured.
    scene.node.run("ip", "addr", "del", f"{A4}/24", "dev", "eth0")
    scene.client.tap.clear()
    accepted.send(b"2")
    assert scene.client.tap.collect(is_ip_from(A4), SILENCE) is None
    for each in (connection, accepted, server):
        each.close()


# -- a node that does not hold an address is a client of it like any other ---


@pytest.mark.parametrize("forwarding", ["0", "1"])
def test_a_node_can_use_an_address_that_another_holds(scene: Scene, gate: Gate, forwarding: str) -> None:
    scene.node.sysctl("net.ipv4.ip_forward", forwarding)
    scene.node.sysctl("net.ipv6.conf.all.forwarding", forwarding)
    scene.install(gate)
    scene.configure(A4, A6, at=scene.other)
    for address in (A4, A6):
        with scene.other.entered():
            server = socket.create_server((address, 7001), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        with scene.node.entered():
            connection = socket.create_connection((address, 7001), timeout=10)
        accepted, _ = server.accept()
        accepted.send(b"hello")
        assert connection.recv(5) == b"hello"
        for each in (connection, accepted, server):
            each.close()
        entry = json.loads(scene.node.run("ip", "-j", "neigh", "show", address))[0]
        assert bytes.fromhex(entry["lladdr"].replace(":", "")) == scene.other.mac("eth0")


def test_a_node_learns_from_announcements_of_another_holder(scene: Scene, gate: Gate) -> None:
    scene.install(gate)
    third = scene.network.host("third", "10.77.0.3/24", "fd77::3/64")
    scene.configure(A4, A6, at=scene.other)
    for address in (A4, A6):
        scene.node.run("ping", "-c1", "-W10", address)
    scene.other.run("ip", "addr", "flush", "to", f"{A4}/32")
    scene.other.run("ip", "addr", "del", f"{A6}/64", "dev", "eth0")
    scene.configure(A4, A6, at=third)
    with third.entered():
        announcer = Announcer()

    def learned() -> bool:
        announcer.announce("eth0", A4, A6)
        found = [json.loads(scene.node.run("ip", "-j", "neigh", "show", a)) for a in (A4, A6)]
        return all(f and bytes.fromhex(f[0]["lladdr"].replace(":", "")) == third.mac("eth0") for f in found)

    wait_for(learned, "the neighbour entries to follow the announcement")
    announcer.close()


def test_packets_that_pass_through_are_none_of_our_business(scene: Scene, gate: Gate) -> None:
    """A container on the node (source NAT) uses an address that another node holds: its answers are forwarded."""
    container = attach_container(scene)
    load_chain(scene.node, "ip nat", "type nat hook postrouting priority 100", "oifname eth0 masquerade")
    scene.install(gate)
    scene.configure(A4, at=scene.other)
    wait_for(lambda: "1 received" in container.run("ping", "-c1", "-W1", A4, check=False), "an answer through the node")


@pytest.mark.parametrize("address", [A4, A6])
def test_frames_that_a_bridge_of_the_node_passes_are_none_of_our_business(address: str) -> None:
    """A virtual machine on the node's bridge uses an address that another node holds, and holds one itself; with
    br_netfilter the bridged packets come by our rules."""
    network = Network()
    try:
        node = network.namespace("node")
        other = network.host("other", "10.77.0.2/24", "fd77::2/64")
        machine = network.namespace("machine")
        network.plug(node, "uplink")
        node.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        node.run("ip", "link", "set", "uplink", "master", "br0")
        node.run("ip", "link", "add", "tap0", "type", "veth", "peer", "name", "eth0", "netns", machine.name)
        node.run("ip", "link", "set", "tap0", "master", "br0", "up")
        node.run("ip", "link", "set", "br0", "up")
        node.run("ip", "addr", "add", "10.77.0.1/24", "dev", "br0")
        node.sysctl("net.bridge.bridge-nf-call-iptables", "1")
        node.sysctl("net.bridge.bridge-nf-call-ip6tables", "1")
        machine.run("ip", "link", "set", "eth0", "up")
        for ours in ("10.77.0.3/24", "fd77::3/64"):
            machine.run("ip", "addr", "add", ours, "dev", "eth0", *(("nodad",) if ":" in ours else ()))
        with node.entered():
            gate = Gate()
            gate.install(PUBLIC, ["br0"])
        bits = "64" if ":" in address else "24"
        for holder, user in ((other, machine), (machine, other)):
            holder.run("ip", "addr", "add", f"{address}/{bits}", "dev", "eth0", *(("nodad",) if ":" in address else ()))
            user.run("ip", "neigh", "flush", "all")
            wait_for(lambda u=user: "1 received" in u.run("ping", "-c1", "-W1", address, check=False), "an answer")  # type: ignore[misc]
            holder.run("ip", "addr", "del", f"{address}/{bits}", "dev", "eth0")
        # What the node itself says is judged as ever.
        node.run("ip", "addr", "add", f"{address}/{bits}", "dev", "br0", *(("nodad",) if ":" in address else ()))
        client = Client(other, "10.77.0.2", "fd77::2")
        assert client.answered(address, node.mac("br0"), SILENCE) == set()
        gate.allow([address])
        opened(gate)
        assert len(client.answered(address, node.mac("br0"))) == 3
        client.close()
        gate.close()
    finally:
        network.delete()


@pytest.mark.parametrize("address", [A4, A6])
def test_i1_sockets_bound_to_a_foreign_address_cannot_send_from_it(scene: Scene, gate: Gate, address: str) -> None:
    """A transparent socket may use an address that is not configured here, and so do hand-made headers."""
    scene.install(gate)
    six = ":" in address
    family = socket.AF_INET6 if six else socket.AF_INET
    with scene.node.entered():
        free = socket.socket(family, socket.SOCK_DGRAM)
        # IPV6_TRANSPARENT, IP_TRANSPARENT
        free.setsockopt(*((socket.IPPROTO_IPV6, 75, 1) if six else (socket.IPPROTO_IP, 19, 1)))
        raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        free.bind((address, 0))
    target = "fd77::9" if six else "10.77.0.9"
    packet = (echo6 if six else echo4)(bytes(6), bytes(6), address, target)[14:]
    for sender, data, protocol in ((free, b"x", 17), (raw, packet, 58 if six else 1)):
        scene.client.tap.clear()
        with contextlib.suppress(PermissionError):
            sender.sendto(data, (target, 0 if sender is raw else 5000))
        assert scene.client.tap.collect(is_ip_from(address), SILENCE) is None
        gate.allow([address])
        opened(gate)
        sender.sendto(data, (target, 0 if sender is raw else 5000))
        assert scene.client.tap.collect(is_ip_from(address, protocol), 5) is not None
        gate.shut()
    free.close()
    raw.close()


def test_i1_proxy_arp_does_not_answer_for_public_addresses(scene: Scene, gate: Gate) -> None:
    scene.node.sysctl("net.ipv4.conf.eth0.proxy_arp", "1")
    scene.node.sysctl("net.ipv4.ip_forward", "1")
    scene.node.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
    scene.node.run("ip", "link", "set", "v0", "up")
    scene.node.run("ip", "link", "set", "v1", "up")
    for address in (A4, "10.77.0.200"):
        scene.node.run("ip", "route", "add", f"{address}/32", "dev", "v0")
    scene.install(gate)
    tap = scene.client.tap
    tap.clear()
    tap.send(arp_request(tap.mac, "10.77.0.9", "10.77.0.200"))
    assert tap.collect(is_arp_from("10.77.0.200"), 10) is not None, "proxy ARP works here at all"
    tap.send(arp_request(tap.mac, "10.77.0.9", A4))
    assert tap.collect(is_arp_from(A4), SILENCE + 1) is None


def test_i1_a_local_client_does_not_reach_a_stale_local_service(scene: Scene, gate: Gate) -> None:
    scene.configure(A4)
    scene.install(gate)
    with scene.node.entered():
        server = socket.create_server((A4, 7002))
        attempt = socket.socket()
        attempt.settimeout(SILENCE)
        with pytest.raises((TimeoutError, PermissionError)):
            attempt.connect((A4, 7002))
        gate.allow([A4])
        opened(gate)
        socket.create_connection((A4, 7002), timeout=10).close()
    attempt.close()
    server.close()


@pytest.mark.parametrize("address", [A4, A6])
def test_i1_packets_that_another_routing_table_delivers_are_judged(scene: Scene, gate: Gate, address: str) -> None:
    """Neither a lookup in the table "local" nor one for the interface finds the address, as in some VRFs."""
    six = ":" in address
    version, bits = ("-6", "128") if six else ("-4", "32")
    scene.node.run("ip", "addr", "add", f"{address}/{bits}", "dev", "lo", *(("nodad",) if six else ()))
    scene.node.run("ip", version, "route", "del", "local", address, "dev", "lo", "table", "local")
    scene.node.run("ip", version, "route", "add", "local", address, "dev", "lo", "table", "100")
    scene.node.run("ip", version, "rule", "add", "iif", "eth0", "lookup", "100", "priority", "0")
    scene.install(gate)
    # The node answers no question about the address.
    mac = scene.mac.hex(":")
    scene.client_namespace.run("ip", "neigh", "replace", address, "lladdr", mac, "dev", "eth0", "nud", "permanent")
    family = socket.AF_INET6 if six else socket.AF_INET
    with scene.node.entered():
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind(("", 7003))
        server.settimeout(SILENCE)
    with scene.client_namespace.entered():
        sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.sendto(b"closed", (address, 7003))
    with pytest.raises(TimeoutError):
        server.recv(16)
    gate.allow([address])
    opened(gate)
    server.settimeout(10)
    sender.sendto(b"open", (address, 7003))
    assert server.recv(16) == b"open"
    sender.close()
    server.close()
