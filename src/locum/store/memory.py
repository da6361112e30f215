"""The embedded store in memory: :class:`KeyValue` with an asyncio interface.

It meets the interface by running in one event loop: a commit is carried out between two turns of the loop, so
there is one order and every read sees all earlier commits. Nothing is kept when the process ends. A restarted store
with the same revisions would be mistaken for the old one, so a server for other processes starts it at a fresh revision
(:func:`fresh_revision`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

from locum.errors import StoreUnavailable
from locum.store.base import Batch, CommitResult, Condition, Operation, Snapshot
from locum.store.keyvalue import KeyValue

#: A watch examines this many commits before other tasks get their turn.
_WATCH_STEP = 256

__all__ = ["KeyValue", "MemoryStore", "fresh_revision"]


def fresh_revision() -> int:
    """A revision above all that a store on this machine can have assigned since boot: microseconds since boot.

    A memory store starts there when its clients can outlive it: their old revisions must not match.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class MemoryStore:
    """A :class:`locum.store.base.Store` in this process.

    Besides the interface, ``submit``, ``core`` and ``subscribe`` are for a server in the same loop: they answer
    without a task switch.
    """

    def __init__(self, core: KeyValue | None = None) -> None:
        self.core = KeyValue() if core is None else core
        self._listeners: set[Callable[[], None]] = set()
        #: Whether :meth:`close` was called.
        self.closed = False

    async def read(self, prefix: str) -> Snapshot:
        self._check_open()
        return self.core.snapshot(prefix)

    async def names(self, prefix: str) -> tuple[str, ...]:
        self._check_open()
        return self.core.names(prefix)

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        result, safe = self.submit(conditions, operations)
        if safe is not None:
            await asyncio.shield(safe)
        return result

    def submit(
        self, conditions: Sequence[Condition], operations: Sequence[Operation]
    ) -> tuple[CommitResult, asyncio.Future[None] | None]:
        """Commit at once. The caller may be answered when the future (if any) is done; it raises StoreUnavailable when
        the commit could not be made durable.
        """
        self._check_open()
        revision = self.core.revision
        result = self.core.commit(conditions, operations)
        if self.core.revision != revision:
            self._tell()
        return result, None

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` after every effective commit, and at the end; returns a function that stops it."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        wake = asyncio.Event()
        unsubscribe = self.subscribe(wake.set)
        try:
            while True:
                wake.clear()
                self._check_open()
                after, batches = self.core.history(after, prefix, _WATCH_STEP)
                for batch in batches:
                    yield batch
                if after == self.core.revision:
                    await wake.wait()
        finally:
            unsubscribe()

    async def close(self) -> None:
        """End all watches; every later call raises StoreUnavailable. Idempotent."""
        self.closed = True
        self._tell()

    def _check_open(self) -> None:
        if self.closed:
            raise StoreUnavailable("the store is closed")

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()
