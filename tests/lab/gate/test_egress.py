"""The gate's egress hook: whose frames it judges, and in which clothes (VLAN tags) it knows them (I1)."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

import pytest

from locum.machine.announcements import frames
from locum.machine.gate.gate import Gate
from tests.lab.gate.scene import A4, A6, SILENCE, Scene, gate_fixture, opened, scene_fixture  # noqa: F401 - pytest finds them here
from tests.lab.namespaces import (
    Namespace,
    Tap,
    arp_request,
    echo4,
    echo6,
    is_advertisement_of,
    is_arp_from,
    is_ip_from,
    solicitation,
    wait_for,
)

pytestmark = pytest.mark.lab

_PRIORITY = struct.pack("!HH", 0x8100, 5 << 13)  # VLAN 0: nothing but a priority
_VLAN7 = struct.pack("!HH", 0x8100, 7)
_SERVICE = struct.pack("!HH", 0x88A8, 3)

TAGS = {
    "untagged": b"",
    "priority": _PRIORITY,
    "vlan": _VLAN7,
    "802.1ad": _SERVICE,
    "qinq": _SERVICE + _VLAN7,
    "priority-behind-vlan": _VLAN7 + _PRIORITY,
}


def tagged(frame: bytes, tags: bytes) -> bytes:
    return frame[:12] + tags + frame[12:]


@pytest.fixture(name="container", params=["macvlan"])
def container_fixture(request: pytest.FixtureRequest, scene: Scene) -> Namespace:
    """A container with an interface of its own on the node's public one."""
    kind = str(request.param)
    made = scene.network.namespace("container")
    mode = ("mode", "bridge")
    try:
        scene.node.run("ip", "link", "add", "inner", "link", "eth0", "type", kind, *mode)
    except AssertionError as problem:
        if "Unknown device type" in str(problem):
            pytest.skip(f"this kernel has no {kind}")
        raise
    scene.node.run("ip", "link", "set", "inner", "netns", made.name)
    made.run("ip", "link", "set", "inner", "name", "eth0")
    made.run("ip", "link", "set", "eth0", "up")
    made.run("ip", "addr", "add", "10.77.0.50/24", "dev", "eth0")
    made.run("ip", "addr", "add", "fd77::50/64", "dev", "eth0", "nodad")
    return made


def _everything_about(mac: bytes, to: bytes) -> list[tuple[str, bytes, Callable[[bytes], bool]]]:
    [advertisement] = frames(A6, mac)
    return [
        ("arp", arp_request(mac, A4, "10.77.0.9"), is_arp_from(A4)),
        ("ipv4", echo4(mac, to, A4, "10.77.0.9"), is_ip_from(A4)),
        ("ipv6", echo6(mac, to, A6, "fd77::9"), is_ip_from(A6)),
        ("advertisement", advertisement, is_advertisement_of(A6)),
    ]


