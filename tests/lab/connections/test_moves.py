"""Real daemons, real TCP clients: what a client sees of each way in which an address changes its node.

Every node runs the same TCP server; a client has one connection to each address and waits in ``recv``.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from locum.connections.plain_tcp import TABLE
from locum_lab import namespaces, processes
from locum_lab.lab import Lab, down
from locum_lab.layout import Layout
from tests.lab.clusters import address_report, locum, locum_json, wait_state
from tests.lab.conftest import MakeLab
from tests.lab.connections.scene import BlockedReader
from tests.lab.namespaces import wait_for

pytestmark = pytest.mark.lab

PORT = 4450

#: Nobody has ever declared this one.
ODD_PORT = 33333

#: Accepts for ever and keeps every connection; says one byte on each, so that the client knows that it is there.
SERVER = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
kept = []
print("up", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b".")
    kept.append(connection)
"""


@dataclass
class Scene:
    lab: Lab
    servers: list[subprocess.Popen[str]]
    clients: list[socket.socket]

    @property
    def addresses(self) -> list[str]:
        return [public.address for public in self.lab.layout.public_addresses]

    def holder(self, address: str) -> str:
        report = address_report(self.lab, address)
        assert report is not None
        assert report.node is not None
        return report.node

    def start_server(self, node: str, port: int = PORT, program: str = SERVER) -> None:
        command = self.lab.command(node, [sys.executable, "-S", "-c", program, str(port)])
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"

    def connect(self, address: str, port: int = PORT, protocol: int = 0) -> socket.socket:
        def make() -> socket.socket:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made = socket.socket(family, socket.SOCK_STREAM, protocol)
            made.settimeout(20)
            made.connect((address, port))
            return made

        made = namespaces.inside(self.lab.layout.namespace("client"), make)
        assert made.recv(1) == b"."
        made.settimeout(None)
        self.clients.append(made)
        return made

    def survivors(self, node: str, address: str) -> list[str]:
        """Sockets of the kernel of ``node`` with that local address, as ``ss`` sees them."""
        wanted = f"[{address}]" if ":" in address else address
        mapped = [] if ":" in address else ["or", "src", f"[::ffff:{address}]"]
        done = self.lab.run(node, ["ss", "-Htan", "src", wanted, *mapped])
        assert done.returncode == 0, done.stderr
        return [line for line in done.stdout.splitlines() if "LISTEN" not in line]

    def registered(self, address: str, asked: str | None = None) -> int:
        node = asked or self.holder(address)
        (report,) = json.loads(locum(self.lab, node, "connections", "list", address, "--json"))
        count = report["count"]
        assert isinstance(count, int)
        return count

    def wait_registered(self, address: str, count: int = 1) -> float:
        started = time.monotonic()
        self.lab.wait_for(
            f"{count} connections to {address} to be registered", lambda: self.registered(address) == count
        )
        return time.monotonic() - started

    def move(self, address: str) -> tuple[str, str]:
        old = self.holder(address)
        new = next(name for name in self.lab.layout.node_names if name != old)
        locum(self.lab, new, "ip", "move", address, new)
        return old, new


@pytest.fixture(name="scene")
def scene_fixture(make_lab: MakeLab) -> Iterator[Scene]:
    lab = make_lab(
        nodes=3, addresses=4, hold=1.0, services=(), settings=f"[connections]\nports = [{PORT}, {MPTCP_PORT}]\n"
    )
    scene = Scene(lab, [], [])
    try:
        for node in lab.layout.node_names:
            scene.start_server(node)
        lab.wait_served()
        yield scene
    finally:
        for client in scene.clients:
            client.close()
        for server in scene.servers:
            server.kill()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()


#: As SERVER, but it listens with Multipath TCP, as servers written in Go do by default.
MPTCP_SERVER = """
import socket, sys
listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 262)
listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", int(sys.argv[1])))
listener.listen(256)
kept = []
print("up", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b".")
    kept.append(connection)
"""
MPTCP_PORT = 4455
MPTCP = 262  # IPPROTO_MPTCP


def families(scene: Scene) -> list[str]:
    """An IPv4 and an IPv6 address."""
    four = next(a for a in scene.addresses if ":" not in a)
    six = next(a for a in scene.addresses if ":" in a)
    return [four, six]


