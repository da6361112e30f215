"""What every store must do, whatever the engine. A module with a ``harness`` fixture imports these tests."""

from __future__ import annotations

import asyncio
import random

import pytest

from locum.errors import StoreUnavailable
from locum.store.base import MAX_OPERATIONS, Change, Condition, Delete, Operation, Put, Store, WatchLost
from tests.unit.store.harness import Harness, Watched, asynchronous


async def put(store: Store, key: str, value: bytes = b"v") -> int:
    """Put unconditionally; the revision."""
    result = await store.commit((), (Put(key, value),))
    assert result.accepted
    return result.revision


@asynchronous
async def test_read_sees_what_was_committed(harness: Harness) -> None:
    async with harness:
        store, other = await harness.open(), await harness.open()
        empty = await store.read("t/")
        assert empty.entries == ()
        first = await put(store, "t/b", b"\x00\xff binary")
        second = await put(store, "t/a", "ünïcode".encode())
        await put(store, "u", b"outside")
        snapshot = await other.read("t/")
        assert snapshot.revision > second > first > empty.revision
        assert [(e.key, e.value, e.revision) for e in snapshot.entries] == [
            ("t/a", "ünïcode".encode(), second),
            ("t/b", b"\x00\xff binary", first),
        ]
        third = await put(store, "t/a", b"")
        assert [(e.value, e.revision) for e in (await other.read("t/a")).entries] == [(b"", third)]
        assert len((await other.read("")).entries) == 3


