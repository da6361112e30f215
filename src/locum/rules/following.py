"""The phases of a plan on one participant.

``prepare`` (only if the plan asks for it) → release and take (:mod:`locum.rules.serving`) → ``settled`` →
once every live participant is settled: ``ipreallocated`` and ``recovered`` (I3). A new epoch at any point
replaces the target. The others do not wait for a node that is no longer a member.

Rules of this file: phases and their events. It neither takes nor releases.
"""

from __future__ import annotations

import math

from locum.rules.activity import Activity
from locum.rules.commit_kinds import BanSelf, WritePhase
from locum.rules.commits import Commits
from locum.rules.context import Context
from locum.rules.effects import RunEvent
from locum.rules.plan import PREPARE_EVENTS, current_health, participants, unready
from locum.rules.schema import DIRTY, PREPARED, RECOVERED, SETTLED, AdminRecord, PhaseRecord, PlanRecord

#: The events that end a reconfiguration, in this order.
CLOSING_EVENTS = ("ipreallocated", "recovered")
#: Pause before a failed closing event is run again, in seconds. After BanAfterFailures failures it doubles each time,
#: up to the longest.
RETRY_PAUSE, LONGEST_RETRY_PAUSE = 1.0, 30.0


class Following:
    """The progress of one node with the present plan."""

    def __init__(self, context: Context, commits: Commits, activity: Activity) -> None:
        self._context = context
        self._commits = commits
        self._activity = activity
        self._prepared = 0
        self._recovered = 0
        self._settled_changes = -1
        self._phase: PhaseRecord | None = None
        self._preparing: tuple[int, list[str]] = (0, [])
        self._failures = 0
        self._retry_at = -math.inf
        self._ban: AdminRecord | None = None

    def adopt(self) -> None:
        """After a restart of the agent: continue from the phase in the store."""
        phase = self._context.view.phases.get(self._context.name)
        if phase is not None and phase.record.incarnation == self._context.incarnation:
            self._phase = phase.record
            if phase.record.phase == RECOVERED:
                self._recovered = phase.record.epoch
            self._prepared = phase.record.epoch

    def join(self) -> None:
        """A new incarnation starts without a phase: plans that name it direct it."""
        self._phase = None
        self._prepared = self._recovered = 0
        self._preparing = (0, [])
        self._settled_changes = -1

    def plan(self) -> PlanRecord | None:
        """The present plan, when this membership takes part in it."""
        plan = self._context.view.plan
        if plan is None or plan.record.participants.get(self._context.name) != self._context.incarnation:
            return None
        return plan.record

    def all_reached(self, plan: PlanRecord, phase: str) -> bool:
        """Whether every participant that is still a member has reached ``phase``."""
        return not unready(self._context.view, plan, phase)

    def nothing_left(self) -> bool:
        """Whether the cluster has taken over the addresses of this leaving node, as far as it can."""
        view, name, incarnation = self._context.view, self._context.name, self._context.incarnation
        if any(c.record.node == name and c.record.incarnation == incarnation for c in view.claims.values()):
            return False
        health = current_health(view, name)
        if health is None or not health.leaving:
            return False
        plan = self.plan()
        return plan is None or (name not in plan.assignment.values() and self.all_reached(plan, SETTLED))

    def may_move(self, plan: PlanRecord) -> bool:
        """Whether the preparations for ``plan`` are complete everywhere."""
        return not plan.prepare or self.all_reached(plan, PREPARED)

    def step(self, plan: PlanRecord, settled: bool, changes: int) -> None:
        """Write the phase that has been reached. ``changes``: the number of takes and releases so far."""
        view, name, key = self._context.view, self._context.name, f"phase/{self._context.name}"
        own, target = view.phases.get(name), self._target(plan, settled, changes)
        known = own.record if own is not None and own.record.incarnation == self._context.incarnation else None
        if target is not None and (target != known or key in view.corrupt):
            self._commits.write(WritePhase(), key, target, [view.condition(f"member/{name}")])

    def _target(self, plan: PlanRecord, settled: bool, changes: int) -> PhaseRecord | None:
        epoch, incarnation = plan.epoch, self._context.incarnation
        if self._phase is not None and self._phase.epoch == epoch and self._phase.phase in (SETTLED, RECOVERED, DIRTY):
            if self._settled_changes < 0:
                self._settled_changes = changes
            if changes != self._settled_changes:
                if self._phase.phase != DIRTY:
                    why = f"addresses of {self._context.name} changed after plan {epoch} had settled"
                    self._phase = PhaseRecord(incarnation, epoch, DIRTY, why)
            elif self._phase.phase == SETTLED and self._recovered == epoch:
                self._phase = PhaseRecord(incarnation, epoch, RECOVERED)
            return self._phase
        if settled and self.may_move(plan):
            self._settled_changes = changes
            self._phase = PhaseRecord(incarnation, epoch, SETTLED)
        elif plan.prepare and self._prepared == epoch:
            self._phase = PhaseRecord(incarnation, epoch, PREPARED)
        else:
            return None
        return self._phase

    def prepare_due(self, plan: PlanRecord) -> bool:
        """Whether the preparing events must still run for ``plan``."""
        return plan.prepare and self._prepared < plan.epoch

    def prepare(self, plan: PlanRecord) -> None:
        """Run the next preparing event."""
        if self._preparing[0] != plan.epoch:
            self._preparing = (plan.epoch, list(PREPARE_EVENTS))
        events = self._preparing[1]
        event = events.pop(0)

        def done(ok: bool, reason: str) -> None:
            if not ok:
                self._context.note(f"{event}: {reason}", "error")
            if not events:
                self._prepared = plan.epoch

        self._context.emit(RunEvent(self._activity.begin(event, done), event))

    def closing_due(self, plan: PlanRecord) -> bool:
        """Whether the closing events must run now."""
        if self._recovered >= plan.epoch or self._context.now < self._retry_at:
            return False
        if self._phase is None or self._phase.epoch != plan.epoch or self._phase.phase != SETTLED:
            return False
        return self.all_reached(plan, SETTLED) and self._all_released(plan)

    def _all_released(self, plan: PlanRecord) -> bool:
        """Whether every living node has released the addresses that ``plan`` does not give it, participant or not (I3).

        A stopped or banned node releases as well, and shows it by deleting its claims.
        """
        holder = self._context.view.claim_holder
        return all(holder(address) in (None, plan.assignment.get(address)) for address in self._context.view.claims)

    def close(self, plan: PlanRecord) -> None:
        """Run the closing events, one after the other, each as a separate activity."""
        self._close(plan, list(CLOSING_EVENTS))

    def _close(self, plan: PlanRecord, events: list[str]) -> None:
        event = events.pop(0)

        def done(ok: bool, reason: str) -> None:
            if not ok:
                self._failed(plan, event, reason)
            elif events:
                self._close(plan, events)
            else:
                self._failures = 0
                self._recovered = plan.epoch

        self._context.emit(RunEvent(self._activity.begin(event, done), event))

    def _failed(self, plan: PlanRecord, event: str, reason: str) -> None:
        """A closing event failed: retry after a pause. A node on which it keeps failing is banned when another node
        has shown that the event can succeed; a fault that all nodes share is not a reason to ban one of them."""
        context = self._context
        self._failures += 1
        limit = context.tunables.ban_after_failures
        over = self._failures - limit
        self._retry_at = context.now + (RETRY_PAUSE if over < 0 else min(RETRY_PAUSE * 2.0**over, LONGEST_RETRY_PAUSE))
        if over < 0:
            context.note(f"{event} failed ({self._failures} of {limit}): {reason}", "error")
        elif self._succeeds_elsewhere(plan):
            self._failures = 0
            self._retry_at = context.now + LONGEST_RETRY_PAUSE
            self.ban(f"{event} failed {limit + over} times: {reason}")
        else:
            again = self._retry_at - context.now
            why = "no other node has completed it either, so this node is not banned"
            context.note(f"{event} failed {self._failures} times: {reason}; {why}; again in {again:.0f} s", "error")

    def _succeeds_elsewhere(self, plan: PlanRecord) -> bool:
        """Whether another participant has completed the closing events of ``plan``."""
        view = self._context.view
        for node, incarnation in plan.participants.items():
            phase = view.phases.get(node)
            if node == self._context.name or phase is None or not view.alive(node, incarnation):
                continue
            record = phase.record
            if (record.incarnation, record.epoch, record.phase) == (incarnation, plan.epoch, RECOVERED):
                return True
        return False

    def _replacement(self) -> str | None:
        """Another node that can serve while this one is banned."""
        view = self._context.view
        for node in participants(view, self._context.wall):
            health, admin = current_health(view, node), view.admin.get(node)
            if node == self._context.name or health is None or not (health.earned and health.healthy) or health.leaving:
                continue
            if admin is None or not admin.record.disabled:
                return node
        return None

    def ban(self, reason: str) -> None:
        """Ban this node: it gives up its addresses and stays out of plans for RecoveryBanPeriod seconds."""
        context = self._context
        old = context.view.admin.get(context.name)
        period = context.tunables.recovery_ban_period
        self._ban = AdminRecord(
            disabled=old is not None and old.record.disabled,
            stopped=old is not None and old.record.stopped,
            banned_until=context.wall + period,
            ban_reason=reason,
        )
        context.note(f"banning this node for {period:.0f} s: {reason}", "error")

    def write_ban(self) -> None:
        """Commit a decided ban until it is in the store."""
        if self._ban is None:
            return
        old, wall = self._context.view.admin.get(self._context.name), self._context.wall
        if (old is not None and old.record.banned_until > wall) or self._ban.banned_until <= wall:
            self._ban = None
            return
        other = self._replacement()
        if other is None:
            self._context.note("this node is not banned: no other node could serve in its place", "error")
            self._ban = None
            return
        # Two nodes that ban themselves at once must not rely on each other: the later commit finds a key changed.
        conditions = [self._context.view.condition(f"{kind}/{other}") for kind in ("admin", "member")]
        self._commits.write(BanSelf(), f"admin/{self._context.name}", self._ban, conditions)

    def next_due(self, since: float) -> float:
        """When a failed closing event is to be retried, if it was not at ``since``."""
        return self._retry_at if self._retry_at > since else math.inf