def test_a_planned_move_leaves_nothing_behind_and_tells_the_client_at_once(scene: Scene) -> None:
    for address in families(scene):
        reader = BlockedReader(scene.connect(address))
        asked = time.monotonic()
        old, new = scene.move(address)
        assert reader.wait(20)
        assert isinstance(reader.error, ConnectionResetError)
        assert reader.woken_at is not None
        print(f"{address}: client reset {1000 * (reader.woken_at - asked):.0f} ms after the command was given")
        assert scene.survivors(old, address) == []
        assert scene.holder(address) == new
        # And back: the old node has no memory of the first connection.
        again = BlockedReader(scene.connect(address))
        locum(scene.lab, old, "ip", "move", address, old)
        assert again.wait(20)
        assert isinstance(again.error, ConnectionResetError)
        assert scene.survivors(new, address) == []


def test_no_connection_survives_whatever_its_port(scene: Scene) -> None:
    for node in scene.lab.layout.node_names:
        scene.start_server(node, ODD_PORT)
    for address in families(scene):
        reader = BlockedReader(scene.connect(address, ODD_PORT))
        assert scene.survivors(scene.holder(address), address)
        old, _ = scene.move(address)
        assert scene.survivors(old, address) == []
        assert reader.wait(20), "in a planned move everybody is told, whatever the port"
        assert isinstance(reader.error, ConnectionResetError)
    # When the hold is lost there is nobody to make a list, but nothing lives on either.
    address = families(scene)[0]
    victim = scene.holder(address)
    scene.connect(address, ODD_PORT)
    assert scene.survivors(victim, address)
    scene.lab.fault(victim, "cut-private")
    wait_for(lambda: scene.survivors(victim, address) == [], f"{victim} to have let go")


def test_clients_of_a_host_that_is_cut_off_are_told_when_another_has_the_address(scene: Scene) -> None:
    victim = scene.holder(families(scene)[0])
    held = [a for a in scene.addresses if scene.holder(a) == victim]
    readers = {address: BlockedReader(scene.connect(address)) for address in held}
    for address in held:
        took = scene.wait_registered(address)
        print(f"{address}: registered after {took:.1f} s")
    scene.lab.fault(victim, "cut")
    cut = time.monotonic()
    for address, reader in readers.items():
        assert reader.wait(30), address
        assert isinstance(reader.error, ConnectionResetError)
        assert reader.woken_at is not None
        print(f"{address}: client reset {reader.woken_at - cut:.2f} s after the cut (hold 1 s)")
        assert scene.connect(address)
    # The one that was cut off has noticed itself, and keeps no connection either.
    for address in held:
        wait_for(partial(lambda where: not scene.survivors(victim, where), address), f"{victim} to have let go")


@pytest.mark.parametrize("kind", ["kill-all", "freeze"])
def test_a_node_whose_processes_are_gone_or_frozen_keeps_no_connection_afterwards(scene: Scene, kind: str) -> None:
    address = families(scene)[0]
    victim = scene.holder(address)
    reader = BlockedReader(scene.connect(address))
    scene.wait_registered(address)
    scene.lab.fault(victim, kind)
    assert reader.wait(30)
    assert isinstance(reader.error, ConnectionResetError)
    other = next(name for name in scene.lab.layout.node_names if name != victim)
    fresh = scene.connect(address)
    scene.lab.heal(victim)
    wait_state(scene.lab, victim, "OK")
    scene.lab.wait_served()  # the address may be on its way home
    assert scene.survivors(victim, address) == [] or scene.holder(address) == victim
    if scene.holder(address) == victim:
        # It came home with the node: no connection of before is there.
        assert len(scene.survivors(victim, address)) == 0
    else:
        # It takes over nothing for the length of a hold after it has joined.
        command = [sys.executable, "-m", "locum.cli.main", "ip", "move", address, victim]
        scene.lab.wait_for("a move back", lambda: scene.lab.run(other, command).returncode == 0)
        assert BlockedReader(fresh).wait(20)