@asynchronous
async def test_prefix_is_text_not_path(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        for key in ("a", "a/", "a/b", "ab", "b", "a\U0010ffff", "á"):
            await put(store, key)
        assert {e.key for e in (await store.read("a")).entries} == {"a", "a/", "a/b", "ab", "a\U0010ffff"}
        assert {e.key for e in (await store.read("a/")).entries} == {"a/", "a/b"}
        assert {e.key for e in (await store.read("a\U0010ffff")).entries} == {"a\U0010ffff"}
        assert (await store.read("c")).entries == ()


@asynchronous
async def test_names_are_the_first_parts_of_keys_once_each(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        assert await store.names("") == ()
        for key in ("a", "a/1", "a/2/x", "a.bulk/1", "a-1/x", "a0/x", "c/d/e", "c/d/f", "c/g/h", "z", "é/1"):
            await put(store, key)
        assert await store.names("") == ("a-1", "a.bulk", "a", "a0", "c", "é")
        assert await store.names("c/") == ("d", "g")
        assert await store.names("a") == ("-1", ".bulk", "", "0")
        assert await store.names("z") == ()


@asynchronous
async def test_conditions_decide_and_a_refused_commit_changes_nothing(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        created = await store.commit([Condition("k", 0)], [Put("k", b"1"), Put("l", b"1")])
        assert created.accepted
        again = await store.commit([Condition("k", 0)], [Put("k", b"2"), Delete("l")])
        assert not again.accepted
        assert again.revision >= created.revision
        changed = await store.commit([Condition("k", created.revision), Condition("m", 0)], [Put("k", b"2")])
        assert changed.accepted
        assert changed.revision > created.revision
        stale = await store.commit([Condition("k", created.revision)], [Delete("k"), Put("l", b"2"), Put("m", b"2")])
        assert not stale.accepted
        one_fails = await store.commit([Condition("k", changed.revision), Condition("l", 0)], [Put("n", b"")])
        assert not one_fails.accepted
        entries = (await store.read("")).entries
        assert [(e.key, e.value, e.revision) for e in entries] == [
            ("k", b"2", changed.revision),
            ("l", b"1", created.revision),
        ]
        deleted = await store.commit([Condition("k", changed.revision)], [Delete("k")])
        assert deleted.accepted
        assert (await store.commit([Condition("k", 0)], [Put("k", b"3")])).accepted


@asynchronous
async def test_commit_without_effect(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        start = await put(store, "k")
        watch = Watched(store, "", start)
        nothing = await store.commit([Condition("k", start)], [Delete("absent"), Delete("gone/too")])
        assert nothing.accepted
        check_only = await store.commit([Condition("k", start)], [])
        assert check_only.accepted
        refused = await store.commit([Condition("k", 0)], [])
        assert not refused.accepted
        end = await put(store, "k")
        await watch.reaches(end)
        assert watch.revisions == [end]


@asynchronous
async def test_watch_delivers_each_commit_once_in_order_and_whole(harness: Harness) -> None:
    async with harness:
        store, other = await harness.open(), await harness.open()
        start = (await store.read("")).revision
        watch, narrow = Watched(other, "t/", start), Watched(other, "t/b", start)
        first = (await store.commit([], [Put("t/a", b"1"), Put("t/b", b"1"), Put("u", b"1")])).revision
        await put(store, "u", b"2")
        second = (await store.commit([], [Delete("t/a"), Put("t/c", b"2"), Delete("absent")])).revision
        third = (await store.commit([], [Put("t/b", b"3")])).revision
        await watch.reaches(third)
        await narrow.reaches(third)
        assert watch.revisions == [first, second, third]
        assert [sorted(batch.changes, key=lambda c: c.key) for batch in watch.batches] == [
            [Change("t/a", b"1", first), Change("t/b", b"1", first)],
            [Change("t/a", None, second), Change("t/c", b"2", second)],
            [Change("t/b", b"3", third)],
        ]
        assert narrow.revisions == [first, third]


@asynchronous
async def test_watch_begins_in_the_past(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        revisions = [await put(store, f"t/{index % 3}", str(index).encode()) for index in range(10)]
        watch = Watched(store, "t/", revisions[3])
        await watch.reaches(revisions[-1])
        assert watch.revisions == revisions[4:]


@asynchronous
async def test_largest_commit_is_one_batch(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        start = await put(store, "k")
        watch = Watched(store, "t/", start)
        names = [f"t/{index:03}" for index in range(MAX_OPERATIONS)]
        operations: list[Operation] = [Put(name, b"x" * 9_000) for name in names]
        result = await store.commit([Condition(name, 0) for name in names], operations)
        assert result.accepted
        await watch.reaches(result.revision)
        assert [change.key for change in sorted(watch.batches[0].changes, key=lambda c: c.key)] == names
        assert len(watch.batches) == 1
        for index in range(5):
            await store.commit([], [Put(f"t/{index}/{part}", b"y" * 10_000) for part in range(90)])
        snapshot = await store.read("t/")
        assert len(snapshot.entries) == MAX_OPERATIONS + 450


@asynchronous
async def test_impossible_commits_are_the_callers_mistake(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        bad: list[tuple[list[Condition], list[Operation]]] = [
            ([], [Put("k", b""), Delete("k")]),
            ([], [Put("", b"")]),
            ([Condition("", 0)], []),
            ([Condition("k", -1)], []),
            ([], [Put(f"k{index}", b"") for index in range(MAX_OPERATIONS + 1)]),
            ([Condition(f"k{index}", 0) for index in range(MAX_OPERATIONS + 1)], []),
            ([], [Put("k", bytes(2 * 1024 * 1024))]),
        ]
        for conditions, operations in bad:
            with pytest.raises(ValueError, match=r"commit|condition"):
                await store.commit(conditions, operations)
        assert (await store.read("")).entries == ()


@asynchronous
async def test_increments_by_several_clients_are_never_lost(harness: Harness) -> None:
    async with harness:
        stores = [await harness.open() for _ in range(4)]
        start = await put(stores[0], "counter", b"0")
        watch = Watched(stores[0], "counter", start)

        async def increment(store: Store) -> None:
            for _ in range(15):
                while True:
                    (entry,) = (await store.read("counter")).entries
                    value = str(int(entry.value) + 1).encode()
                    result = await store.commit([Condition("counter", entry.revision)], [Put("counter", value)])
                    if result.accepted:
                        break

        await asyncio.gather(*map(increment, stores))
        (entry,) = (await stores[1].read("counter")).entries
        assert entry.value == b"60"
        await watch.reaches(entry.revision)
        assert [batch.changes[0].value for batch in watch.batches] == [str(n).encode() for n in range(1, 61)]


@asynchronous
async def test_watch_and_snapshot_add_up(harness: Harness) -> None:
    async with harness:
        stores = [await harness.open() for _ in range(3)]
        seed = random.Random(4)
        start = await stores[0].read("")
        watch = Watched(stores[2], "", start.revision)

        async def write(store: Store) -> None:
            for _ in range(60):
                keys = seed.sample(range(12), 3)
                await store.commit(
                    [], [Delete(f"k/{n}") if seed.random() < 0.3 else Put(f"k/{n}", bytes([n])) for n in keys]
                )

        await asyncio.gather(write(stores[0]), write(stores[1]), write(stores[0]))
        end = await put(stores[1], "k/end")
        await watch.reaches(end)
        assert watch.revisions == sorted(set(watch.revisions))
        mirror: dict[str, tuple[bytes, int]] = {}
        for batch in watch.batches:
            for change in batch.changes:
                if change.value is None:
                    del mirror[change.key]
                else:
                    mirror[change.key] = (change.value, change.revision)
        assert {e.key: (e.value, e.revision) for e in (await stores[0].read("")).entries} == mirror


@asynchronous
async def test_ending_one_watch_leaves_the_others(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        start = (await store.read("")).revision
        one, two = Watched(store, "", start), Watched(store, "", start)
        first = await put(store, "k")
        await one.reaches(first)
        await one.stop()
        second = await put(store, "k")
        await two.reaches(second)
        assert two.revisions == [first, second]
        assert one.revisions == [first]


@asynchronous
async def test_compacted_history_is_a_lost_watch(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        old = await put(store, "k")
        follower = Watched(store, "k", old)
        await follower.reaches(await put(store, "k"))
        await harness.compact()
        late = Watched(store, "k", old)
        assert isinstance(await late.ends(), WatchLost)
        # Reading again and watching from there is the way on; a watch that kept up is not concerned.
        snapshot = await store.read("")
        fresh = Watched(store, "k", snapshot.revision)
        last = await put(store, "k")
        await fresh.reaches(last)
        await follower.reaches(last)
        assert fresh.revisions == [last]
        assert follower.error is None


@asynchronous
async def test_future_revision_is_not_this_stores(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        revision = await put(store, "k")
        assert isinstance(await Watched(store, "", revision + 1_000_000_000).ends(), WatchLost)


@asynchronous
async def test_closed_store(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        watch = Watched(store, "", await put(store, "k"))
        await asyncio.sleep(0)
        await store.close()
        await store.close()
        assert isinstance(await watch.ends(), StoreUnavailable)
        with pytest.raises(StoreUnavailable):
            await store.read("")
        with pytest.raises(StoreUnavailable):
            await store.commit((), (Put("k", b""),))
        assert isinstance(await Watched(store, "", 1).ends(), StoreUnavailable)


@asynchronous
async def test_slow_consumer_loses_nothing_and_disturbs_nobody(harness: Harness) -> None:
    async with harness:
        store, other = await harness.open(), await harness.open()
        start = await put(store, "t/claim/k")
        slow = other.watch("t/", start)
        quick = Watched(other, "t/", start)
        first = await put(store, "t/claim/k")
        assert (await anext(slow)).revision == first
        revisions = []
        for index in range(2000):
            revisions.append(await put(store, "t/claim/k", b"z" * 5000 if index % 2 else b"s"))
        await quick.reaches(revisions[-1])
        assert quick.revisions == [first, *revisions]
        seen: list[int] = []
        try:
            while not seen or seen[-1] < revisions[-1]:
                seen.append((await anext(slow)).revision)
        except WatchLost:
            pass
        assert seen == revisions[: len(seen)]
