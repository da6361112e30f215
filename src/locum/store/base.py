"""What Locum asks of a store, and nothing more.

Rules of this file: it knows no engine, no schema and no event loop policy. Any engine that is linearizable,
gives every commit a revision, and lets a client watch a prefix from a revision, fits. No leases, no TTLs, no
locks are asked of it: whether a node is alive is Locum's own decision (:mod:`locum.rules.hold`).

Revisions are positive integers that only grow; 0 is "before everything". The revision of a *key* is the
revision of the commit that wrote its present value (etcd: ``mod_revision``). A store that is wiped or restored from a
copy breaks this rule: revisions that were given out before are given out again, for other commits. Users of a store
must survive that (``docs/safety.md``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """A key, its value, and the revision of the commit that wrote it."""

    key: str
    value: bytes
    revision: int


class Snapshot(msgspec.Struct, frozen=True):
    """All entries under a prefix as they were at ``revision`` of the store."""

    revision: int
    entries: tuple[Entry, ...]


class Change(msgspec.Struct, frozen=True):
    """One key's change: ``value`` is None when the key was deleted. ``revision`` is the commit's."""

    key: str
    value: bytes | None
    revision: int


class Batch(msgspec.Struct, frozen=True):
    """The changes of one commit (those under the watched prefix), delivered together, in revision order."""

    revision: int
    changes: tuple[Change, ...]


class Condition(msgspec.Struct, frozen=True):
    """``key`` must be at ``revision``; 0 means that the key must be absent.

    With ``at_least``, a later revision is as good: the key has not gone back.
    """

    key: str
    revision: int
    at_least: bool = False

    def holds(self, present: int) -> bool:
        """Whether the condition holds for a key whose revision is ``present`` (0: absent)."""
        return present >= self.revision if self.at_least else present == self.revision


class Put(msgspec.Struct, frozen=True, tag="put"):
    """Write ``value`` at ``key``."""

    key: str
    value: bytes


class Delete(msgspec.Struct, frozen=True, tag="delete"):
    """Delete ``key``; deleting an absent key is allowed and changes nothing."""

    key: str


Operation = Put | Delete


class Commit(msgspec.Struct, frozen=True):
    """A write of one decision, and the condition under which the decision still stands (I8).

    Every key in ``operations`` needs a condition on it: the revision at which the decision read it. A key that is
    written without one must be in ``unguarded``, with the reason why a newer value there cannot be harmed. A commit
    that leaves a key out is a mistake in the program: building it raises ValueError, so it never reaches a store.
    """

    conditions: tuple[Condition, ...]
    operations: tuple[Operation, ...]
    unguarded: Mapping[str, str] = {}

    def __post_init__(self) -> None:
        guarded = {condition.key for condition in self.conditions}
        for operation in self.operations:
            if operation.key not in guarded and not self.unguarded.get(operation.key):
                raise ValueError(
                    f"I8: {operation.key!r} is written without a condition on it: "
                    "add the revision that the decision read, or a reason to 'unguarded'"
                )


class CommitResult(msgspec.Struct, frozen=True):
    """``accepted`` tells whether all conditions held (then all operations took effect at ``revision``).

    When not accepted, nothing happened and ``revision`` is the store's at the time of the check.
    """

    accepted: bool
    revision: int


#: A commit holds at most this many conditions and at most this many operations (etcd's default is 128).
MAX_OPERATIONS = 100


class Store(Protocol):
    """The interface; implementations say in their docstring how they meet it.

    Every method raises :class:`locum.errors.StoreUnavailable` when the engine gives no answer. After that
    error a *commit* is ambiguous: the caller finds out by reading, never by assuming.
    """

    async def read(self, prefix: str) -> Snapshot:
        """All keys that start with ``prefix``, from one moment (linearizable)."""
        ...

    async def names(self, prefix: str) -> tuple[str, ...]:
        """The first parts, up to a "/", of all keys after ``prefix``, sorted; keys without a "/" there do not count.

        Costs in proportion to the number of names, not of keys. Linearizable as of its beginning: no name is missing
        that was there when the call began and still was when it ended.
        """
        ...

    def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        """Every commit with a revision greater than ``after`` that changed a key under ``prefix``, in order,
        none left out. Raises :class:`WatchLost` when ``after`` is no longer available (compacted, or the
        engine started anew): the caller reads again and watches from there.
        """
        ...

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        """Carry out all ``operations`` in one atomic step if all ``conditions`` hold, else none."""
        ...

    async def close(self) -> None:
        """Release sockets and tasks. Idempotent."""
        ...


async def carry_out(store: Store, commit: Commit) -> CommitResult:
    """Send ``commit`` to ``store``: the way for everything that decides. Raises what :meth:`Store.commit` does."""
    return await store.commit(commit.conditions, commit.operations)


class WatchLost(Exception):
    """A watch cannot go on from where it was; read a snapshot and begin anew."""