def test_a_killed_agent_interrupts_no_connection(scene: Scene) -> None:
    address = families(scene)[0]
    victim = scene.holder(address)
    client = scene.connect(address)
    scene.wait_registered(address)
    before = scene.lab.agent(victim)
    scene.lab.fault(victim, "kill-agent")

    def answers_again() -> bool:
        now = scene.lab.agent(victim)
        return now is not None and now != before and scene.registered(address, victim) == 1

    scene.lab.wait_for("the new agent to go on with the list", lambda: _quietly(answers_again))
    client.sendall(b"!")
    assert len(scene.survivors(victim, address)) == 1
    reader = BlockedReader(client)
    assert not reader.wait(1.5)
    # And the list is of use.
    scene.move(address)
    assert reader.wait(20)
    assert isinstance(reader.error, ConnectionResetError)


def _quietly(condition) -> bool:  # type: ignore[no-untyped-def]
    try:
        return bool(condition())
    except AssertionError:
        return False


def test_commands(scene: Scene) -> None:
    four, six = families(scene)
    connections = {address: scene.connect(address) for address in (four, six)}
    for address in (four, six):
        scene.wait_registered(address)
    somewhere = next(name for name in scene.lab.layout.node_names if name != scene.holder(four))
    shown = locum(scene.lab, somewhere, "connections", "list", four)
    port = connections[four].getsockname()[1]
    assert f":{port} " in shown
    totals = {report["address"]: report["count"] for report in _totals(scene, somewhere)}
    assert totals[four] == totals[six] == 1
    # From anywhere, in both families, by arguments and by standard input.
    locum(scene.lab, somewhere, "connections", "add", "10.77.0.250:1023", f"{four}:2049")
    pairs = f"[fd77::250]:1023 [{six}]:2049\n\n[fd77::250]:1022 [{six}]:2049\n"
    done = scene.lab.run(somewhere, [sys.executable, "-m", "locum.cli.main", "connections", "add"], text=pairs)
    assert done.stdout == "added 2 connections\n", done.stderr
    assert scene.registered(four) == 2
    assert scene.registered(six) == 3
    locum(scene.lab, scene.holder(six), "connections", "delete", "[fd77::250]:1022", f"[{six}]:2049")
    assert scene.registered(six, somewhere) == 2
    # What only the holder can do is refused elsewhere, with its name.
    for command in ("tickle", "kill"):
        complaint = locum(scene.lab, somewhere, "connections", command, four, status=2)
        assert f"run the command on {scene.holder(four)}, which serves it" in complaint
    assert "tickled 2 clients" in locum(scene.lab, scene.holder(four), "connections", "tickle", four)
    reader = BlockedReader(connections[four])
    assert not reader.wait(0.1)
    assert "ended 0" in locum(scene.lab, scene.holder(four), "connections", "kill", four, "--port", "9")
    assert "ended 1" in locum(scene.lab, scene.holder(four), "connections", "kill", four)
    assert reader.wait(20)
    assert isinstance(reader.error, ConnectionResetError)


def test_an_event_script_adds_and_deletes_by_command(scene: Scene) -> None:
    address = families(scene)[1]
    node = scene.holder(address)
    for command, count in (("add", 1), ("delete", 0)):
        locum_command = f"{sys.executable} -m locum.cli.main connections {command}"
        script = f"#!/bin/sh\n[ $1 != monitor ] || exec {locum_command} '[fd77::250]:1023' '[{address}]:2049'\n"
        scene.lab.write_script(node, "45.adds", script)
        scene.lab.check_services(node)
        assert scene.registered(address) == count


def _totals(scene: Scene, node: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(locum(scene.lab, node, "connections", "list", "--json"))
    return found


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["list", "192.0.2.77"], "192.0.2.77 is not a public address of this cluster"),
        (["list", "nonsense"], "'nonsense' is not an IP address"),
        (["add", "10.0.0.1", "10.0.0.2:5"], "'10.0.0.1' is not ADDRESS:PORT"),
        (["add", "10.0.0.1:0", "10.0.0.2:5"], "'10.0.0.1:0' is not ADDRESS:PORT"),
        (["add", "10.0.0.1:5", "10.0.0.2:5"], "10.0.0.2 is not a public address"),
        (["add", "10.77.0.2:5", "10.0.0.2:5"], "the client comes first"),
        (["add", "[fd77::9]:5", "10.77.0.2:5"], "one is IPv4, the other IPv6"),
        (["add", "10.0.0.1:5"], "a connection needs both endpoints"),
        (["kill", "10.77.0.2", "--port", "0"], "'0' is not a port from 1 to 65535"),
    ],
)
def test_wrong_requests_are_refused_with_the_reason(wrong: Lab, arguments: list[str], complaint: str) -> None:
    assert complaint in locum(wrong, "n1", "connections", *arguments, status=2)


