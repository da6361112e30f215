"""The interface of a store, and nothing more.

Rules of this file: it knows no engine, no schema and no event loop policy. Any engine fits that is linearizable,
gives every commit a revision, and lets a client watch a prefix from a revision. It needs no leases, TTLs or locks:
Locum itself decides whether a node is alive (:mod:`locum.rules.hold`).

Revisions are positive integers that only grow; 0 is "before everything". The revision of a *key* is the revision of the
commit that wrote its present value (etcd: ``mod_revision``). A store that is wiped or restored from a copy breaks this
rule: it assigns earlier revisions again, to other commits. Users of a store must survive that (``docs/safety.md``).
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


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """All entries under a prefix as they were at ``revision`` of the store. ``began``: see :class:`CommitResult`."""

    revision: int
    entries: tuple[Entry, ...]
    began: int = 0


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
    """The write of one decision, and the conditions under which the decision is valid (I8).

    Every key in ``operations`` needs a condition: the revision at which the decision read it. A key without one must be
    in ``unguarded``, with the reason why the commit cannot overwrite a newer value wrongly. Otherwise the program has a
    defect: building the commit raises ValueError, so it never reaches a store.
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


class CommitResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """``accepted``: whether all conditions held; if so, all operations took effect at ``revision``.

    When not accepted, the commit had no effect and ``revision`` is the store's at the time of the check.

    ``began``: the revision at which the engine started without proof that it has its latest state; 0 for an engine that
    always has it. A key that the engine rewrote at its start does not prove that later commits are still there.
    """

    accepted: bool
    revision: int
    began: int = 0


#: A commit holds at most this many conditions and at most this many operations (etcd's default is 128).
MAX_OPERATIONS = 100


class Store(Protocol):
    """The interface. The docstring of each implementation says how it meets it.

    Every method raises :class:`locum.errors.StoreUnavailable` when the engine gives no answer. After that
    error a *commit* is ambiguous: the caller finds out by reading, never by assuming.
    """

    async def read(self, prefix: str) -> Snapshot:
        """All keys that start with ``prefix``, from one moment (linearizable)."""
        ...

    async def names(self, prefix: str) -> tuple[str, ...]:
        """The first parts, up to a "/", of all keys after ``prefix``, sorted; keys without a "/" there do not count.

        The cost is proportional to the number of names, not of keys. Linearizable as of the start of the call: no name
        that existed throughout the call is missing.
        """
        ...

    def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        """Every commit with a revision greater than ``after`` that changed a key under ``prefix``, in order and without
        a gap. Raises :class:`WatchLost` when ``after`` is no longer available (compacted, or the engine restarted): the
        caller reads again and watches from there.
        """
        ...

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        """Carry out all ``operations`` in one atomic step if all ``conditions`` hold, else none."""
        ...

    async def close(self) -> None:
        """Release sockets and tasks. Idempotent."""
        ...


async def carry_out(store: Store, commit: Commit) -> CommitResult:
    """Send ``commit`` to ``store``; all decisions use this function. Raises as :meth:`Store.commit`."""
    return await store.commit(commit.conditions, commit.operations)


class WatchLost(Exception):
    """A watch cannot continue from its position: read a snapshot and watch from there."""