def _behind(tags: bytes, matches: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
    """``matches``, of a frame without its tags; the kernel hands the outermost one over beside the frame."""
    places = (b"", tags, tags[4:])
    return lambda frame: any(
        frame[12 : 12 + len(tag)] == tag and matches(frame[:12] + frame[12 + len(tag) :]) for tag in places
    )


@pytest.mark.parametrize("dressing", TAGS)
def test_i1_packet_sockets_send_no_public_address_behind_any_tag(scene: Scene, gate: Gate, dressing: str) -> None:
    tags = TAGS[dressing]
    scene.install(gate)
    sender = Tap(scene.node)
    heard = scene.client.tap
    for name, frame, matches in _everything_about(sender.mac, heard.mac):
        address = A6 if name in ("ipv6", "advertisement") else A4
        recognised = _behind(tags, matches)
        heard.clear()
        with contextlib.suppress(OSError):
            sender.send(tagged(frame, tags))
        assert heard.collect(recognised, SILENCE) is None, name
        gate.allow([address])
        opened(gate)
        sender.send(tagged(frame, tags))
        assert heard.collect(recognised, 5) is not None, f"{name} passes an open gate"
        gate.shut()
        gate.deny([address])
    sender.close()


@pytest.mark.parametrize("dressing", TAGS)
def test_tagged_frames_of_other_addresses_are_not_judged(scene: Scene, gate: Gate, dressing: str) -> None:
    tags = TAGS[dressing]
    scene.install(gate)
    sender = Tap(scene.node)
    frame = arp_request(sender.mac, "10.77.0.1", "10.77.0.9")
    scene.client.tap.clear()
    sender.send(tagged(frame, tags))
    assert scene.client.tap.collect(_behind(tags, is_arp_from("10.77.0.1")), 5) is not None
    sender.close()


def test_i1_a_frame_that_hides_its_kind_from_the_kernel_is_judged(scene: Scene, gate: Gate) -> None:
    """A sender tells the kernel a frame's protocol beside the frame; what counts is what the neighbours will read."""
    scene.install(gate)
    with scene.node.entered():
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    for claimed in (0x0806, 0x88B5, 0):
        scene.client.tap.clear()
        with contextlib.suppress(OSError):
            sender.sendto(arp_request(scene.mac, A4, "10.77.0.9"), ("eth0", claimed))
        assert scene.client.tap.collect(is_arp_from(A4), SILENCE) is None, hex(claimed)
    sender.close()


@pytest.mark.parametrize("address", [A4, A6])
def test_i1_an_answer_that_waits_for_a_neighbour_is_judged_when_it_leaves(
    scene: Scene, gate: Gate, address: str
) -> None:
    """The kernel's own answer (no process has it) waits until its neighbour is found, and the node is mute by then."""
    scene.install(gate)
    scene.configure(address)
    gate.allow([address])
    opened(gate)
    client, four = scene.client.tap, address == A4
    stranger = "10.77.0.77" if four else "fd77::77"
    own = "10.77.0.1" if four else "fd77::1"

    def question(source: str, target: str) -> bytes:
        return arp_request(client.mac, source, target) if four else solicitation(client.mac, source, target)

    def asked() -> bool:
        shown = scene.node.run("ip", "neigh", "show", "to", stranger, "dev", "eth0")
        return "INCOMPLETE" in shown

    # With an open gate the answer leaves as soon as its receiver is known.
    for mute in (False, True):
        client.clear()
        client.send((echo4 if four else echo6)(client.mac, scene.mac, stranger, address))
        wait_for(asked, "the node to look for the stranger")
        if mute:
            gate.deny([address])
        client.clear()
        client.send(question(stranger, own))
        answer = client.collect(is_ip_from(address), SILENCE if mute else 5)
        assert (answer is None) == mute
        scene.node.run("ip", "neigh", "flush", "to", stranger, "dev", "eth0")


def test_what_an_interface_lacks_is_read_from_the_kernel(scene: Scene, gate: Gate) -> None:
    """A later process of the node, or an audit, knows nothing of what an earlier one has loaded."""
    scene.install(gate)
    with scene.node.entered():
        reader = Gate()
        assert reader.uncovered(["eth0"]) == ()
        assert reader.adopt([A4, A6], ["eth0"])
        chain = f"egress-{socket.if_nametoindex('eth0')}"
    before = scene.node.run("nft", "list", "chain", "netdev", "locum", chain)
    assert before.count("ether saddr") == 1
    scene.node.run("ip", "link", "set", "eth0", "address", "02:00:5e:00:53:77")
    with scene.node.entered():
        assert reader.uncovered(["eth0"]) == ("eth0",)
        assert reader.state().egress_missing == ("eth0",)
        reader.ensure_interfaces()
        assert gate.uncovered(["eth0"]) == ()
        assert gate.state().egress == ("eth0",)
        gate.ensure_interfaces()
        reader.close()
    after = scene.node.run("nft", "list", "chain", "netdev", "locum", chain)
    assert after.count("ether saddr") == 2
    assert "ether saddr 02:00:5e:00:53:77 jump sent" in after


def test_other_stacks_on_the_device_are_not_judged(scene: Scene, gate: Gate, container: Namespace) -> None:
    """A container with an interface on the node's device holds the public address itself (it is a node, say): what its
    kernel and its processes say passes, while the node's own gate is shut."""
    scene.install(gate)
    scene.configure(A4, A6, at=container)
    client = scene.client_namespace
    for address in (A4, A6):
        wait_for(lambda a=address: "1 received" in client.run("ping", "-c1", "-W1", a, check=False), "an answer")  # type: ignore[misc]
    sender = Tap(container)
    for name, frame, matches in _everything_about(sender.mac, scene.client.tap.mac):
        scene.client.tap.clear()
        sender.send(frame)
        assert scene.client.tap.collect(matches, 5) is not None, name
    sender.close()
    # What the node itself says is judged as ever.
    own = Tap(scene.node)
    for name, frame, matches in _everything_about(own.mac, scene.client.tap.mac):
        scene.client.tap.clear()
        with contextlib.suppress(OSError):
            own.send(frame)
        assert scene.client.tap.collect(matches, SILENCE) is None, name
    own.close()


def test_a_container_behind_a_bridge_on_the_public_interface_is_not_judged(scene: Scene, gate: Gate) -> None:
    """The public interface is a port of a bridge, and so is the container's."""
    container = scene.network.namespace("container")
    scene.node.run("ip", "link", "add", "br1", "type", "bridge", "mcast_snooping", "0")
    scene.node.run("ip", "link", "set", "eth0", "master", "br1")
    scene.node.run("ip", "link", "add", "port1", "type", "veth", "peer", "name", "eth0", "netns", container.name)
    scene.node.run("ip", "link", "set", "port1", "master", "br1", "up")
    scene.node.run("ip", "link", "set", "br1", "up")
    container.run("ip", "link", "set", "eth0", "up")
    container.run("ip", "addr", "add", "10.77.0.50/24", "dev", "eth0")
    scene.install(gate)
    scene.configure(A4, at=container)
    client = scene.client_namespace
    wait_for(lambda: "1 received" in client.run("ping", "-c1", "-W1", A4, check=False), "an answer")
    sender = Tap(container)
    scene.client.tap.clear()
    sender.send(arp_request(sender.mac, A4, "10.77.0.9"))
    assert scene.client.tap.collect(is_arp_from(A4), 5) is not None
    sender.close()