@pytest.fixture(name="wrong", scope="module")
def wrong_fixture() -> Iterator[Lab]:
    name = f"t{os.getpid()}-conn"
    try:
        lab = Lab.up(Layout(name=name, nodes=1, addresses=2, hold=2.0), services=(), owner=processes.find(os.getpid()))
        lab.wait_served()
        yield lab
    finally:
        down(name)


def test_the_json_is_as_documented(scene: Scene) -> None:
    address = families(scene)[0]
    client = scene.connect(address)
    scene.wait_registered(address)
    holder = scene.holder(address)
    (report,) = json.loads(locum(scene.lab, holder, "connections", "list", address, "--json"))
    name = client.getsockname()
    assert report == {
        "address": address,
        "node": holder,
        "count": 1,
        "ports": {str(PORT): 1},
        "connections": [{"client": f"{name[0]}:{name[1]}", "port": PORT, "added": False}],
    }
    assert locum_json(scene.lab, holder, "connections", "tickle", address)["count"] == 1


def multipath(lab: Lab, node: str) -> list[str]:
    """The connections of a node that use Multipath TCP, as ``ss`` sees them."""
    done = lab.run(node, ["ss", "-HMtan", "state", "established"])
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if f":{MPTCP_PORT}" in line and "mptcp" in line.split()[0]]


@pytest.mark.skipif(not os.path.exists("/proc/sys/net/mptcp/enabled"), reason="this kernel has no Multipath TCP")
def test_a_client_that_speaks_multipath_tcp_is_told_of_a_move_like_any_other(scene: Scene) -> None:
    """Its connection would outlive all of its paths, for a minute."""
    lab = scene.lab
    for node in lab.layout.node_names:
        scene.start_server(node, MPTCP_PORT, MPTCP_SERVER)
    four, six = families(scene)
    for address in (four, six):
        reader = BlockedReader(scene.connect(address, MPTCP_PORT, MPTCP))
        old, _ = scene.move(address)
        assert reader.wait(30.0), "60 s is the kernel's own limit"
        assert isinstance(reader.error, ConnectionResetError)
        assert scene.survivors(old, address) == []
        assert multipath(lab, old) == []
    # A firewall that is loaded anew takes all tables away.
    lab.run(scene.holder(four), ["nft", "delete", "table", "inet", TABLE]).check_returncode()
    lab.wait_for(
        "the table to be there again",
        lambda: lab.run(scene.holder(four), ["nft", "list", "table", "inet", TABLE]).returncode == 0,
    )
    # A host that is cut off.
    client = scene.connect(four, MPTCP_PORT, MPTCP)
    endpoint = "{}:{}".format(*client.getsockname())
    lab.wait_for(
        "the connection to be on the list",
        lambda: endpoint in locum(lab, scene.holder(four), "connections", "list", four),
    )
    reader = BlockedReader(client)
    lab.fault(scene.holder(four), "cut")
    assert reader.wait(30.0)
    assert isinstance(reader.error, ConnectionResetError)


def test_multipath_tcp_can_be_allowed_and_kept_away_again_by_a_reload(scene: Scene) -> None:
    lab = scene.lab

    def there() -> bool:
        return lab.run("n1", ["nft", "list", "table", "inet", TABLE]).returncode == 0

    lab.wait_for("the table", there)
    config = lab.node_directory("n1") / "config.toml"
    text = config.read_text()
    config.write_text(text.replace("[connections]\n", "[connections]\nmptcp = true\n"))
    assert "settings of connections changed" in locum(lab, "n1", "reload")
    lab.wait_for("the table to go", lambda: not there())
    config.write_text(text)
    locum(lab, "n1", "reload")
    lab.wait_for("the table to come back", there)
    locum(lab, "n1", "shutdown")
    assert not there()
