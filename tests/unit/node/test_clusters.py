"""The search of the store for other clusters: what it reads, and what it says while it waits."""

from __future__ import annotations

import asyncio

from locum.errors import StoreUnavailable
from locum.node.clusters import ClusterSearch
from locum.rules import schema
from locum.rules.schema import BeatRecord, HostedAddress, MemberRecord, NodeRecord
from locum.store.base import Put, Snapshot
from locum.store.memory import MemoryStore

ADDRESS = "10.0.0.1"


class Watched(MemoryStore):
    """Counts what is read; ``refused``: reads fail; ``hangs``: they have no answer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.refused = False
        self.hangs = False

    async def read(self, prefix: str) -> Snapshot:
        if self.hangs:
            await asyncio.Event().wait()
        if self.refused:
            raise StoreUnavailable("permission denied")
        snapshot = await super().read(prefix)
        self.seen |= {entry.key for entry in snapshot.entries}
        return snapshot

    async def put(self, key: str, value: bytes) -> None:
        await self.commit((), (Put(key, value),))

    async def node(self, cluster: str, name: str, hold: float) -> None:
        hosted = (HostedAddress(ADDRESS, 24, ("eth1",)),)
        await self.put(f"{cluster}/node/{name}", schema.encode(NodeRecord(1, "", hosted)))
        await self.put(f"{cluster}/member/{name}", schema.encode(MemberRecord(f"of-{name}", hold, 0.0)))
        await self.put(f"{cluster}/beat/{name}", schema.encode(BeatRecord(f"of-{name}", 1)))

    async def bulk(self) -> None:
        for number in range(50):
            await self.put(f"other.bulk/connections/{number}", b"[]")
            await self.put(f"other/claim/10.0.1.{number}", b"{}")
        await self.put("gone/node/n1", b"{}")


def search_in(store: MemoryStore, log: list[str] | None = None) -> ClusterSearch:
    said = [] if log is None else log
    return ClusterSearch(store, "mine", "n9", ["allowed"], lambda text, _: said.append(text))


def test_only_what_tells_who_lives_is_read() -> None:
    async def scene() -> None:
        store = Watched()
        await store.bulk()
        await store.node("allowed", "n1", 60.0)
        await store.node("other", "n1", 0.3)
        assert await search_in(store).search([ADDRESS], 5.0, lambda _: None) == ("", frozenset())
        assert store.seen == {"other/member/n1", "other/node/n1", "other/beat/n1"}
        assert (await store.read("other/member/")).entries == (), "silent for its hold: expired"

    asyncio.run(scene())


def test_a_search_that_waits_for_another_cluster_says_so_until_that_lives() -> None:
    async def scene() -> None:
        store, waits, log = Watched(), list[str](), list[str]()
        await store.node("other", "n1", 60.0)
        searching = asyncio.create_task(search_in(store, log).search([ADDRESS], 5.0, waits.append))
        async with asyncio.timeout(30):
            while len(waits) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert len(set(waits)) == 1
            assert log == waits[:1], "once in the log"
            for part in ("'other'", "n1", "60.0 s"):
                assert part in waits[0]
            await store.put("other/beat/n1", schema.encode(BeatRecord("of-n1", 2)))
            problem, addresses = await searching
        assert problem
        assert "'other'" in problem
        assert addresses == {ADDRESS}

    asyncio.run(scene())


def test_a_search_that_the_store_refuses_says_why() -> None:
    async def scene() -> None:
        store, waits = Watched(), list[str]()
        await store.node("other", "n1", 60.0)
        store.refused = True
        assert await search_in(store).search([ADDRESS], 5.0, waits.append) == (None, frozenset())
        assert waits == ["cannot look for other clusters in the store: permission denied"]

    asyncio.run(scene())


def test_a_search_without_an_answer_says_so() -> None:
    async def scene() -> None:
        store, waits = Watched(), list[str]()
        await store.node("other", "n1", 60.0)
        store.hangs = True
        assert await search_in(store).search([ADDRESS], 0.1, waits.append) == (None, frozenset())
        assert waits == ["cannot look for other clusters in the store: no answer in time"]

    asyncio.run(scene())
