"""Measure a store: whether it answers, and fast enough for the hold.

A beat must be committed well within its interval (a fifth of the hold), and soon be seen by the other nodes. A slower
store costs holds, not safety.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator

from locum.config.model import Settings
from locum.doctor import Finding
from locum.errors import StoreError
from locum.rules.hold import interval_for
from locum.store.base import Commit, Condition, Delete, Put, Store, WatchLost, carry_out

#: How many commits are measured.
SAMPLES = 30
#: Limit for each answer, in seconds.
PATIENCE = 5.0


async def examine(store: Store, settings: Settings) -> list[Finding]:
    """Findings about ``store`` (keys relative to the cluster's prefix)."""
    key = f"doctor/{settings.node.name}"
    try:
        async with asyncio.timeout(PATIENCE):
            snapshot = await store.read("")
    except (StoreError, TimeoutError) as error:
        return [
            Finding(
                "store",
                "problem",
                f"{settings.cluster.store} does not answer: {str(error) or f'no answer in {PATIENCE:g} s'}",
                "start it, and check that this node reaches it (docs/stores.md)",
            )
        ]
    try:
        commits, watches = await _measure(store, key, snapshot.revision)
    except (StoreError, TimeoutError, WatchLost) as error:
        return [
            Finding(
                "store",
                "problem",
                f"{settings.cluster.store} failed while it was measured: {str(error) or 'no answer'}",
            )
        ]
    findings = [
        Finding("store", "good", f"{settings.cluster.store} answers, with {len(snapshot.entries)} keys of this cluster")
    ]
    findings += _judge("commit", commits, settings.cluster.hold)
    findings += _judge("watch", watches, settings.cluster.hold)
    return findings


async def _measure(store: Store, key: str, revision: int) -> tuple[list[float], list[float]]:
    """Seconds of each commit's answer, and until the watch showed it."""
    commits: list[float] = []
    watches: list[float] = []
    seen = store.watch(key, revision).__aiter__()
    present = next((e.revision for e in (await store.read(key)).entries if e.key == key), 0)
    for number in range(SAMPLES):
        start = time.monotonic()
        pending = asyncio.ensure_future(anext(seen))
        async with asyncio.timeout(PATIENCE):
            put = Put(key, str(number).encode())
            result = await carry_out(store, Commit((Condition(key, present),), (put,)))
            commits.append(time.monotonic() - start)
            batch = await pending
            watches.append(time.monotonic() - start)
        present = batch.revision if result.accepted else present
    await carry_out(store, Commit((), (Delete(key),), {key: "only this test knows the key"}))
    return commits, watches


def _judge(what: str, seconds: list[float], hold: float) -> Iterator[Finding]:
    interval = interval_for(hold)
    median, worst = statistics.median(seconds), max(seconds)
    text = (
        f"{what} latency: median {median * 1000:.1f} ms, worst of {len(seconds)} {worst * 1000:.1f} ms; "
        f"a beat is sent every {interval * 1000:.0f} ms"
    )
    # Beats are sent every fifth of the hold; half of that leaves room for slower days.
    advice = f"use a hold of {max(worst * 10, 0.1):.1f} s or more with this store, or make it faster (docs/stores.md)"
    if median > interval:
        yield Finding("store", "problem", text, advice)
    elif worst > interval / 2:
        yield Finding("store", "warning", text, advice)
    else:
        yield Finding("store", "good", text)
