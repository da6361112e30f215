"""10.interface with real interfaces, addresses and packets, run by an engine inside a network namespace."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import locum
from locum.events import runner_client
from locum.events.engine import EventEngine
from locum.events.model import Event, EventResult
from locum.threads import Worker
from tests.lab.namespaces import Namespace

pytestmark = pytest.mark.lab

SCRIPT = Path(locum.__file__).parent / "scripts" / "10.interface"


class Node:
    """A namespace with two interfaces, their other ends in a namespace of their own, and an engine's directories."""

    def __init__(self, place: Path, space: Namespace, wire: Namespace) -> None:
        self.place = place
        self.space = space
        self.wire = wire
        self.events = place / "events"
        self.events.mkdir(mode=0o755)
        shutil.copy(SCRIPT, self.events / SCRIPT.name)
        (self.events / SCRIPT.name).chmod(0o755)

    def run(
        self, event: Event, *arguments: str, environment: dict[str, str] | None = None, **settings: object
    ) -> EventResult:
        """Run one event; the engine, its runner and its scripts are inside the namespace."""

        async def go() -> EventResult:
            engine = EventEngine(
                self.events,
                runtime=self.place / "runtime",
                state=self.place / "state",
                settings={"10.interface": settings},
                environment={"LOCUM_INTERFACES": "eth0,eth1"},
            )
            await engine.start()
            try:
                return await engine.run(event, arguments, environment=lambda: environment or {})
            finally:
                await engine.stop()

        with self.space.entered():
            # The thread that starts runners stays in the namespace where it began.
            runner_client._spawner = Worker("spawner", threads=2, room=2)
            return asyncio.run(go())


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    space, wire = Namespace("node"), Namespace("wire")
    try:
        for name in ("eth0", "eth1"):
            space.run("ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", wire.name)
            space.run("ip", "link", "set", name, "up")
            wire.run("ip", "link", "set", name, "up")
        yield Node(tmp_path, space, wire)
    finally:
        space.delete()
        wire.delete()


def failure(result: EventResult) -> str:
    assert result.failure is not None
    return result.failure.output


@pytest.mark.parametrize(("address", "bits"), [("192.0.2.7", 24), ("2001:db8::7", 64)])
def test_taking_moving_and_releasing_an_address(node: Node, address: str, bits: int) -> None:
    assert node.run(Event.TAKEIP, "eth0", address, str(bits)).ok
    (found,) = [entry for entry in node.space.addresses().values() if entry["local"] == address]
    assert (found["ifname"], found["prefixlen"]) == ("eth0", bits)
    assert "dynamic" not in found, "without a lifetime it stays"
    assert node.run(Event.TAKEIP, "eth0", address, str(bits)).ok, "it may be there already"

    assert node.run(Event.UPDATEIP, "eth0", "eth1", address, str(bits)).ok
    assert [entry["ifname"] for entry in node.space.addresses().values()] == ["eth1"]

    assert node.run(Event.RELEASEIP, "eth1", address, str(bits)).ok
    assert node.space.addresses() == {}
    result = node.run(Event.RELEASEIP, "eth1", address, str(bits))
    assert result.ok
    assert result.scripts[0].output == f"{address} was not on eth1\n"


def test_releasing_a_primary_leaves_its_secondaries(node: Node) -> None:
    for last in (1, 2, 3):
        assert node.run(Event.TAKEIP, "eth0", f"192.0.2.{last}", "24").ok
    assert node.run(Event.RELEASEIP, "eth0", "192.0.2.1", "24").ok
    assert sorted(node.space.addresses()) == ["192.0.2.2", "192.0.2.3"]


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_the_daemons_lifetime_is_the_addresss(node: Node, address: str) -> None:
    deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + 60
    environment = {"LOCUM_LIFETIME": "30", "LOCUM_DEADLINE": f"{deadline:.9f}"}
    assert node.run(Event.TAKEIP, "eth0", address, "24", environment=environment).ok
    left = node.space.addresses()[address]["valid_life_time"]
    assert 0 < left <= 30


def test_i1_nothing_is_added_after_the_deadline(node: Node) -> None:
    deadline = time.clock_gettime(time.CLOCK_BOOTTIME) - 0.001
    result = node.run(Event.TAKEIP, "eth0", "192.0.2.7", "24", environment={"LOCUM_DEADLINE": f"{deadline:.9f}"})
    assert failure(result) == "the node's hold has ended: no address may be added\n"
    assert node.space.addresses() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eth9", "192.0.2.7", "24"), "eth9"),
        (("eth0", "192.0.2.777", "24"), "192.0.2.777"),
        (("eth0", "192.0.2.7", "many"), "'many' is not a prefix length"),
    ],
)
def test_what_cannot_be_done_is_one_clear_message(node: Node, arguments: tuple[str, ...], message: str) -> None:
    said = failure(node.run(Event.TAKEIP, *arguments))
    assert message in said
    assert "Traceback" not in said


def test_moving_leaves_connections_whole(node: Node) -> None:
    """updateip adds before it removes: what is sent meanwhile on this node finds the address."""
    assert node.run(Event.TAKEIP, "eth0", "192.0.2.7", "24").ok
    stop = threading.Event()
    missing = []

    def look() -> None:
        with node.space.entered():
            while not stop.is_set():
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    try:
                        probe.bind(("192.0.2.7", 0))
                    except OSError as error:
                        missing.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        assert node.run(Event.UPDATEIP, "eth0", "eth1", "192.0.2.7", "24").ok
    finally:
        stop.set()
        thread.join()
    assert missing == []


def test_it_is_announced(node: Node) -> None:
    with node.wire.entered():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    with listener:
        listener.bind(("eth0", 0x0806))
        listener.settimeout(20)
        assert node.run(Event.TAKEIP, "eth0", "192.0.2.7", "24").ok
        frame = listener.recv(2048)
    assert frame[:6] == b"\xff" * 6
    assert frame[28:32] == socket.inet_aton("192.0.2.7"), "sender"
    assert frame[38:42] == socket.inet_aton("192.0.2.7"), "and target: gratuitous"


def test_monitor_looks_at_links(node: Node) -> None:
    assert node.run(Event.MONITOR).ok
    node.wire.run("ip", "link", "set", "eth1", "down")
    one = node.run(Event.MONITOR)
    assert one.ok, "with one link left the node is of use"
    assert one.scripts[0].output == "no link on eth1\n"
    assert failure(node.run(Event.MONITOR, ignore=["eth0"])) == "no link on eth1\n"
    node.space.run("ip", "link", "del", "eth0")
    assert failure(node.run(Event.MONITOR)) == "there is no interface eth0; no link on eth1\n"
    assert node.run(Event.MONITOR, ignore=["eth0", "eth1"]).ok
    node.wire.run("ip", "link", "set", "eth1", "up")
    assert node.run(Event.MONITOR).ok
