"""The core of the embedded store: keys, revisions, and the history that watches read.

Rules of this file: plain data and plain functions. No clock, no event loop, no socket, no file:
:mod:`locum.store.memory` and :mod:`locum.store.sqlite` add those, and the simulation uses it as it is.

Theory: commits happen one at a time, so the state after revision N is well defined and every read is linearizable. A
commit is two steps, so that a log can be written between them: :meth:`KeyValue.evaluate` decides without a change,
:meth:`KeyValue.apply` cannot fail. Every commit that changes a key takes the next revision; the latest commits are kept
as the history. A watch is only a cursor into that history. A slow watcher costs no memory; once its position has been
dropped from the history, it gets :class:`WatchLost`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from locum.store.base import (
    MAX_OPERATIONS,
    Batch,
    Change,
    CommitResult,
    Condition,
    Entry,
    Operation,
    Put,
    Snapshot,
    WatchLost,
)

#: Largest commit in bytes, keys and values together. etcd refuses requests above 1.5 MiB (--max-request-bytes).
MAX_COMMIT_BYTES = 1024 * 1024

#: The character after "/" in the order of keys: a name's keys end before it.
AFTER_SLASH = chr(ord("/") + 1)

#: The history keeps at most this many commits, and at most this many bytes of keys and values.
HISTORY_COMMITS = 10_000
HISTORY_BYTES = 32 * 1024 * 1024


def check_commit(conditions: Sequence[Condition], operations: Sequence[Operation]) -> None:
    """Raise ValueError for a commit that some engine could not carry out: a defect of the caller, never of the data.

    Every store calls this, so that a commit that works on one works on all. etcd allows a key only once among the
    operations of a transaction.
    """
    for kind, count in (("conditions", len(conditions)), ("operations", len(operations))):
        if count > MAX_OPERATIONS:
            raise ValueError(f"a commit has {count} {kind}; at most {MAX_OPERATIONS} are possible")
    size = 0
    keys = set()
    for operation in operations:
        keys.add(operation.key)
        size += len(operation.key) + (len(operation.value) if isinstance(operation, Put) else 0)
    if len(keys) != len(operations):
        raise ValueError("a commit changes a key twice")
    if "" in keys or any(not condition.key for condition in conditions):
        raise ValueError("a commit names an empty key")
    if any(condition.revision < 0 for condition in conditions):
        raise ValueError("a condition has a negative revision")
    if size > MAX_COMMIT_BYTES:
        raise ValueError(f"a commit has {size} bytes; at most {MAX_COMMIT_BYTES} are possible")


def _size(batch: Batch) -> int:
    return sum(len(change.key) + len(change.value or b"") for change in batch.changes)


class KeyValue:
    """The state. Revisions grow by one with every commit that changes something.

    ``revision`` and ``entries`` are the initial state. A restarted store begins above every revision that it has ever
    assigned, so that no old condition and no old watch fits by accident. ``began``: as in
    :class:`locum.store.base.CommitResult`.
    """

    def __init__(
        self,
        *,
        revision: int = 0,
        entries: Iterable[Entry] = (),
        began: int = 0,
        history_commits: int = HISTORY_COMMITS,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        self._entries = {entry.key: entry for entry in entries}
        self._keys = sorted(self._entries)
        #: The revision of the last commit that changed something.
        self.revision = revision
        #: Every answer carries it.
        self.began = began
        #: The history begins after this revision.
        self.compacted = revision
        # The history is complete from the beginning as long as nothing was dropped.
        self._complete = not self._entries
        self._history: deque[Batch] = deque()
        self._history_size = 0
        self._history_commits = history_commits
        self._history_bytes = history_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> Entry | None:
        """The entry at ``key``."""
        return self._entries.get(key)

    def snapshot(self, prefix: str = "") -> Snapshot:
        """All entries under ``prefix``, sorted by key."""
        return Snapshot(self.revision, tuple(self._entries[key] for key in self._under(prefix)), self.began)

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """The first parts of the keys after ``prefix``; see :meth:`locum.store.base.Store.names`."""
        found = []
        index = bisect_left(self._keys, prefix)
        while index < len(self._keys) and (key := self._keys[index]).startswith(prefix):
            name, slash, _ = key[len(prefix) :].partition("/")
            if slash:
                found.append(name)
                index = bisect_left(self._keys, prefix + name + AFTER_SLASH, index)
            else:
                index += 1
        return tuple(found)

    def _under(self, prefix: str) -> Iterator[str]:
        for index in range(bisect_left(self._keys, prefix), len(self._keys)):
            key = self._keys[index]
            if not key.startswith(prefix):
                return
            yield key

    def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        """Carry out ``operations`` if all ``conditions`` hold. Raises what :func:`check_commit` does."""
        batch = self.evaluate(conditions, operations)
        if batch is None:
            return CommitResult(False, self.revision, self.began)
        self.apply(batch)
        return CommitResult(True, self.revision, self.began)

    def evaluate(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> Batch | None:
        """The changes of the commit, or None when a condition fails. Has no effect.

        A batch without changes (only deletions of absent keys) has the present revision; any other the next. Raises
        what :func:`check_commit` does.
        """
        check_commit(conditions, operations)
        for condition in conditions:
            entry = self._entries.get(condition.key)
            if not condition.holds(0 if entry is None else entry.revision):
                return None
        revision = self.revision + 1
        changes: list[Change] = []
        for operation in operations:
            if isinstance(operation, Put):
                changes.append(Change(operation.key, operation.value, revision))
            elif operation.key in self._entries:
                changes.append(Change(operation.key, None, revision))
        return Batch(revision if changes else self.revision, tuple(changes))

    def apply(self, batch: Batch) -> None:
        """Carry out the last result of :meth:`evaluate`; no other commit may have come between."""
        if not batch.changes:
            return
        assert batch.revision == self.revision + 1, "commits are applied in the order of their evaluation"
        for change in batch.changes:
            if change.value is None:
                del self._entries[change.key]
                del self._keys[bisect_left(self._keys, change.key)]
            else:
                if change.key not in self._entries:
                    insort(self._keys, change.key)
                self._entries[change.key] = Entry(change.key, change.value, batch.revision)
        self.revision = batch.revision
        self._history.append(batch)
        self._history_size += _size(batch)
        while len(self._history) > self._history_commits or self._history_size > self._history_bytes:
            self._drop_oldest()

    def history(self, after: int, prefix: str = "", limit: int | None = None) -> tuple[int, list[Batch]]:
        """The commits after revision ``after`` that changed keys under ``prefix``, and the revision up to which this is
        complete: the ``after`` of the next call. ``limit`` bounds the number of commits examined.

        Raises WatchLost when the history does not reach back to ``after``, or when ``after`` is in the future and thus
        from another store.
        """
        if after == 0 and self._complete:
            after = self.compacted
        if after < self.compacted:
            raise WatchLost(f"the history begins after revision {self.compacted}; {after} was requested")
        if after > self.revision:
            raise WatchLost(f"revision {after} is not in this store, which is at {self.revision}")
        start = after - self.compacted
        stop = len(self._history) if limit is None else min(len(self._history), start + limit)
        batches = []
        for batch in _slice(self._history, start, stop):
            if not prefix:
                batches.append(batch)
                continue
            changes = tuple(change for change in batch.changes if change.key.startswith(prefix))
            if changes:
                batches.append(Batch(batch.revision, changes))
        return self.compacted + stop, batches

    def compact(self, revision: int) -> None:
        """Drop the history up to and including ``revision``."""
        while self._history and self._history[0].revision <= revision:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        batch = self._history.popleft()
        self._history_size -= _size(batch)
        self.compacted = batch.revision
        self._complete = False


def _slice(history: deque[Batch], start: int, stop: int) -> Iterator[Batch]:
    # A deque is fast at its ends only, and a watch that keeps up needs the last few.
    length = len(history)
    if start > length // 2:
        return iter([history[index - length] for index in range(start, stop)])
    return islice(history, start, stop)
