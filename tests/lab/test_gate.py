"""The gate against the real kernel: who answers, by packets on the wire (I1).

The client sees everything that the node sends. "Mute" means: neither an answer nor anything else from the address.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from locum.addresses.announce import Announcer
from locum.addresses.gate import Gate, GateUnavailable
from locum.errors import NetlinkError
from tests.lab.namespaces import (
    Client,
    Namespace,
    Network,
    Tap,
    arp_request,
    is_advertisement_of,
    is_arp_from,
    is_ip_from,
    wait_for,
)

pytestmark = pytest.mark.lab

A4, B4 = "10.77.0.100", "10.77.0.101"
A6, B6 = "fd77::100", "fd77::101"
PUBLIC = (A4, B4, A6, B6)
EVERYTHING = {A4: {"arp", "ping", "tcp"}, A6: {"nd", "ping6", "tcp6"}}
#: How long to wait for answers that must not come. Those that come, come within a millisecond.
SILENCE = 0.3


@dataclass
class Scene:
    """A node, another node, and a client on one network; public addresses A and B."""

    network: Network
    node: Namespace
    other: Namespace
    client_namespace: Namespace
    client: Client
    mac: bytes

    def gate(self) -> Gate:
        with self.node.entered():
            return Gate()

    def install(self, gate: Gate, public: tuple[str, ...] = PUBLIC) -> None:
        with self.node.entered():
            gate.install(public, ["eth0"])

    def configure(self, *addresses: str, at: Namespace | None = None) -> None:
        for address in addresses:
            bits = "64" if ":" in address else "24"
            flags = ("nodad", "preferred_lft", "0") if ":" in address else ()
            (at or self.node).run("ip", "addr", "add", f"{address}/{bits}", "dev", "eth0", *flags)

    def answered(self, address: str, patience: float = 5.0) -> set[str]:
        return self.client.answered(address, self.mac, patience)

    def assert_mute(self, *addresses: str) -> None:
        for address in addresses:
            assert self.answered(address, SILENCE) == set(), address

    def assert_speaks(self, *addresses: str) -> None:
        for address in addresses:
            expected = {"nd", "ping6", "tcp6"} if ":" in address else {"arp", "ping", "tcp"}
            assert self.answered(address) == expected, address


@pytest.fixture
def scene() -> Iterator[Scene]:
    network = Network()
    try:
        node = network.host("node", "10.77.0.1/24", "fd77::1/64")
        other = network.host("other", "10.77.0.2/24", "fd77::2/64")
        outside = network.host("client", "10.77.0.9/24", "fd77::9/64")
        client = Client(outside, "10.77.0.9", "fd77::9")
        made = Scene(network, node, other, outside, client, node.mac("eth0"))
        yield made
        client.close()
    finally:
        network.delete()


@pytest.fixture
def gate(scene: Scene) -> Iterator[Gate]:
    made = scene.gate()
    yield made
    made.close()


def opened(gate: Gate, hold: float = 30.0, slot: int = 0) -> None:
    assert gate.confirm(gate.arm(slot, hold))


# -- closed by default --------------------------------------------------------------------------------------------


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
    ticket = gate.arm(0, 30)
    scene.assert_mute(*PUBLIC)
    assert gate.confirm(ticket)
    scene.assert_speaks(A4, A6)
    scene.assert_mute(B4, B6)
    gate.deny([A4, A6])
    scene.assert_mute(*PUBLIC)
    gate.allow([B4])
    scene.assert_speaks(B4)
    gate.shut()
    scene.assert_mute(*PUBLIC)
    assert not gate.confirm(ticket)
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
    from tests.lab.namespaces import echo4, echo6  # noqa: PLC0415

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


def test_i1_a_service_behind_address_translation_is_judged_too(scene: Scene, gate: Gate) -> None:
    """A container on the node publishes a port on the public address (destination NAT)."""
    container = scene.network.namespace("container")
    scene.node.run("ip", "link", "add", "docker0", "type", "veth", "peer", "name", "eth0", "netns", container.name)
    scene.node.run("ip", "addr", "add", "172.30.0.1/24", "dev", "docker0")
    scene.node.run("ip", "link", "set", "docker0", "up")
    container.run("ip", "addr", "add", "172.30.0.2/24", "dev", "eth0")
    container.run("ip", "link", "set", "eth0", "up")
    container.run("ip", "route", "add", "default", "via", "172.30.0.1")
    scene.node.sysctl("net.ipv4.ip_forward", "1")
    nat = "table ip nat {\n chain pre { type nat hook prerouting priority -100;\n tcp dport 80 dnat to 172.30.0.2:80\n }\n}"
    scene.node.run("nft", "-f", "-", stdin=nat)
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


# -- a node that does not hold an address is a client of it like any other ------------------------------------------


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
    container = scene.network.namespace("container")
    scene.node.run("ip", "link", "add", "docker0", "type", "veth", "peer", "name", "eth0", "netns", container.name)
    scene.node.run("ip", "addr", "add", "172.30.0.1/24", "dev", "docker0")
    scene.node.run("ip", "link", "set", "docker0", "up")
    container.run("ip", "addr", "add", "172.30.0.2/24", "dev", "eth0")
    container.run("ip", "link", "set", "eth0", "up")
    container.run("ip", "route", "add", "default", "via", "172.30.0.1")
    scene.node.sysctl("net.ipv4.ip_forward", "1")
    nat = "table ip nat {\n chain post { type nat hook postrouting priority 100;\n oifname eth0 masquerade\n }\n}"
    scene.node.run("nft", "-f", "-", stdin=nat)
    scene.install(gate)
    scene.configure(A4, at=scene.other)
    wait_for(lambda: "1 received" in container.run("ping", "-c1", "-W1", A4, check=False), "an answer through the node")


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


# -- time ---------------------------------------------------------------------------------------------------------


def last_answer(scene: Scene, address: str, until: float) -> dict[str, int]:
    """Ask in every way, every millisecond, until then (monotonic); when the node last sent an answer, by protocol.

    The times are the kernel's, taken where the node's packets leave it.
    """
    tap = Tap(scene.node)
    questions = scene.client.questions(address, scene.mac)
    latest: dict[str, int] = {}
    while time.monotonic() < until:
        for frame, _ in questions.values():
            scene.client.tap.send(frame)
        time.sleep(0.001)
        for seen in tap.pending():
            if seen.outgoing:
                for name, (_, matches) in questions.items():
                    if matches(seen.frame):
                        latest[name] = seen.when
    tap.close()
    scene.client.tap.clear()
    return latest


@pytest.mark.parametrize("address", [A4, A6])
@pytest.mark.parametrize("hold", [0.4, 1.0])
def test_i1_the_kernel_keeps_the_deadline(scene: Scene, gate: Gate, address: str, hold: float) -> None:
    """Nobody does anything after the confirmation. No answer may leave after the deadline, and the gate must not
    close much too early either. Several runs, so that one bad moment of a busy machine decides nothing."""
    scene.configure(address)
    scene.install(gate)
    gate.allow([address])
    late: list[float] = []
    for _ in range(3):
        before = time.time_ns()
        opened(gate, hold)
        latest = last_answer(scene, address, time.monotonic() + hold + 0.3)
        assert set(latest) == EVERYTHING[address], "all were answered while the gate was open"
        late.append(max((when - before) / 1e9 - hold for when in latest.values()))
    assert min(late) <= 0.0005, "systematically late"
    assert max(late) <= 0.05, "late"
    # Two jiffies at HZ=100 is 20 ms; the rest is for the machine's sake.
    assert max(late) >= -0.1, "much too early"


def test_i1_the_wall_clock_alone_closes_it(scene: Scene, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a suspend, in which the kernel's timers stand still: the wall-clock deadline has passed,
    the timer runs."""
    scene.configure(A4, A6)
    scene.install(gate)
    gate.allow([A4, A6])
    real = time.clock_gettime_ns
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: real(clock) - 60_000_000_000)
    ticket = gate.arm(0, 30)
    monkeypatch.undo()
    assert gate.confirm(ticket)
    scene.assert_mute(A4, A6)
    opened(gate)
    scene.assert_speaks(A4, A6)


