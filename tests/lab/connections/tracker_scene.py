"""Two trackers on two nodes with one store, whose failures the tests choose."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from locum.connections.destroy import Destroyer
from locum.connections.sockets import Connection
from locum.connections.tickle_store import TickleStore
from locum.connections.tracker import ConnectionTracker, TrackerSettings
from locum.errors import StoreUnavailable
from locum.machine.netlink.core import NetlinkSocket
from locum.machine.netlink.inet_diag import Found
from locum.store.base import CommitResult, Condition, Delete, Operation, Put, Snapshot
from locum.store.memory import MemoryStore
from tests.lab.connections.scene import (
    P4,
    P6,
    PORT,
    Stage,
    Talk,
    stage_fixture,  # noqa: F401
)
from tests.lab.namespaces import Namespace

BOTH = pytest.mark.parametrize("address", [P4, P6])
OTHER_PORT = 4460


def without_destroy(_netlink: NetlinkSocket, found: Sequence[Found]) -> list[int]:
    """A kernel built without CONFIG_INET_DIAG_DESTROY."""
    return [errno.EOPNOTSUPP] * len(found)


class Unsteady(MemoryStore):
    """A store that can be out of reach, and counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.out_of_reach = False
        self.commits = 0
        self.bulk_reads = 0

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        if self.out_of_reach:
            raise StoreUnavailable("nobody answers")
        self.commits += any(".bulk/" in operation.key for operation in operations)
        return await super().commit(conditions, operations)

    async def read(self, prefix: str) -> Snapshot:
        if self.out_of_reach:
            raise StoreUnavailable("nobody answers")
        return await super().read(prefix)


class Node:
    """A tracker in its namespace, and what the daemon does around it."""

    def __init__(self, stage: Stage, name: str, namespace: Namespace, store: Unsteady, **options: object) -> None:
        self.stage, self.name, self.namespace, self.store = stage, name, namespace, store
        self.claims: dict[str, int] = {}
        self.said: list[str] = []
        self.settings = TrackerSettings(ports=frozenset({PORT}), interval=0.1, tickle_count=4, tickle_interval=0.2)
        with namespace.entered():
            destroyer = Destroyer(without_destroy) if options.get("cannot_destroy") else Destroyer()
            self.tracker = ConnectionTracker(
                TickleStore(store, "c"),
                claim=lambda address: self.claims.get(address, 0),
                settings=lambda: self.settings,
                log=lambda text, level: self.said.append(f"{level}: {text}"),
                destroyer=destroyer,
            )
            self.tracker.start()

    async def claim(self, address: str) -> None:
        result = await self.store.commit([], [Put(f"c/claim/{address}", self.name.encode())])
        self.claims[address] = result.revision

    async def take(self, address: str, *, configure: bool = True) -> None:
        await self.claim(address)
        await self.tracker.taking(address)
        if configure:
            self.stage.configure(self.namespace, address)
            self.stage.announce(self.namespace, address)
        self.tracker.taken(address, "eth0")

    async def release(self, address: str) -> int:
        await self.tracker.releasing(address)
        # The gate's work in this test: nothing comes in, nothing goes out.
        family = "ip6" if ":" in address else "ip"
        hook = "type filter hook {} priority 0;"
        self.namespace.run(
            "nft",
            "-f",
            "-",
            stdin=f"""table {family} mute {{
                chain i {{ {hook.format("prerouting")} {family} daddr {address} drop; }}
                chain o {{ {hook.format("output")} {family} saddr {address} drop; }}
            }}""",
        )
        ended = await self.tracker.released(address)
        self.namespace.run("ip", "addr", "del", f"{address}/{64 if ':' in address else 24}", "dev", "eth0")
        self.namespace.run("nft", "delete", "table", family, "mute")
        await self.store.commit([], [Delete(f"c/claim/{address}")])
        del self.claims[address]
        return ended

    async def listed(self, address: str) -> set[bytes]:
        return (await self.tracker.lists.read(address)).entries()


def entries(*talks: Talk, port: int = PORT) -> set[bytes]:
    remote = "fd78::9" if ":" in talks[0].address else "10.78.0.9"
    return {Connection(talk.address, port, remote, talk.client_port).entry for talk in talks}


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    limit = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < limit, f"waited for: {what}"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def nodes(stage: Stage, **old_options: object) -> AsyncIterator[tuple[Node, Node, Unsteady]]:
    store = Unsteady()
    old, new = Node(stage, "old", stage.old, store, **old_options), Node(stage, "new", stage.new, store)
    for node in (old, new):
        await node.tracker.known.wait()
    try:
        yield old, new, store
    finally:
        await old.tracker.close()
        await new.tracker.close()


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    asyncio.run(main())
