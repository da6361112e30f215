"""Requests about connections: what is checked, what is answered, what is left to the node that has the address."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, cast

import pytest

from locum.connections.connection_report import parse_endpoint
from locum.connections.destroy import Progress
from locum.connections.operations import ConnectionOperations
from locum.connections.sockets import Connection
from locum.connections.tickle_list import pack
from locum.connections.tickle_store import TickleStore, Write
from locum.connections.tracker import ConnectionTracker
from locum.errors import UsageError
from locum.store.base import Put
from locum.store.memory import MemoryStore

FOUR, SIX, ELSEWHERE = "10.0.0.1", "fd00::1", "10.0.0.2"


def entry(address: str, client: str, client_port: int, port: int = 445) -> bytes:
    return Connection(address, port, client, client_port).entry


class StubRecorder:
    def __init__(self) -> None:
        self.here: dict[str, set[bytes]] = {}

    async def live(self, address: str) -> set[bytes] | None:
        return self.here.get(address)


class StubTracker:
    """The tracker of a node that has FOUR; writes down what it is asked to do."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.lists = TickleStore(self.store, "c")
        self.recorder = StubRecorder()
        self.asked: list[object] = []

    def holds(self, address: str) -> bool:
        return address == FOUR

    async def registered(self, address: str) -> tuple[set[bytes], set[bytes]]:
        listed = await self.lists.read(address)
        return set().union(*listed.buckets.values()), set(listed.added)

    async def tickle(self, address: str) -> int:
        self.asked.append(("tickle", address))
        return 3

    async def kill(self, address: str, ports: Collection[int] | None) -> Progress:
        self.asked.append(("kill", address, ports))
        return Progress(7)


class Scene:
    def __init__(self) -> None:
        self.tracker = StubTracker()
        self.holders = {FOUR: "n1", ELSEWHERE: "n2"}
        self.operations = ConnectionOperations(
            cast(ConnectionTracker, self.tracker), public=lambda: {FOUR, SIX, ELSEWHERE}, holder=self.holders.get
        )

    async def ask(self, name: str, **message: object) -> Any:
        return await self.operations.table()[f"connections-{name}"](message)

    async def register(self, address: str, *entries: bytes) -> None:
        claim = await self.tracker.store.commit([], [Put(f"c/claim/{address}", b"")])
        await self.tracker.lists.write([Write(address, claim.revision, ((0, pack(entries)),))], lambda _a, _n: None)


def test_totals_of_all_addresses() -> None:
    async def story() -> None:
        scene = Scene()
        await scene.register(ELSEWHERE, entry(ELSEWHERE, "10.9.9.9", 1, 445), entry(ELSEWHERE, "10.9.9.9", 2, 2049))
        await scene.tracker.lists.change_added(ELSEWHERE, [entry(ELSEWHERE, "10.9.9.9", 2, 2049)], ())
        await scene.tracker.lists.change_added(SIX, [entry(SIX, "fd00::9", 3, 2049)], ())
        # What is here is known better than the store says.
        await scene.register(FOUR, entry(FOUR, "10.9.9.9", 1))
        scene.tracker.recorder.here[FOUR] = {entry(FOUR, "10.9.9.9", n) for n in (5, 6, 7)}
        reports = await scene.ask("list")
        assert [(r.address, r.node, r.count, r.ports) for r in reports] == [
            (FOUR, "n1", 3, {"445": 3}),
            (ELSEWHERE, "n2", 2, {"445": 1, "2049": 1}),
            (SIX, None, 1, {"2049": 1}),
        ]
        assert all(r.connections == () for r in reports)

    asyncio.run(story())


def test_connections_of_one_address() -> None:
    async def story() -> None:
        scene = Scene()
        await scene.register(SIX, entry(SIX, "fd00::9", 1023))
        await scene.tracker.lists.change_added(SIX, [entry(SIX, "fd00::8", 5, 2049)], ())
        (report,) = await scene.ask("list", address="FD00:0::1")
        assert report.address == SIX
        assert [(c.client, c.port, c.added) for c in report.connections] == [
            ("[fd00::8]:5", 2049, True),
            ("[fd00::9]:1023", 445, False),
        ]

    asyncio.run(story())