def test_i1_the_timer_alone_closes_it(scene: Scene, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the wall clock was set back: its deadline is far away, the timer ends."""
    scene.configure(A4, A6)
    scene.install(gate)
    gate.allow([A4, A6])
    real = time.clock_gettime_ns
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: real(clock) + 3600_000_000_000)
    ticket = gate.arm(0, 0.5)
    monkeypatch.undo()
    assert gate.confirm(ticket)
    time.sleep(0.6)
    scene.assert_mute(A4, A6)


def test_renewing_keeps_it_open_without_a_gap(scene: Scene, gate: Gate) -> None:
    scene.configure(A4)
    scene.install(gate)
    gate.allow([A4])
    opened(gate, 30, slot=3)
    tap = scene.client.tap
    frame, matches = scene.client.questions(A4, scene.mac)["ping"]
    tap.clear()
    sent = answered = 0
    for beat in range(300):
        ticket = gate.arm(beat % 3, 30)
        tap.send(frame)
        gate.confirm(ticket)
        tap.send(frame)
        sent += 2
    limit = time.monotonic() + 10
    while answered < sent and time.monotonic() < limit:
        seen = tap.receive(1)
        answered += seen is not None and not seen.outgoing and matches(seen.frame)
    assert answered == sent


def test_i1_an_unconfirmed_beat_does_not_extend(scene: Scene, gate: Gate) -> None:
    scene.configure(A4)
    scene.install(gate)
    gate.allow([A4])
    opened(gate, 0.5, slot=0)
    gate.arm(1, 30)
    gate.arm(2, 30)
    gate.arm(3, 30)
    scene.assert_speaks(A4)
    time.sleep(0.6)
    scene.assert_mute(A4)


def test_too_short_a_hold_is_refused(gate: Gate) -> None:
    for hold in (0.0, -1.0, 0.01, float("nan")):
        with pytest.raises(ValueError, match="hold"):
            gate.arm(0, hold)


# -- processes that freeze, die, come back -------------------------------------------------------------------------


class Puppet:
    """A process in the node's namespace that runs one line of Python at a time, on an object ``gate``."""

    def __init__(self, namespace: Namespace) -> None:
        code = (
            "import sys\n"
            "from locum.addresses.gate import Gate\n"
            "gate = Gate()\n"
            "for line in sys.stdin:\n"
            "    try:\n"
            "        exec(line)\n"
            "        print('done', flush=True)\n"
            "    except Exception as problem:\n"
            "        print(repr(problem), flush=True)\n"
        )
        with namespace.entered():
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def do(self, line: str) -> None:
        self.say(line)
        assert self.heard() == "done", line

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stopped(self) -> bool:
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as status:
            return status.read().rsplit(")", 1)[1].split()[0] == "T"

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def puppet(scene: Scene) -> Iterator[Puppet]:
    made = Puppet(scene.node)
    made.do(f"gate.install({PUBLIC!r}, ['eth0']); gate.allow({(A4, A6)!r})")
    yield made
    made.end()


def test_i1_frozen_between_arm_and_confirm(scene: Scene, puppet: Puppet) -> None:
    scene.configure(A4, A6)
    puppet.do("ticket = gate.arm(0, 0.4)")
    puppet.signal(signal.SIGSTOP)
    wait_for(puppet.stopped, "the process to be stopped")
    puppet.say("assert gate.confirm(ticket)")  # the store's answer waits for it
    time.sleep(0.5)
    puppet.signal(signal.SIGCONT)
    assert puppet.heard() == "done"
    scene.assert_mute(A4, A6)


def test_i1_frozen_before_arming(scene: Scene, puppet: Puppet) -> None:
    """It computed everything, was frozen, and then acts: the timer starts now, but nothing is confirmed."""
    scene.configure(A4, A6)
    puppet.do("ticket = gate.arm(0, 0.4); gate.confirm(ticket)")
    puppet.signal(signal.SIGSTOP)
    wait_for(puppet.stopped, "the process to be stopped")
    puppet.say("ticket = gate.arm(1, 30)")
    time.sleep(0.5)
    puppet.signal(signal.SIGCONT)
    assert puppet.heard() == "done"
    scene.assert_mute(A4, A6)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_i1_nobody_left(scene: Scene, puppet: Puppet, number: int) -> None:
    scene.configure(A4, A6)
    before = time.time_ns()
    puppet.do("ticket = gate.arm(0, 1.0); gate.confirm(ticket)")
    puppet.signal(number)
    for address in (A4, A6):
        latest = last_answer(scene, address, time.monotonic() + 0.2)
        assert set(latest) == EVERYTHING[address], "it still speaks until the deadline"
    latest = last_answer(scene, A4, time.monotonic() + 1.0)
    assert max((when - before) / 1e9 for when in latest.values()) <= 1.05
    scene.assert_mute(A4, A6)


def test_a_restarted_process_adopts_without_a_gap(scene: Scene, puppet: Puppet) -> None:
    scene.configure(A4, A6)
    puppet.do("ticket = gate.arm(2, 30); gate.confirm(ticket)")
    puppet.do("pending = gate.arm(1, 30)")
    puppet.end()
    gate = scene.gate()
    with scene.node.entered():
        assert gate.adopt(PUBLIC, ["eth0"])
        assert gate.verify() == ()
    scene.assert_speaks(A4, A6)
    state = gate.state()
    assert state.held == (A4, A6)
    assert [slot.confirmed for slot in state.slots] == [False, False, True, False]
    assert 20 < state.open_for <= 30
    gate.close()


def test_i1_a_new_start_over_leftover_tables_is_closed(scene: Scene, puppet: Puppet, gate: Gate) -> None:
    scene.configure(A4, A6)
    puppet.do("ticket = gate.arm(2, 30); gate.confirm(ticket)")
    puppet.end()
    scene.assert_speaks(A4, A6)
    scene.install(gate)
    scene.assert_mute(A4, A6)
    opened(gate)
    scene.assert_mute(A4, A6)
    assert gate.state().held == ()


def test_i1_there_is_no_gap_while_tables_are_replaced(scene: Scene, gate: Gate) -> None:
    """Packets all the time while the tables are loaded over themselves, closed: not one answer."""
    scene.configure(A4)
    scene.install(gate)
    tap = scene.client.tap
    frame, matches = scene.client.questions(A4, scene.mac)["ping"]
    tap.clear()
    child = os.fork()
    if child == 0:
        try:
            while True:
                tap.send(frame)
        finally:
            os._exit(1)
    try:
        for _ in range(20):
            scene.install(gate)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not any(not seen.outgoing and matches(seen.frame) for seen in tap.pending())
    assert dict(gate.state().refused)["inet"] > 0


def test_adopt_refuses_what_is_not_there_or_not_ours(scene: Scene, gate: Gate) -> None:
    assert not gate.adopt(PUBLIC, ["eth0"])
    scene.node.run("nft", "-f", "-", stdin="table inet locum { }\ntable arp locum { }\n")
    assert not gate.adopt(PUBLIC, ["eth0"])
    scene.configure(A4)
    scene.install(gate)
    scene.assert_mute(A4)


# -- others at the firewall ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        "delete table inet locum",
        "delete table arp locum",
        "delete table netdev locum",
        "flush chain inet locum gate",
        "flush set inet locum public4",
        "insert rule inet locum gate return",
        "add element inet locum held4 { 10.77.0.101 }",
        "delete element netdev locum public6_target { 0xfd770000000000000000000000000100 }",
        "add rule arp locum from4 accept",
    ],
)
def test_damage_is_found_and_restored_closed(scene: Scene, gate: Gate, damage: str) -> None:
    scene.configure(*PUBLIC)
    scene.install(gate)
    gate.allow([A4, A6])
    opened(gate)
    assert gate.verify() == ()
    pending = gate.arm(1, 30)
    scene.node.run("nft", damage)
    assert gate.verify() != ()
    with scene.node.entered():
        gate.restore()
    assert gate.verify() == ()
    assert not gate.confirm(pending), "a beat from before must not open what is new"
    scene.assert_mute(*PUBLIC)
    opened(gate)
    scene.assert_speaks(A4, A6)
    scene.assert_mute(B4, B6)


