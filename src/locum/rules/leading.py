"""The leader's work, and the way to become leader.

Rules of this file: every commit is conditional on the ``leader`` key that this node wrote (I8), so a leader that slept,
was cut off or was replaced changes nothing. One commit both expires a silent leader and takes the lead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from locum.rules import schema
from locum.rules.commit_kinds import (
    CommitKind,
    Expire,
    ForgetHeld,
    FreeKeys,
    LiftBan,
    RepairKeys,
    TakeLead,
    WritePlan,
)
from locum.rules.commits import Commits
from locum.rules.context import Context
from locum.rules.hold import FailureDetector
from locum.rules.joining import part_of_membership
from locum.rules.plan import configured, inactive, next_plan
from locum.rules.schema import AdminRecord, ClaimRecord, LeaderRecord, Record
from locum.rules.view import UNREADABLE
from locum.store.base import MAX_OPERATIONS, Condition, Delete, Operation, Put

#: Kinds of keys that can make another plan necessary.
PLANNING_KEYS = frozenset({"node", "member", "admin", "health", "phase", "prefer", "tunable", "plan", "leader"})
#: Kinds of keys that the leader rewrites when they became unreadable.
REPAIRED = ("leader", "admin", "prefer", "tunable", "number", "history", "held")


class Leading:
    """The leader's part of a node; every member has one, at most one of them acts."""

    def __init__(self, context: Context, commits: Commits, detector: FailureDetector) -> None:
        self._context = context
        self._commits = commits
        self._detector = detector
        self._replan = True
        self._epoch_floor = 0
        self._expiring: Expire | None = None
        self._proven: set[str] = set()

    def keys_changed(self, keys: set[str]) -> None:
        """The view changed at ``keys``."""
        kinds = {key.partition("/")[0] for key in keys}
        if not self._replan and not PLANNING_KEYS.isdisjoint(kinds):
            self._replan = True
        plan = self._context.view.plan
        if plan is not None and plan.record.epoch > self._epoch_floor:
            self._epoch_floor = plan.record.epoch

    def forget(self) -> None:
        """The store may have another history: proofs that holds have ended are void there."""
        self._proven.clear()
        self._expiring = None
        self._replan = True

    def leads(self) -> bool:
        """Whether this node's membership is the leader, as far as it knows."""
        leader = self._context.view.leader
        if leader is None or leader.record.node != self._context.name:
            return False
        return leader.record.incarnation == self._context.incarnation

    def step(self) -> None:
        """Act as leader, or take the lead when it is free. Called only while this node's hold is valid."""
        context, view = self._context, self._context.view
        if not self._commits.free(TakeLead()):
            return
        leader = view.leader
        if leader is None or not view.alive(leader.record.node, leader.record.incarnation):
            if self._may_lead():
                self._commits.start(TakeLead(), self._standing(), [self._me()])
        elif leader.record.node != context.name:
            if self._detector.expired(view, leader.record.node, context.now) and self._may_lead():
                self._expire(leader.record.node, self._standing(), [self._me()])
        else:
            self._lead(self._standing())

    def _standing(self) -> list[Condition]:
        """The conditions of every commit of a leader: its membership, and the ``leader`` key."""
        return [*self._context.membership(), self._context.view.condition("leader")]

    def _me(self) -> Put:
        return Put("leader", schema.encode(LeaderRecord(self._context.name, self._context.incarnation)))

    def next_due(self) -> float:
        """When time alone makes an action necessary: an expiry or the end of a ban."""
        view = self._context.view
        leads = self.leads()
        watched = [n for n in view.members if n != self._context.name] if leads else []
        if not leads and view.leader is not None and view.leader.record.node in view.members:
            watched = [view.leader.record.node]
        due = [self._detector.expires_at(view, n) for n in watched if n != self._context.name]
        if leads:
            wait = [a.record.banned_until - self._context.wall for a in view.admin.values() if a.record.banned_until]
            due += [self._context.now + max(w, 0.0) for w in wait]
            if (
                self._replan
                or view.corrupt
                or any(not view.alive(c.record.node, c.record.incarnation) for c in view.claims.values())
            ):
                due.append(self._context.now + 0.1)
        return min(due, default=math.inf)

    def _may_lead(self) -> bool:
        """A stopped or banned node leads only when no other node is alive."""
        view, context = self._context.view, self._context
        if not inactive(view, context.name, context.wall):
            return True
        return all(
            inactive(view, node, context.wall) or self._detector.expired(view, node, context.now)
            for node in view.members
        )

    def _expire(self, node: str, standing: list[Condition], first: list[Operation]) -> None:
        """Delete a silent node's membership and claims, provided that the beat seen is still its last."""
        context, view = self._context, self._context.view
        incarnation = view.members[node].record.incarnation
        conditions = [
            *standing,
            view.condition(f"member/{node}"),
            Condition(f"beat/{node}", self._detector.seen_revision(node)),
        ]
        operations = [*first, *(Delete(f"{kind}/{node}") for kind in ("member", "beat", "health", "phase"))]
        claims = [
            f"claim/{address}"
            for address, claim in sorted(view.claims.items())
            if claim.record.node == node and claim.record.incarnation == incarnation
        ]
        # Claims that do not fit become orphans; _free_orphans deletes them next.
        claims = claims[: MAX_OPERATIONS - max(len(conditions), len(operations))]
        # Since this view, the node may have given up a claim and another node may have made its own.
        conditions += [view.condition(key) for key in claims]
        operations += [Delete(key) for key in claims]
        kind = Expire(node, incarnation)
        if self._commits.start(kind, conditions, operations, part_of_membership(node)):
            self._expiring = kind
            context.note(f"{node} has been silent for its hold: expiring it", "warning")

    def _lead(self, standing: list[Condition]) -> None:
        context, view = self._context, self._context.view
        for node in sorted(view.members):
            if node != context.name and self._detector.expired(view, node, context.now):
                self._expire(node, standing, [])
                return
        if self._free_orphans(standing) or self._repair(standing) or self._lift_bans(standing):
            return
        if self._replan:
            if self._forget_held(standing):
                return
            plan = next_plan(view, context.tunables, context.wall, self._epoch_floor)
            if plan is None:
                self._replan = False
                return
            if self._commits.write(WritePlan(plan.epoch), "plan", plan, standing):
                self._replan = False
                context.note(f"plan {plan.epoch}: {plan.cause}")

    def _forget_held(self, standing: list[Condition]) -> bool:
        """Delete ``held/`` of addresses that no node is configured for: they may be given to other machines."""
        view = self._context.view
        nodes = [view.condition(f"node/{name}") for name in sorted(view.nodes)]
        room = MAX_OPERATIONS - len(standing) - len(nodes)
        gone = [f"held/{address}" for address in sorted(view.held.keys() - configured(view).keys())][: max(room, 0)]
        conditions = [*standing, *nodes, *(view.condition(key) for key in gone)]
        return bool(gone) and self._commits.start(ForgetHeld(), conditions, [Delete(key) for key in gone])

    def finished(self, kind: CommitKind, accepted: bool) -> None:
        """A commit of the leader was answered."""
        if accepted and self._expiring is not None and kind == self._expiring:
            self._proven.add(self._expiring.incarnation)
        self._expiring = None
        if not accepted:
            self._replan = True

    def _free_orphans(self, standing: list[Condition]) -> bool:
        """Delete claims without a member once no node can hold by them.

        They exist when an expiry did not have room for all, or when a foreign writer deleted a ``member`` key. In the
        first case this leader has the proof. In the second the node may still hold, for an unrecorded time: wait for
        the longest hold that any node has promised at its join.
        """
        context, view, detector = self._context, self._context.view, self._detector
        wait = max((m.record.hold + m.record.margin for m in view.members.values()), default=0.0)
        wait = max([wait, *(node.record.wait for node in view.nodes.values())])
        due: list[str] = []
        for address, claim in view.claims.items():
            if view.alive(claim.record.node, claim.record.incarnation):
                detector.orphan_gone(f"claim/{address}")
                continue
            since = detector.orphan_since(f"claim/{address}", view.revision_of(f"claim/{address}"), context.now)
            if claim.record.incarnation in self._proven or (
                since + wait <= context.now and detector.trusted(context.now)
            ):
                due.append(f"claim/{address}")
        for key in view.corrupt:
            # An unreadable claim: a holder rewrites it at once; if it stays unreadable, no node holds the address.
            # An unreadable membership: its node gives it up and joins again, unless it is dead.
            kind, name = schema.split_key(key)
            if not name:
                # A key of a kind that Locum does not write; an administrator decides.
                continue
            if (kind == "claim" and name not in view.claims) or (kind == "member" and name not in view.members):
                since = detector.orphan_since(key, view.revision_of(key), context.now)
                if since + wait <= context.now and detector.trusted(context.now):
                    due.append(key)
            elif kind == "held" and name not in view.held:
                # Without the record, the next node to take the address probes first; a holder rewrites it.
                due.append(key)
            elif kind in ("beat", "health", "phase") and name not in view.members:
                # It is meaningless without a membership; the node rewrites it once it is a member.
                due.append(key)
        # Each key may need a second condition, on a membership.
        due = sorted(due)[: (MAX_OPERATIONS - len(standing)) // 2]
        return bool(due) and self._commits.start(FreeKeys(), self._as_read(standing, due), [Delete(key) for key in due])

    def _as_read(self, standing: list[Condition], keys: Iterable[str]) -> list[Condition]:
        """``standing``, and that ``keys`` and their memberships are as this node read them."""
        view = self._context.view
        read: dict[str, None] = {}
        for key in keys:
            read[key] = None
            kind, name = schema.split_key(key)
            claim = view.claims.get(name) if kind == "claim" else None
            if claim is not None:
                read[f"member/{claim.record.node}"] = None
            elif kind in ("node", "beat", "health", "phase"):
                read[f"member/{name}"] = None
            elif kind == "member":
                read[f"beat/{name}"] = None
        present = {condition.key for condition in standing}
        return [*standing, *(view.condition(key) for key in read if key not in present)]

    def _repair(self, standing: list[Condition]) -> bool:
        """Rewrite unreadable keys whose last value this node still knows (I9).

        It rewrites only keys that no other node rewrites. These are the leader's own and the durable ones; an admin
        record that was never known is left alone, for an admin to decide (:data:`locum.rules.view.UNREADABLE`). They
        also include claims of living members: a member that holds the address rewrites its claim itself, but one that
        has released it, and has read the whole store since, no longer knows that the claim is its own.
        """
        context, view = self._context, self._context.view
        known: dict[str, Record] = {}
        for key in sorted(view.corrupt):
            kind, name = schema.split_key(key)
            record = view.record_of(key)
            lonely_node = kind == "node" and name not in view.members
            claimed = isinstance(record, ClaimRecord) and view.alive(record.node, record.incarnation)
            if record is not None and record is not UNREADABLE and (kind in REPAIRED or lonely_node or claimed):
                known[key] = record
        if not known:
            return False
        chosen = list(known)[: (MAX_OPERATIONS - len(standing)) // 2]
        conditions = self._as_read(standing, chosen)
        operations = [Put(key, schema.encode(known[key])) for key in chosen]
        if not chosen or not self._commits.start(RepairKeys(), conditions, operations):
            return False
        context.note(f"unreadable keys rewritten with their last known values: {', '.join(chosen)}", "warning")
        return True

    def _lift_bans(self, standing: list[Condition]) -> bool:
        context, view = self._context, self._context.view
        for node, admin in sorted(view.admin.items()):
            if 0 < admin.record.banned_until <= context.wall:
                free = AdminRecord(disabled=admin.record.disabled, stopped=admin.record.stopped)
                context.note(f"{node}: the ban is over")
                return self._commits.write(LiftBan(node), f"admin/{node}", free, standing)
        return False
