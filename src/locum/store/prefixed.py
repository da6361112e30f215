"""A view of a store under the cluster's prefix: the rules' keys are relative to it.

Rules of this file: it adds and removes the prefix, nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from locum.store.base import (
    Batch,
    Change,
    CommitResult,
    Condition,
    Delete,
    Entry,
    Operation,
    Put,
    Snapshot,
    Store,
)


class PrefixedStore:
    """``store``, with ``prefix`` before every key."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    async def read(self, prefix: str) -> Snapshot:
        cut = len(self._prefix)
        snapshot = await self._store.read(self._prefix + prefix)
        entries = tuple(Entry(e.key[cut:], e.value, e.revision) for e in snapshot.entries)
        return Snapshot(snapshot.revision, entries, snapshot.began)

    async def names(self, prefix: str) -> tuple[str, ...]:
        return await self._store.names(self._prefix + prefix)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        cut = len(self._prefix)
        async for batch in self._store.watch(self._prefix + prefix, after):
            changes = tuple(Change(c.key[cut:], c.value, c.revision) for c in batch.changes)
            yield Batch(batch.revision, changes)

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        return await self._store.commit(
            [Condition(self._prefix + c.key, c.revision, c.at_least) for c in conditions],
            [
                Put(self._prefix + o.key, o.value) if isinstance(o, Put) else Delete(self._prefix + o.key)
                for o in operations
            ],
        )

    async def close(self) -> None:
        await self._store.close()