def test_an_admins_own_tables_are_no_damage(scene: Scene, gate: Gate) -> None:
    scene.install(gate)
    scene.node.run(
        "nft", "-f", "-", stdin="table inet filter {\n chain input {\n type filter hook input priority 0;\n }\n}"
    )
    assert gate.verify() == ()
    gate.remove()
    assert "filter" in scene.node.run("nft", "list", "ruleset")


def test_without_tables_the_errors_say_so(scene: Scene, gate: Gate) -> None:
    with pytest.raises(NetlinkError) as caught:
        gate.arm(0, 1)
    assert caught.value.errno == 2
    assert gate.verify() != ()
    assert not gate.state().installed
    scene.install(gate)
    gate.remove()
    gate.remove()
    assert scene.node.run("nft", "list", "ruleset") == ""


def test_a_missing_or_broken_nft_program_is_said(scene: Scene) -> None:
    with scene.node.entered():
        for program in ("/no/such/nft", "/bin/false"):
            gate = Gate(nft=program)
            with pytest.raises(GateUnavailable, match="nft"):
                gate.install(PUBLIC, ["eth0"])
            gate.close()


# -- configuration ------------------------------------------------------------------------------------------------


def test_configure_changes_the_addresses_without_disturbing_the_others(scene: Scene, gate: Gate) -> None:
    scene.configure(*PUBLIC)
    scene.install(gate, (A4, A6))
    gate.allow([A4, A6])
    opened(gate)
    scene.assert_speaks(*PUBLIC)
    with scene.node.entered():
        gate.configure(PUBLIC, ["eth0", "eth9"])
    assert gate.verify() == ()
    scene.assert_speaks(A4, A6)
    scene.assert_mute(B4, B6)
    with scene.node.entered():
        gate.configure([A4, B4], ["eth0"])
    scene.assert_speaks(A4, A6, B6)
    scene.assert_mute(B4)
    assert gate.state().held == (A4,)


