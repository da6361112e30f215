"""The lists in the store: only the holder writes, and only while it is the holder."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from locum.connections import tickle_list
from locum.connections import tickle_store as lists_module
from locum.connections.tickle_store import Listed, TickleStore, Write
from locum.errors import StoreUnavailable
from locum.store.base import CommitResult, Condition, Delete, Operation, Put
from locum.store.memory import MemoryStore

ADDRESS, OTHER, SIX = "10.0.0.1", "10.0.0.11", "fd00::1"


def entry(number: int, address: str = ADDRESS) -> bytes:
    remote = struct.pack("!I", number) if ":" not in address else struct.pack("!QQ", 1, number)
    return struct.pack("!HH", 445, number) + remote


def value(*numbers: int) -> bytes:
    return tickle_list.pack(entry(number) for number in numbers)


class Scene:
    """A store and its lists; commits are counted, and may be hindered."""

    def __init__(self) -> None:
        self.store = Hindered()
        self.lists = TickleStore(self.store, "c")
        self.done: list[tuple[str, list[int]]] = []

    async def claim(self, address: str, holder: str = "n1") -> int:
        result = await self.store.commit([], [Put(f"c/claim/{address}", holder.encode())])
        return result.revision

    async def write(self, *writes: Write, apart: bool = False) -> bool:
        return await self.lists.write(
            writes, lambda address, numbers: self.done.append((address, numbers)), apart=apart
        )

    async def keys(self) -> list[str]:
        return [entry.key for entry in (await self.store.read("c.bulk/")).entries]


class Hindered(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.commits: list[Sequence[Operation]] = []
        self.before: Callable[[], Coroutine[Any, Any, object]] | None = None

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        self.commits.append(operations)
        if self.before is not None:
            before, self.before = self.before, None
            await before()
        return await super().commit(conditions, operations)


def test_what_is_written_is_read() -> None:
    async def story() -> None:
        scene = Scene()
        claim = await scene.claim(ADDRESS)
        assert await scene.write(Write(ADDRESS, claim, ((0, value(1, 2)), (7, value(3)))))
        assert scene.done == [(ADDRESS, [0, 7])]
        listed = await scene.lists.read(ADDRESS)
        assert listed == Listed({0: frozenset({entry(1), entry(2)}), 7: frozenset({entry(3)})})
        assert listed.entries() == {entry(1), entry(2), entry(3)}
        # An address that begins with the same digits is another.
        assert (await scene.lists.read(OTHER)).entries() == set()
        assert await scene.write(Write(ADDRESS, claim, ((7, None),)))
        assert (await scene.lists.read(ADDRESS)).entries() == {entry(1), entry(2)}

    asyncio.run(story())


@pytest.mark.parametrize("loss", ["another's", "gone", "our own, but a later one"])
def test_a_writer_that_lost_its_claim_changes_nothing(loss: str) -> None:
    """It was frozen in the middle of a pass, say, and thaws when the address is served elsewhere."""

    async def story() -> None:
        scene = Scene()
        mine = await scene.claim(ADDRESS)
        assert await scene.write(Write(ADDRESS, mine, ((0, value(1)),)))
        key = f"c/claim/{ADDRESS}"
        await scene.store.commit([], [Delete(key)])
        theirs = 0
        if loss != "gone":
            theirs = await scene.claim(ADDRESS, "n2" if loss == "another's" else "n1")
            assert await scene.write(Write(ADDRESS, theirs, ((0, value(5)),)))
        scene.done.clear()
        assert not await scene.write(Write(ADDRESS, mine, ((0, None), (1, value(9)))))
        assert scene.done == []
        expected = {entry(5)} if theirs else {entry(1)}
        assert (await scene.lists.read(ADDRESS)).entries() == expected

    asyncio.run(story())


def test_many_addresses_share_a_commit_unless_kept_apart() -> None:
    async def story() -> None:
        scene = Scene()
        writes = [Write(f"10.0.1.{n}", await scene.claim(f"10.0.1.{n}"), ((0, value(n)),)) for n in range(50)]
        scene.store.commits.clear()
        assert await scene.write(*writes)
        assert len(scene.store.commits) == 1
        assert len(scene.done) == 50
        # One of them is lost: none is written, until they are kept apart.
        await scene.claim("10.0.1.0", "n2")
        scene.done.clear()
        assert not await scene.write(*writes)
        assert scene.done == []
        assert not await scene.write(*writes, apart=True)
        assert len(scene.done) == lists_module.COMMITS_PER_PASS - 1

    asyncio.run(story())


def test_a_pass_has_limits() -> None:
    async def story() -> None:
        scene = Scene()
        claim = await scene.claim(ADDRESS)
        changes = tuple((n, value(*range(128))) for n in range(3000))
        scene.store.commits.clear()
        assert await scene.write(Write(ADDRESS, claim, changes))
        assert len(scene.store.commits) == lists_module.COMMITS_PER_PASS
        for operations in scene.store.commits:
            assert len(operations) <= 100
            assert sum(len(o.value) for o in operations if isinstance(o, Put)) <= lists_module.COMMIT_BYTES
        # In order, so that the next pass goes on with the rest.
        written = [n for _, numbers in scene.done for n in numbers]
        assert written == list(range(len(written)))

    asyncio.run(story())


def test_an_address_without_writes_needs_no_commit() -> None:
    async def story() -> None:
        scene = Scene()
        assert await scene.write()
        assert scene.store.commits == []

    asyncio.run(story())


def test_what_cannot_be_read_is_told_and_written_anew() -> None:
    async def story() -> None:
        scene = Scene()
        prefix = tickle_list.bucket_prefix("c", ADDRESS)
        await scene.store.commit([], [Put(f"{prefix}0", b"?"), Put(f"{prefix}1", value(1)), Put(f"{prefix}x", b"")])
        listed = await scene.lists.read(ADDRESS)
        assert listed.entries() == {entry(1)}
        assert set(listed.buckets) == {0, 1}
        assert [f"{prefix}0" in problem for problem in listed.problems] == [True]

    asyncio.run(story())


def test_connections_are_added_and_removed_by_command() -> None:
    async def story() -> None:
        scene = Scene()
        assert await scene.lists.change_added(SIX, [entry(1, SIX), entry(2, SIX)], ()) == 2
        assert await scene.lists.change_added(SIX, [entry(2, SIX), entry(3, SIX)], ()) == 1
        assert (await scene.lists.read(SIX)).entries() == {entry(n, SIX) for n in (1, 2, 3)}
        assert await scene.lists.change_added(SIX, [], [entry(1, SIX), entry(9, SIX)]) == 1
        assert await scene.lists.change_added(SIX, [], [entry(2, SIX), entry(3, SIX)]) == 2
        assert await scene.keys() == []
        assert await scene.lists.change_added(SIX, [], [entry(3, SIX)]) == 0

    asyncio.run(story())


def test_two_who_add_at_once_both_succeed() -> None:
    async def story() -> None:
        scene = Scene()
        rival = TickleStore(scene.store, "c")
        scene.store.before = lambda: rival.change_added(ADDRESS, [entry(2)], ())
        assert await scene.lists.change_added(ADDRESS, [entry(1)], ()) == 1
        assert (await scene.lists.read(ADDRESS)).entries() == {entry(1), entry(2)}

    asyncio.run(story())


def test_a_store_that_hangs_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists_module, "PATIENCE", 0.05)

    async def story() -> None:
        scene = Scene()
        scene.store.before = lambda: asyncio.sleep(60)
        with pytest.raises(StoreUnavailable, match=r"within 0\.05 s"):
            await scene.write(Write(ADDRESS, 1, ((0, value(1)),)))

    asyncio.run(story())