def test_what_the_holder_does() -> None:
    async def story() -> None:
        scene = Scene()
        assert (await scene.ask("tickle", address=FOUR)).message == f"tickled 3 clients of {FOUR}"
        assert (await scene.ask("kill", address=FOUR, ports=[445, 139])).count == 7
        await scene.ask("kill", address=FOUR, ports=None)
        assert scene.tracker.asked == [
            ("tickle", FOUR),
            ("kill", FOUR, frozenset({445, 139})),
            ("kill", FOUR, None),
        ]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("name", "message", "complaint"),
    [
        ("tickle", {"address": ELSEWHERE}, f"{ELSEWHERE} is not on this node; run the command on n2, which serves it"),
        ("kill", {"address": SIX}, f"{SIX} is not on this node; no node serves it"),
        ("kill", {"address": FOUR, "ports": ["445"]}, "ports are numbers from 1 to 65535"),
        ("kill", {"address": FOUR, "ports": [0]}, "ports are numbers from 1 to 65535"),
        ("kill", {}, "'None' is not an IP address"),
        ("list", {"address": "10.0.0.99"}, "10.0.0.99 is not a public address of this cluster; 'locum ip' lists them"),
        ("add", {}, "no connections were given"),
        ("add", {"pairs": []}, "no connections were given"),
        ("add", {"pairs": [["a"]]}, "a connection is a pair of endpoints"),
        ("add", {"pairs": ["ab"]}, "a connection is a pair of endpoints"),
        ("delete", {"pairs": [["10.9.9.9:1", "10.0.0.99:2"]]}, "10.0.0.99 is not a public address of this cluster"),
        ("add", {"pairs": [[f"{FOUR}:1", "10.9.9.9:2"]]}, "the client comes first, then the public address"),
        ("add", {"pairs": [["[fd00::9]:1", f"{FOUR}:2"]]}, "one is IPv4, the other IPv6"),
    ],
)
def test_what_cannot_be_done_is_refused(name: str, message: dict[str, object], complaint: str) -> None:
    async def story() -> None:
        scene = Scene()
        with pytest.raises(UsageError) as caught:
            await scene.ask(name, **message)
        assert complaint.removeprefix("'None'") in str(caught.value)
        assert scene.tracker.asked == []

    asyncio.run(story())


def test_one_wrong_pair_leaves_all_as_they_were() -> None:
    async def story() -> None:
        scene = Scene()
        with pytest.raises(UsageError):
            await scene.ask("add", pairs=[["10.9.9.9:1", f"{FOUR}:445"], ["10.9.9.9", f"{FOUR}:445"]])
        assert (await scene.tracker.lists.read(FOUR)).entries() == set()

    asyncio.run(story())


def test_adding_and_deleting() -> None:
    async def story() -> None:
        scene = Scene()
        pairs = [["10.9.9.9:1", f"{FOUR}:445"], ["[fd00::9]:1", f"[{SIX}]:445"], ["10.9.9.9:1", f"{FOUR}:445"]]
        assert (await scene.ask("add", pairs=pairs)).count == 2
        assert (await scene.ask("add", pairs=pairs)).count == 0
        assert (await scene.ask("delete", pairs=pairs[:1])).count == 1
        assert (await scene.tracker.lists.read(SIX)).added == {entry(SIX, "fd00::9", 1)}
        assert (await scene.tracker.lists.read(FOUR)).added == frozenset()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1:445", ("192.0.2.1", 445)),
        ("[2001:DB8::0001]:65535", ("2001:db8::1", 65535)),
        ("[::ffff:192.0.2.1]:1", ("192.0.2.1", 1)),
    ],
)
def test_endpoints(text: str, expected: tuple[str, int]) -> None:
    assert parse_endpoint(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:x", "1.2.3.4:-1", "1.2.3.4:٣"),
        *("host:1", "::1:445", "[1.2.3.4]:5", "[::1]", "[::1%eth0]:5", "[::1:5", "1.2.3.4:99999999999999999999"),
    ],
)
def test_what_is_no_endpoint_is_named(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_endpoint(text)
    assert repr(text) in str(caught.value)