def test_i1_an_interface_that_comes_back_is_covered_again(scene: Scene, gate: Gate) -> None:
    scene.install(gate)
    assert gate.state().egress == ("eth0",)
    scene.node.run("ip", "link", "del", "eth0")
    assert gate.state().egress_missing == ("eth0",)
    assert gate.verify() == (), "an interface that is gone is no damage"
    opened(gate)
    scene.network.plug(scene.node, "eth0", "10.77.0.1/24")
    with scene.node.entered():
        gate.ensure_interfaces()
        gate.ensure_interfaces()
        assert gate.state().egress == ("eth0",)
        announcer = Announcer()
        scene.client.tap.clear()
        assert not announcer.announce("eth0", A4)
    announcer.close()
    assert scene.client.tap.collect(is_arp_from(A4), SILENCE) is None


def test_many_addresses(scene: Scene, gate: Gate) -> None:
    many = [f"10.77.{n // 250 + 1}.{n % 250 + 1}" for n in range(1500)] + [f"fd77:1::{n:x}" for n in range(1, 1501)]
    scene.install(gate, tuple(many))
    gate.allow(many)
    assert len(gate.state().held) == 3000
    assert gate.verify() == ()
    gate.deny(many)
    assert gate.state().held == ()
    gate.allow([])
    gate.deny([A4])


