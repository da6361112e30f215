"""Writes down what happens in the cluster, and reads it: the history of ``locum history``.

The keys have their own prefix, ``<cluster>.bulk/history/``, which no node watches. Every node derives the same
occurrences (:mod:`locum.rules.chronicle`). The leader writes them, and a new leader those that are missing; a key that
exists is never another occurrence. Commands are written by the node that was given them.

The cost for the store: one commit for all that happened within :data:`GATHER` seconds, so two or three for a failover,
however many addresses move. The oldest ones are deleted in the same commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from locum import tasks
from locum.errors import StoreError
from locum.outside import UNDECODABLE
from locum.rules.occurrences import Occurrence
from locum.store.base import (
    MAX_OPERATIONS,
    Commit,
    Condition,
    Delete,
    Entry,
    Operation,
    Put,
    Snapshot,
    Store,
    carry_out,
)
from locum.store.patience import answered_within

#: The keys below the cluster's bulk data.
PREFIX = "history/"
#: How many occurrences the store keeps, and how many bytes of them at most.
KEPT, MOST_BYTES = 2000, 4 * 1024 * 1024
#: Seconds in which occurrences are gathered for one commit.
GATHER = 0.5
#: Seconds between two attempts while the store does not answer, at first and at most.
PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: Seconds after which a call counts as unanswered.
PATIENCE = 5.0
#: Bytes of values in one commit, so that beats in the same store do not wait.
COMMIT_BYTES = 128 * 1024
#: The largest entry, in bytes; etcd takes requests of 1.5 MiB.
_LARGEST = 512 * 1024
#: How many entries are decoded in one turn of the loop.
_AT_A_TIME = 100

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Occurrence)


class _Stored(NamedTuple):
    """What the store has under a key: its revision, its size in bytes, and whether its end is to be written."""

    revision: int
    size: int
    open: bool


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
        # What this node has to write, the latest form of each, by key; and the keys that only it knows.
        self._waiting: dict[str, Occurrence] = {}
        self._own: set[str] = set()
        # What the store has, as far as this node knows; None: not read since it took the lead.
        self._stored: dict[str, _Stored] | None = None
        # Whether what an earlier leader may not have written has been looked through since this node took the lead.
        self._inherited = False
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
            # Another node writes. What this one has read of the store will be outdated when it leads.
            self._stored, self._inherited = None, False
            self._waiting = {key: one for key, one in self._waiting.items() if key in self._own}
            return
        for occurrence in occurrences:
            self._waiting[occurrence.key] = occurrence
            if own:
                self._own.add(occurrence.key)
            self._woken.set()
        while len(self._waiting) > KEPT:
            self._drop(min(self._waiting))

    async def read(self) -> list[Occurrence]:
        """The whole history, the oldest first. Raises StoreError. Unreadable entries are left out."""
        async with answered_within(PATIENCE):
            snapshot = await self._bulk.read(PREFIX)
        return [one async for _, one in _decoded(snapshot) if one is not None]

    async def _run(self) -> None:
        pause, said = PAUSE, ""
        while True:
            await self._woken.wait()
            await asyncio.sleep(GATHER)
            self._woken.clear()
            try:
                await self._write()
                pause, said = PAUSE, ""
            except Exception as error:
                # Nothing waits for the history, and a defect in it must not end the agent.
                expected = isinstance(error, StoreError)
                problem = str(error) if expected else f"unexpected {type(error).__name__}: {error}"
                if problem != said:
                    self._log(f"the history is not written: {problem}", "warning" if expected else "error")
                    said = problem
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                self._woken.set()

    async def _write(self) -> None:
        leads = self._leads()
        if self._stored is None or (leads and not self._inherited):
            self._stored = await self._read_keys()
            self._inherited = leads
            # The leader before may have died before it wrote them, or their end. Those that were deleted stay so.
            oldest = min(self._stored) if len(self._stored) >= KEPT else ""
            for one in self._remembered() if leads else ():
                there = self._stored.get(one.key)
                if one.key >= oldest and (there is None or (there.open and not one.open)):
                    self._waiting.setdefault(one.key, one)
        while self._waiting and self._stored is not None:
            await self._write_some(self._stored)
        if self._waiting:
            self._woken.set()

    async def _write_some(self, stored: dict[str, _Stored]) -> None:
        chosen, size = list[tuple[Occurrence, bytes]](), 0
        for one in sorted(self._waiting.values(), key=lambda one: one.key):
            there = stored.get(one.key)
            value = _encoded(one)
            if value is None or (there is not None and not there.open):
                # It cannot be written; or it was, and stays as it is.
                self._drop(one.key)
                continue
            size += len(value)
            if chosen and (size > COMMIT_BYTES or len(chosen) >= MAX_OPERATIONS // 2):
                break
            chosen.append((one, value))
        if not chosen:
            return
        old = _superfluous(stored, {one.key: len(value) for one, value in chosen})
        operations: list[Operation] = [Put(PREFIX + one.key, value) for one, value in chosen]
        operations += [Delete(PREFIX + key) for key in old]
        keys = (*(one.key for one, _ in chosen), *old)
        conditions = [Condition(PREFIX + key, stored[key].revision if key in stored else 0) for key in keys]
        async with answered_within(PATIENCE):
            result = await carry_out(self._bulk, Commit(tuple(conditions), tuple(operations)))
        if not result.accepted:
            # The leader before has written some of them meanwhile.
            self._stored = await self._read_keys()
            return
        for one, value in chosen:
            stored[one.key] = _Stored(result.revision, len(value), one.open)
            if self._waiting.get(one.key) is one:
                self._drop(one.key)
        for key in old:
            del stored[key]

    def _drop(self, key: str) -> None:
        self._waiting.pop(key, None)
        self._own.discard(key)

    async def _read_keys(self) -> dict[str, _Stored]:
        async with answered_within(PATIENCE):
            snapshot = await self._bulk.read(PREFIX)
        return {
            # What is unreadable may be written again.
            entry.key.removeprefix(PREFIX): _Stored(entry.revision, len(entry.value), one is None or one.open)
            async for entry, one in _decoded(snapshot)
        }


async def _decoded(snapshot: Snapshot) -> AsyncIterator[tuple[Entry, Occurrence | None]]:
    """The entries in the order of their keys, with what they mean, None when they are unreadable. Other tasks get their
    turns."""
    for number, entry in enumerate(sorted(snapshot.entries, key=lambda entry: entry.key)):
        if number % _AT_A_TIME == _AT_A_TIME - 1:
            await asyncio.sleep(0)
        try:
            yield entry, _decoder.decode(entry.value)
        except UNDECODABLE:
            yield entry, None


def _encoded(one: Occurrence) -> bytes | None:
    """The value; None for one that no store takes: names of the system may have bytes that are no text."""
    try:
        value = _encoder.encode(one)
    except UnicodeEncodeError:
        return None
    return value if len(value) <= _LARGEST else None


def _superfluous(stored: Mapping[str, _Stored], new: Mapping[str, int]) -> list[str]:
    """The oldest keys that have to go when ``new`` (key → size) comes, some at a time."""
    old = list[str]()
    number = len(stored.keys() | new.keys())
    size = sum(one.size for key, one in stored.items() if key not in new) + sum(new.values())
    for key in sorted(stored.keys() - new.keys()):
        if (number <= KEPT and size <= MOST_BYTES) or len(old) >= MAX_OPERATIONS // 2:
            break
        old.append(key)
        number, size = number - 1, size - stored[key].size
    return old
