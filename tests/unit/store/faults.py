"""What every store must do when its engine, or the path to it, fails.

For engines that are apart from their clients. A module with a ``harness`` fixture imports these tests.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from locum.errors import StoreUnavailable
from locum.store.base import Condition, Delete, Put, WatchLost
from tests.unit.store.contract import put
from tests.unit.store.harness import Harness, Watched, asynchronous, commit_when_possible, until


@asynchronous
async def test_slow_path(harness: Harness) -> None:
    async with harness:
        store, direct = await harness.open(proxied=True), await harness.open()
        start = await put(store, "k")
        harness.proxy.delay = 0.05
        watch = Watched(store, "", start)
        revisions = sorted(await asyncio.gather(*(put(store, f"k/{n}") for n in range(20))))
        last = await put(direct, "k")
        await watch.reaches(last)
        assert watch.revisions == [*revisions, last]


@asynchronous
async def test_cut_path_fails_calls_and_resumes_watches(harness: Harness) -> None:
    async with harness:
        store, direct = await harness.open(proxied=True), await harness.open()
        watch = Watched(store, "t/", await put(store, "k"))
        confirmed, wanted = [], []
        for number in range(10):
            wanted.append(await put(direct, f"t/direct{number}"))
            harness.proxy.cut()
            wanted.append(await put(direct, f"t/cut{number}"))
            try:
                confirmed.append(await put(store, f"t/proxied{number}"))
            except StoreUnavailable:
                # Nobody knows whether it was carried out; the watch will tell.
                pass
        last = await commit_when_possible(store, "t/last")
        await watch.reaches(last)
        assert watch.error is None
        assert watch.revisions == sorted(set(watch.revisions))
        assert set(wanted) | set(confirmed) <= set(watch.revisions)
        snapshot = {e.key for e in (await direct.read("t/")).entries}
        assert {change.key for batch in watch.batches for change in batch.changes} == snapshot


@asynchronous
async def test_watch_survives_a_long_absence(harness: Harness) -> None:
    async with harness:
        store, direct = await harness.open(proxied=True), await harness.open()
        watch = Watched(store, "t/", await put(direct, "k"))
        revisions = [await put(direct, "t/first")]
        await watch.reaches(revisions[0])
        harness.proxy.accepting = False
        harness.proxy.cut()
        revisions += [await put(direct, f"t/{number}") for number in range(50)]
        with pytest.raises(StoreUnavailable):
            await store.commit((), (Put("t/never", b""),))
        harness.proxy.heal()
        revisions.append(await put(direct, "t/last"))
        await watch.reaches(revisions[-1])
        assert watch.error is None
        assert watch.revisions == revisions


@asynchronous
async def test_what_was_compacted_during_an_absence_is_a_lost_watch(harness: Harness) -> None:
    """It must not go on behind the gap, as if nothing had happened in it."""
    async with harness:
        store, direct = await harness.open(proxied=True), await harness.open()
        watch = Watched(store, "t/", await put(direct, "k"))
        first = await put(direct, "t/first")
        await watch.reaches(first)
        harness.proxy.accepting = False
        harness.proxy.cut()
        await put(direct, "t/missed")
        await harness.compact()
        await put(direct, "t/later")
        harness.proxy.heal()
        assert isinstance(await watch.ends(), WatchLost)
        assert watch.revisions == [first]
        await commit_when_possible(store, "k")
        snapshot = await store.read("t/")
        assert [entry.key for entry in snapshot.entries] == ["t/first", "t/later", "t/missed"]
        again = Watched(store, "t/", snapshot.revision)
        last = await put(direct, "t/last")
        await again.reaches(last)
        assert again.revisions == [last]


@asynchronous
async def test_answer_lost_after_the_commit(harness: Harness) -> None:
    async with harness:
        store, direct = await harness.open(proxied=True, timeout=0.5), await harness.open()
        await put(store, "k")
        harness.proxy.to_client.clear()
        with pytest.raises(StoreUnavailable):
            await store.commit([Condition("t", 0)], [Put("t", b"carried out")])
        assert [e.value for e in (await direct.read("t")).entries] == [b"carried out"]
        harness.proxy.heal()
        # The late answer is nobody's; the connection still serves.
        assert not (await store.commit([Condition("t", 0)], [Put("t", b"twice")])).accepted


@asynchronous
async def test_silent_path_is_noticed(harness: Harness) -> None:
    async with harness:
        store, direct = await harness.open(proxied=True, timeout=0.3), await harness.open()
        start = await put(store, "k")
        watch = Watched(store, "t/", start)
        harness.proxy.stall()
        with pytest.raises(StoreUnavailable):
            await store.read("")
        missed = await put(direct, "t/missed")
        harness.proxy.heal()
        await commit_when_possible(store, "k")
        await watch.reaches(missed)
        assert watch.revisions == [missed]


@asynchronous
async def test_cancelled_calls_leave_the_store_usable(harness: Harness) -> None:
    async with harness:
        store = await harness.open(proxied=True)
        await put(store, "k")
        harness.proxy.stall()
        calls: list[asyncio.Task[Any]] = []
        calls += [asyncio.create_task(store.commit((), (Put(f"c/{n}", b"x" * 1000),))) for n in range(200)]
        calls += [asyncio.create_task(store.read("")) for _ in range(50)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await store.read("")
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        harness.proxy.heal()
        after = await commit_when_possible(store, "k")
        assert (await store.read("k")).entries[0].revision == after


@asynchronous
async def test_frozen_engine_costs_its_callers_their_timeout_only(harness: Harness) -> None:
    async with harness:
        store, starting = await harness.open(timeout=0.3), await harness.open(timeout=0.3)
        watch = Watched(store, "t/", await put(store, "k"))
        harness.freeze()
        try:
            outcomes = await asyncio.gather(
                store.read(""),
                store.commit((), (Put("t/frozen", b""),)),
                # This one has no connection yet.
                starting.read(""),
                *(store.commit((), (Put(f"big/{n}", bytes(1_000_000)),)) for n in range(12)),
                return_exceptions=True,
            )
            assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 15
        finally:
            harness.thaw()
        last = await commit_when_possible(store, "t/last")
        await watch.reaches(last)
        await commit_when_possible(starting, "k")


@asynchronous
async def test_engine_killed_and_started_again(harness: Harness) -> None:
    async with harness:
        store = await harness.open()
        before = await put(store, "admin/n1", b"disabled")
        claim = await put(store, "claim/192.0.2.1", b"n1")
        watch = Watched(store, "", claim)
        await harness.kill()
        with pytest.raises(StoreUnavailable):
            await store.read("")
        await harness.restart()
        after = await commit_when_possible(store, "later")
        assert after > claim > before
        entries = {e.key: e for e in (await store.read("")).entries}
        if harness.keeps:
            assert entries["admin/n1"].value == b"disabled"
            assert entries["claim/192.0.2.1"].revision == claim
        else:
            assert set(entries) == {"later"}
            # A condition from before must not hold by accident.
            assert not (await store.commit([Condition("later", before)], [Delete("later")])).accepted
        await until(lambda: watch.error is not None or after in watch.revisions)
        assert watch.error is None or isinstance(watch.error, WatchLost)
        if watch.error is None:
            assert watch.revisions == [after]