def test_state_tells_what_nft_tells(scene: Scene, gate: Gate) -> None:
    scene.install(gate)
    gate.allow([A4])
    opened(gate, 30, slot=1)
    listing = json.loads(scene.node.run("nft", "-j", "list", "set", "inet", "locum", "slot_1"))
    left = {e["elem"]["val"]: e["elem"]["expires"] for e in listing["nftables"][1]["set"]["elem"]}
    assert set(left) == {"ipv4", "ipv6"}
    state = gate.state()
    assert 20 < state.open_for <= 30
    assert abs(state.slots[1].left - min(left.values())) < 5
    held = json.loads(scene.node.run("nft", "-j", "list", "set", "arp", "locum", "held4"))
    assert held["nftables"][1]["set"]["elem"] == list(state.held) == [A4]


def test_works_in_a_user_namespace(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Everything that the daemon does here, with no privilege outside (as the demo does it for an ordinary user)."""
    code = """
import subprocess
from locum.addresses.announce import Announcer
from locum.addresses.clean import remove_public
from locum.addresses.gate import Gate
from locum.addresses.kernel import AddressTable
for command in ('set lo up', 'add v0 type veth peer name v1', 'set v0 up', 'set v1 up'):
    subprocess.run(['ip', 'link', *command.split()], check=True)
gate, table = Gate(), AddressTable()
gate.install(['10.0.0.1', 'fd00::1'], ['v0'])
for address, bits in (('10.0.0.1', 24), ('fd00::1', 64)):
    table.add(address, bits, 'v0', 5)
assert table.check_promote_secondaries('v0')
assert not Announcer().announce('v0', '10.0.0.1', 'fd00::1')
gate.allow(['10.0.0.1', 'fd00::1'])
assert gate.confirm(gate.arm(0, 2))
assert gate.verify() == () and gate.state().open_for > 0 and gate.state().egress == ('v0',)
assert Announcer().announce('v0', '10.0.0.1', 'fd00::1')
assert len(remove_public(['10.0.0.1', 'fd00::1'])) == 2
gate.remove()
print('fine')
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", code],
        capture_output=True, text=True, check=False, cwd=tmp_path_factory.mktemp("userns"),
    )  # fmt: skip
    assert done.stdout == "fine\n", done.stderr


Condition = Callable[[], bool]
