"""The view: one node's mirror of the cluster's keys.

It is fed by the store's watch, and by the node's own accepted commits ahead of the watch (they *are*
committed; waiting for their echo would cost a round trip). Per key it only moves forward in revision. The
whole need not be a snapshot of one revision: every write that a decision leads to is conditional on the
revisions that the decision read, so a mixed view costs a retry, never a wrong write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar, cast

import msgspec

from locum.cluster import schema
from locum.cluster.schema import (
    AdminRecord,
    BeatRecord,
    ClaimRecord,
    HealthRecord,
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
from locum.errors import StoreCorrupt
from locum.store.base import Batch, Change, Condition, Delete, Operation, Put, Snapshot

T = TypeVar("T", bound=Record)

#: How far a count may be ahead of the store's revision. Each step of an honest one takes a commit: it is never ahead.
#: With this room no honest count that goes on from a forged one comes near the largest number that can be read.
COUNT_AHEAD = 10**9
#: Kinds of keys that give a right to somebody, who may change unseen.
RIGHTS = ("claim", "member")
#: What stands for an admin record that cannot be read when nothing is known from before.
UNREADABLE = AdminRecord(disabled=True)


def _check_count(key: str, record: Record | None, revision: int) -> None:
    """Raise StoreCorrupt when ``record`` counts what cannot have happened by ``revision``."""
    count = 0
    if isinstance(record, (PlanRecord, PhaseRecord)):
        count = record.epoch
    elif isinstance(record, BeatRecord):
        count = record.sequence
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
        self.revision = 0
        self.loaded = False
        self.nodes: Table[NodeRecord] = {}
        self.numbers: Table[NumberRecord] = {}
        self.admin: Table[AdminRecord] = {}
        self.prefer: Table[PreferRecord] = {}
        self.tunables: Table[TunableRecord] = {}
        self.members: Table[MemberRecord] = {}
        self.beats: Table[BeatRecord] = {}
        self.health: Table[HealthRecord] = {}
        self.phases: Table[PhaseRecord] = {}
        self.claims: Table[ClaimRecord] = {}
        self._singles: dict[str, Table[Record]] = {"leader": {}, "plan": {}}
        #: Keys whose value is not a record of their kind, with the complaint. They count as present; the
        #: record that was known before stays in its table.
        self.corrupt: dict[str, str] = {}
        self._revisions: dict[str, int] = {}
        self._tables: dict[str, Table[Record]] = {
            kind: cast("Table[Record]", table)
            for kind, table in {
                "node": self.nodes,
                "number": self.numbers,
                "admin": self.admin,
                "prefer": self.prefer,
                "tunable": self.tunables,
                "member": self.members,
                "beat": self.beats,
                "health": self.health,
                "phase": self.phases,
                "claim": self.claims,
                **self._singles,
            }.items()
        }
        # Keys deleted by our own commits whose echo has not come yet: older puts must not bring them back.
        self._tombstones: dict[str, int] = {}

    @property
    def leader(self) -> Versioned[LeaderRecord] | None:
        """Who leads, void or not."""
        return cast("Versioned[LeaderRecord] | None", self._singles["leader"].get(""))

    @property
    def plan(self) -> Versioned[PlanRecord] | None:
        """The present plan."""
        return cast("Versioned[PlanRecord] | None", self._singles["plan"].get(""))

    def known(self, key: str) -> Record | None:
        """The record behind ``key`` that was read last, of whatever kind it is."""
        kind, name = schema.split_key(key)
        found = self._tables.get(kind, {}).get(name)
        return found.record if found is not None else None

    def revision_of(self, key: str) -> int:
        """The revision of ``key`` as seen, 0 when absent: what a condition on it must say."""
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

    def reset(self, snapshot: Snapshot) -> set[str]:
        """Become ``snapshot``; returns the keys that changed by it."""
        present = {entry.key for entry in snapshot.entries}
        gone = [Change(key, None, snapshot.revision) for key in self._revisions if key not in present]
        changes = [*gone, *(Change(e.key, e.value, e.revision) for e in snapshot.entries)]
        self.loaded = True
        return self._take(changes, snapshot.revision, gap=True)

    def apply(self, batch: Batch) -> set[str]:
        """Take one commit from the watch; returns the keys that changed by it."""
        return self._take(batch.changes, batch.revision)

    def applied(self, operations: Sequence[Operation], revision: int) -> set[str]:
        """Take an own accepted commit ahead of its echo; returns the keys that changed by it."""
        changed: set[str] = set()
        if revision <= self.revision:
            # The watch has shown it already, and perhaps what others made of it since.
            return changed
        for operation in operations:
            value = operation.value if isinstance(operation, Put) else None
            if self._one(operation.key, value, revision):
                changed.add(operation.key)
            if isinstance(operation, Delete):
                self._tombstones[operation.key] = revision
        return changed

    def _take(self, changes: Iterable[Change], revision: int, *, gap: bool = False) -> set[str]:
        changed = {c.key for c in changes if self._one(c.key, c.value, c.revision, gap=gap)}
        if revision > self.revision:
            self.revision = revision
            if self._tombstones:
                self._tombstones = {k: r for k, r in self._tombstones.items() if r > revision}
        return changed

    def _one(self, key: str, value: bytes | None, revision: int, *, gap: bool = False) -> bool:
        """``gap``: the key may have had other values since the one that was seen last."""
        if revision <= max(self._revisions.get(key, 0), self._tombstones.get(key, 0)):
            return False
        kind, name = schema.split_key(key)
        table = self._tables.get(kind)
        self.corrupt.pop(key, None)
        if value is None:
            if table is not None:
                table.pop(name, None)
            return self._revisions.pop(key, None) is not None
        self._revisions[key] = revision
        try:
            record = schema.decode(key, value)
            self._check_promise(key, record)
            _check_count(key, record, revision)
        except StoreCorrupt as error:
            # What was known stays known (I9): one bad value must not enable a disabled node or void a member.
            self.corrupt[key] = str(error)
            if gap and kind in RIGHTS and table is not None:
                # What was known may long have been another's.
                table.pop(name, None)
            elif table is not None and name in table:
                table[name] = Versioned(table[name].record, revision)
            elif kind == "admin":
                # Nobody knows what an admin decided about this node: it serves nothing until one decides anew.
                self.admin[name] = Versioned(UNREADABLE, revision)
            return True
        if record is not None and table is not None:
            table[name] = Versioned(record, revision)
        return True

    def _check_promise(self, key: str, record: Record | None) -> None:
        """Raise StoreCorrupt when ``record`` changes the terms of a membership: others rely on those it joined with."""
        if isinstance(record, MemberRecord):
            known = self.members.get(schema.split_key(key)[1])
            if known is None or known.record.incarnation != record.incarnation:
                return
            if (known.record.hold, known.record.margin) != (record.hold, record.margin):
                raise StoreCorrupt(f"store key {key!r}: somebody changed a membership, which nobody may; delete it")
