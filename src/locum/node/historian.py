"""Writes down what happens in the cluster, and reads it: the history of ``locum history``.

The keys have their own prefix, ``<cluster>.bulk/history/``, which no node watches. Every node derives the same
occurrences (:mod:`locum.rules.chronicle`). The leader writes them, and a new leader those that are missing; a key that
exists is never another occurrence. Commands are written by the node that was given them.

The cost for the store: one commit for all that happened within :data:`GATHER` seconds, so two or three for a failover,
however many addresses move. The oldest ones are deleted in the same commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from locum import tasks
from locum.errors import StoreError
from locum.outside import UNDECODABLE
from locum.rules.occurrences import Occurrence
from locum.store.base import MAX_OPERATIONS, Commit, Condition, Delete, Entry, Operation, Put, Store, carry_out

#: The keys below the cluster's bulk data.
PREFIX = "history/"
#: How many occurrences the store keeps.
KEPT = 2000
#: Seconds in which occurrences are gathered for one commit.
GATHER = 0.5
#: Seconds between two attempts while the store does not answer, at first and at most.
PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: Seconds after which a call counts as unanswered.
PATIENCE = 5.0
#: Bytes of values in one commit, so that beats in the same store do not wait.
COMMIT_BYTES = 128 * 1024

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Occurrence)


class Historian:
    """The history of one cluster. ``bulk`` is the store below ``<cluster>.bulk/``. ``leads``: whether this node is the
    leader now; ``remembered``: the latest occurrences that it knows of, written down or not."""

    def __init__(
        self,
        bulk: Store,
        leads: Callable[[], bool],
        remembered: Callable[[], Iterable[Occurrence]],
        log: Callable[[str, str], None],
    ) -> None:
        self._bulk = bulk
        self._leads = leads
        self._remembered = remembered
        self._log = log
        # What this node has to write, the latest form of each, by key.
        self._waiting: dict[str, Occurrence] = {}
        # Key → revision of what the store has, as far as this node knows; None: not read since it took the lead. And
        # the keys of those that were written before their end.
        self._known: dict[str, int] | None = None
        self._open: set[str] = set()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = tasks.start(self._run(), "writing the history")

    def close(self) -> None:
        """Stop. Idempotent."""
        if self._task is not None:
            self._task.cancel()

    def add(self, occurrences: Iterable[Occurrence], *, own: bool = False) -> None:
        """Take what has happened. ``own``: no other node knows of it, so this one writes it."""
        if not own and not self._leads():
            # Another node's lead: what this one has read of the store will be outdated when it leads again.
            self._known = None
            return
        for occurrence in occurrences:
            self._waiting[occurrence.key] = occurrence
            self._woken.set()

    async def read(self) -> list[Occurrence]:
        """The whole history, the oldest first. Raises StoreError. Unreadable entries are left out."""
        async with asyncio.timeout(PATIENCE):
            snapshot = await self._bulk.read(PREFIX)
        found = map(_decoded, sorted(snapshot.entries, key=lambda entry: entry.key))
        return [one for one in found if one is not None]

    async def _run(self) -> None:
        pause, said = PAUSE, ""
        while True:
            await self._woken.wait()
            await asyncio.sleep(GATHER)
            self._woken.clear()
            try:
                await self._write()
                pause, said = PAUSE, ""
            except (StoreError, TimeoutError) as error:
                problem = str(error) or "no answer in time"
                if problem != said:
                    self._log(f"the history waits for the store: {problem}", "warning")
                    said = problem
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                self._woken.set()

    async def _write(self) -> None:
        if self._known is None:
            self._known = await self._read_keys()
            newest = max(self._known, default="")
            # The leader before may have died before it wrote them, or their end.
            for occurrence in self._remembered() if self._leads() else ():
                if occurrence.key > newest or (occurrence.key in self._open and not occurrence.open):
                    self._waiting.setdefault(occurrence.key, occurrence)
        while self._waiting and self._known is not None:
            await self._write_some(self._known)

    async def _write_some(self, known: dict[str, int]) -> None:
        chosen, operations, size = [], list[Operation](), 0
        for occurrence in sorted(self._waiting.values(), key=lambda one: one.key):
            value = _encoder.encode(occurrence)
            size += len(value)
            if operations and (size > COMMIT_BYTES or len(operations) >= MAX_OPERATIONS // 2):
                break
            chosen.append(occurrence)
            operations.append(Put(PREFIX + occurrence.key, value))
        new = sum(one.key not in known for one in chosen)
        old = sorted(known)[: max(0, min(len(known) + new - KEPT, MAX_OPERATIONS // 2))]
        old = [key for key in old if key not in self._waiting]
        operations += [Delete(PREFIX + key) for key in old]
        conditions = [Condition(PREFIX + key, known.get(key, 0)) for key in (*(one.key for one in chosen), *old)]
        async with asyncio.timeout(PATIENCE):
            result = await carry_out(self._bulk, Commit(tuple(conditions), tuple(operations)))
        if not result.accepted:
            # The leader before has written some of them: what is there stays, unless it was written before its end.
            self._known = await self._read_keys()
            for one in chosen:
                if one.key in self._known and (one.open or one.key not in self._open):
                    self._waiting.pop(one.key, None)
            return
        for one in chosen:
            known[one.key] = result.revision
            self._open.discard(one.key)
            if one.open:
                self._open.add(one.key)
            if self._waiting.get(one.key) is one:
                del self._waiting[one.key]
        for key in old:
            del known[key]

    async def _read_keys(self) -> dict[str, int]:
        """Key → revision; notes which are open."""
        async with asyncio.timeout(PATIENCE):
            snapshot = await self._bulk.read(PREFIX)
        self._open = {one.key for one in map(_decoded, snapshot.entries) if one is not None and one.open}
        return {entry.key.removeprefix(PREFIX): entry.revision for entry in snapshot.entries}


def _decoded(entry: Entry) -> Occurrence | None:
    """The occurrence; None when it is unreadable."""
    try:
        return _decoder.decode(entry.value)
    except UNDECODABLE:
        return None
