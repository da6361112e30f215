"""The view: one node's mirror of the cluster's keys.

Its input is the store's watch, and the node's own accepted commits ahead of the watch (they *are* committed; waiting
for their echo would cost a round trip). Each key only moves forward in revision. The whole need not be a snapshot of
one revision: every resulting write is conditional on the revisions that its decision read, so a mixed view costs a
retry and never causes a wrong write.

All of this holds within one history. A store that is wiped or restored from a copy goes back, and assigns revisions
again to other contents. None of the following can happen within one history, so each proves another one:

- the name under ``history`` differs, or the key is gone;
- an answer, a read or the watch shows a revision below one that was known before it was asked for; or a commit that
  wrote something was accepted at such a revision, or at that very one;
- a full read shows a key at an older revision than the one known, although the read itself is newer than that; or
  with another value at the same revision; or without the key at the very revision that wrote it.

Then the view forgets everything (:meth:`View.forget`) and says why (:attr:`View.another_history`).

Rules of this file: it mirrors and checks; it knows neither this node nor the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar, cast

import msgspec

from locum.errors import StoreCorrupt
from locum.rules import schema
from locum.rules.schema import (
    AdminRecord,
    BeatRecord,
    ClaimRecord,
    HealthRecord,
    HeldRecord,
    HistoryRecord,
    LeaderRecord,
    MemberRecord,
    NodeRecord,
    NumberRecord,
    PhaseRecord,
    PlanRecord,
    PreferRecord,
    Record,
    TunableRecord,
)
from locum.store.base import Batch, Change, CommitResult, Condition, Delete, Entry, Operation, Put, Snapshot

T = TypeVar("T", bound=Record)

#: Limit on how far a count may exceed the store's revision. An honest count never exceeds it, because each step takes a
#: commit. Within this room no honest count that continues from a forged one comes near the largest readable number.
COUNT_AHEAD = 10**9
#: Kinds of keys that grant a right to a node, which may change unseen.
RIGHTS = ("claim", "member")
#: Replaces an unreadable admin record without a known earlier value.
UNREADABLE = AdminRecord(disabled=True)


def _check_count(key: str, record: BeatRecord | PlanRecord | PhaseRecord, revision: int) -> None:
    """Raise StoreCorrupt when the count of ``record`` is impossible at ``revision``."""
    count = record.sequence if isinstance(record, BeatRecord) else record.epoch
    if count > revision + COUNT_AHEAD:
        raise StoreCorrupt(f"store key {key!r}: {count} is more than can have happened; delete or correct it")


class Versioned(msgspec.Struct, Generic[T], frozen=True):
    """A record and the revision that wrote it."""

    record: T
    revision: int


Table = dict[str, Versioned[T]]


class View:
    """The mirror. Read its tables freely; change it only through :meth:`apply`, :meth:`applied` and :meth:`reset`."""

    def __init__(self) -> None:
        #: The watch has shown everything up to this revision.
        self.revision = 0
        #: The highest revision that the store has shown in any way.
        self.known = 0
        self.loaded = False
        #: The number of changes other than beats: anything derived from all else stays right until it grows.
        self.changes = 0
        #: The number of full reads.
        self.reads = 0
        #: Why the store has another history than before, until the node has recorded it; else "".
        self.another_history = ""
        # Everything was forgotten: ignore input from before the next read.
        self._forgotten = False
        # First part of the key → the table of its records by the second part.
        self._tables: dict[str, Table[Record]] = {}
        self.nodes = self._table("node", NodeRecord)
        self.numbers = self._table("number", NumberRecord)
        self.admin = self._table("admin", AdminRecord)
        self.prefer = self._table("prefer", PreferRecord)
        self.tunables = self._table("tunable", TunableRecord)
        self.held = self._table("held", HeldRecord)
        self.members = self._table("member", MemberRecord)
        self.beats = self._table("beat", BeatRecord)
        self.health = self._table("health", HealthRecord)
        self.phases = self._table("phase", PhaseRecord)
        self.claims = self._table("claim", ClaimRecord)
        # The table of each kind with a single key: empty, or with one record under "".
        self._leader = self._table("leader", LeaderRecord)
        self._plan = self._table("plan", PlanRecord)
        self._history = self._table("history", HistoryRecord)
        #: Unreadable keys → the problem. They count as present; the last readable record stays in its table.
        self.corrupt: dict[str, str] = {}
        self._revisions: dict[str, int] = {}
        # Keys deleted by own commits whose echo has not come yet: older puts must not bring them back.
        self._tombstones: dict[str, int] = {}

    def _table(self, kind: str, _: type[T]) -> Table[T]:
        table: Table[T] = {}
        self._tables[kind] = cast("Table[Record]", table)
        return table

    @property
    def leader(self) -> Versioned[LeaderRecord] | None:
        """The leader, void or not."""
        return self._leader.get("")

    @property
    def plan(self) -> Versioned[PlanRecord] | None:
        """The present plan."""
        return self._plan.get("")

    @property
    def history(self) -> Versioned[HistoryRecord] | None:
        """The name of the store's history."""
        return self._history.get("")

    def record_of(self, key: str) -> Record | None:
        """The last readable record behind ``key``, of any kind."""
        kind, name = schema.split_key(key)
        found = self._tables.get(kind, {}).get(name)
        return found.record if found is not None else None

    def known_keys(self) -> list[str]:
        """All present keys, sorted."""
        return sorted(self._revisions)

    def revision_of(self, key: str) -> int:
        """The revision of ``key`` as seen, 0 when absent: the value for a condition on it."""
        return self._revisions.get(key, 0)

    def condition(self, key: str) -> Condition:
        """The condition that ``key`` is still as seen."""
        return Condition(key, self.revision_of(key))

    def alive(self, node: str, incarnation: str) -> bool:
        """Whether ``incarnation`` is the present membership of ``node``."""
        member = self.members.get(node)
        return member is not None and member.record.incarnation == incarnation

    def claim_holder(self, address: str) -> str | None:
        """The node whose claim on ``address`` is valid, if any."""
        claim = self.claims.get(address)
        if claim is not None and self.alive(claim.record.node, claim.record.incarnation):
            return claim.record.node
        return None

    def claim_of(self, address: str) -> tuple[str, str] | None:
        """Node and incarnation of the claim on ``address``, alive or not; None without a readable claim."""
        claim = self.claims.get(address)
        return None if claim is None else (claim.record.node, claim.record.incarnation)

    def reset(self, snapshot: Snapshot, known: int = 0) -> set[str]:
        """Become ``snapshot``; returns the keys that changed.

        ``known``: the value of :attr:`known` when the snapshot was requested.
        """
        changed: set[str] = set()
        why = self._contradiction(snapshot, known)
        if why:
            changed = self.forget()
            self.another_history = why
        present = {entry.key for entry in snapshot.entries}
        gone = [Change(key, None, snapshot.revision) for key in self._revisions if key not in present]
        changes = [*gone, *(Change(e.key, e.value, e.revision) for e in snapshot.entries)]
        self.loaded = True
        self._forgotten = False
        self.reads += 1
        return changed | self._take(changes, snapshot.revision, gap=True)

    def apply(self, batch: Batch) -> set[str]:
        """Take one commit from the watch; returns the keys that changed."""
        if self._forgotten:
            return set()
        if batch.revision <= self.revision:
            why = f"its watch went back from revision {self.revision} to {batch.revision}"
        else:
            named = {change.key: change.value for change in batch.changes if change.key == "history"}
            why = self._other_name(named, whole=False) if named else ""
        if why:
            changed = self.forget()
            self.another_history = why
            return changed
        return self._take(batch.changes, batch.revision)

    def forget(self) -> set[str]:
        """Forget everything, as before the first read; returns the keys that were known."""
        keys = set(self._revisions)
        for table in self._tables.values():
            table.clear()
        for memory in (self.corrupt, self._revisions, self._tombstones):
            memory.clear()
        self.revision = self.known = 0
        self.loaded = False
        self._forgotten = True
        self.changes += 1
        return keys

    def answered(self, result: CommitResult, operations: Sequence[Operation], known: int) -> str:
        """Record an answer's revision; returns why it belongs to another history, or "".

        ``known``: the value of :attr:`known` when the commit was sent.
        """
        wrote = result.accepted and any(isinstance(operation, Put) for operation in operations)
        if result.revision < known or (wrote and result.revision == known):
            return f"its revision went back from {known} to {result.revision}"
        self.known = max(self.known, result.revision)
        return ""

    def _contradiction(self, snapshot: Snapshot, known: int) -> str:
        """Why ``snapshot`` cannot belong to the known history, or ""."""
        if snapshot.revision < known:
            return f"its revision went back from {known} to {snapshot.revision}"
        present = {entry.key: entry for entry in snapshot.entries}
        why = self._other_name({key: entry.value for key, entry in present.items()}, whole=True)
        if why:
            return why
        for key, revision in self._revisions.items():
            entry = present.get(key)
            if entry is None:
                if revision == snapshot.revision:
                    return f"{key} is missing at the revision that wrote it, {revision}"
            elif entry.revision < revision <= snapshot.revision:
                return f"{key} went back from revision {revision} to {entry.revision}"
            elif entry.revision == revision and self._differs(entry):
                return f"{key} has another value at revision {revision}"
        return ""

    def _other_name(self, values: dict[str, bytes | None], *, whole: bool) -> str:
        """Why ``values`` (all keys, if ``whole``; else those that change) name another history, or ""."""
        known = self.history
        if known is None or not (whole or "history" in values):
            return ""
        value = values.get("history")
        if value is None:
            return "the name of its history is gone"
        try:
            record = schema.decode("history", value)
        except StoreCorrupt:
            # Made unreadable by a foreign writer; the leader rewrites it.
            return ""
        return "" if record == known.record else "its history has another name"

    def _differs(self, entry: Entry) -> bool:
        kind, name = schema.split_key(entry.key)
        known = self._tables.get(kind, {}).get(name)
        if known is None or entry.key in self.corrupt:
            return False
        try:
            return schema.decode(entry.key, entry.value) != known.record
        except StoreCorrupt:
            return True

    def applied(self, operations: Sequence[Operation], revision: int) -> set[str]:
        """Take an own accepted commit ahead of its echo; returns the keys that changed."""
        changed: set[str] = set()
        if revision <= self.revision or self._forgotten:
            # The watch has shown it already, and perhaps later changes.
            return changed
        for operation in operations:
            value = operation.value if isinstance(operation, Put) else None
            if self._one(operation.key, value, revision):
                changed.add(operation.key)
            if isinstance(operation, Delete):
                self._tombstones[operation.key] = revision
        return changed

    def _take(self, changes: Iterable[Change], revision: int, *, gap: bool = False) -> set[str]:
        changed: set[str] = set()
        for change in changes:
            if self._one(change.key, change.value, change.revision, gap=gap):
                changed.add(change.key)
        self.known = max(self.known, revision)
        if revision > self.revision:
            self.revision = revision
            if self._tombstones:
                self._tombstones = {k: r for k, r in self._tombstones.items() if r > revision}
        return changed

    def _one(self, key: str, value: bytes | None, revision: int, *, gap: bool = False) -> bool:
        """Take one key. ``gap``: it may have had other values since the last one seen."""
        if revision <= self._revisions.get(key, 0):
            return False
        if self._tombstones and revision <= self._tombstones.get(key, 0):
            return False
        kind, _, name = key.partition("/")
        table = self._tables.get(kind)
        if kind != "beat":
            self.changes += 1
        if self.corrupt and self.corrupt.pop(key, None) is not None:
            self.changes += 1
        if value is None:
            if table is not None:
                table.pop(name, None)
            return self._revisions.pop(key, None) is not None
        self._revisions[key] = revision
        try:
            record = schema.decode(key, value)
            if isinstance(record, MemberRecord):
                self._check_promise(key, name, record)
            elif isinstance(record, (BeatRecord, PlanRecord, PhaseRecord)):
                _check_count(key, record, revision)
        except StoreCorrupt as error:
            # The known record stays (I9): one bad value must not enable a disabled node or void a member.
            self.corrupt[key] = str(error)
            self.changes += 1
            if gap and kind in RIGHTS and table is not None:
                # The known record may have been another node's for a while.
                table.pop(name, None)
            elif table is not None and name in table:
                table[name] = Versioned(table[name].record, revision)
            elif kind == "admin":
                # An admin's decision about this node is unknown: the node serves nothing until an admin decides again.
                self.admin[name] = Versioned(UNREADABLE, revision)
            return True
        if record is not None and table is not None:
            table[name] = Versioned(record, revision)
        return True

    def _check_promise(self, key: str, name: str, record: MemberRecord) -> None:
        """Raise StoreCorrupt when ``record`` changes a membership's terms: others rely on the terms of its join."""
        known = self.members.get(name)
        if known is None or known.record.incarnation != record.incarnation:
            return
        if (known.record.hold, known.record.margin) != (record.hold, record.margin):
            raise StoreCorrupt(
                f"store key {key!r}: member record modified after creation; delete the key and the node rejoins"
            )
