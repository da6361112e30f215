"""Deliberate defects of holds, expiry and claims; :mod:`tests.sim.mutations` has the table of all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from locum.rules.claims import Claims
from locum.rules.commit_kinds import Claim, CommitKind, LeaderCommit
from locum.rules.effects import SendBeat
from locum.rules.hold import FailureDetector
from locum.rules.membership import Membership
from locum.rules.node import Node
from locum.rules.view import View
from locum.store.base import Commit, CommitResult, Condition
from locum_sim import world
from locum_sim.simulated_kernel import Kernel
from tests.sim.commit_conditions import change_conditions

Patch = pytest.MonkeyPatch


def _without_conditions(patch: Patch, kinds: type[CommitKind], unwanted: Callable[[Condition], bool]) -> None:
    """Commits of ``kinds`` lose the conditions that are ``unwanted``."""
    change_conditions(
        patch,
        lambda kind, _name, conditions: [c for c in conditions if not unwanted(c)] if isinstance(kind, kinds) else None,
    )


def unconditional(commit: Commit) -> Commit:
    """``commit`` without any condition."""
    return Commit((), commit.operations, dict.fromkeys((o.key for o in commit.operations), "a deliberate defect"))


def no_margin(patch: Patch) -> None:
    """Observers wait for the hold and not a moment longer."""
    patch.setattr(world, "margin_for", lambda _hold: 0.0)


def deadline_from_answer(patch: Patch) -> None:
    """The hold is counted from the store's answer, not from the sending of the beat."""
    original = Node.beat_done

    def beat_done(
        self: Node, request: int, result: CommitResult | None, _sent_at: float, now: float, wall: float
    ) -> None:
        original(self, request, result, now, now, wall)

    patch.setattr(Node, "beat_done", beat_done)


def beat_unconditional(patch: Patch) -> None:
    """A beat is accepted although the membership is gone."""

    def send(request: int, slot: int, commit: Commit, *others: Any) -> Any:
        return SendBeat(request, slot, unconditional(commit), *others)

    patch.setattr("locum.rules.beats.SendBeat", send)


def element_timeout_rounded_up(patch: Patch) -> None:
    """The gate counts in whole seconds and rounds up."""
    original = Kernel.timer_end
    patch.setattr(Kernel, "timer_end", lambda self, timeout: original(self, float(math.ceil(timeout + 0.001))))
    _no_wall_clock_end(patch)


def timeout_a_little_long(patch: Patch) -> None:
    """The gate closes 50 ms late."""
    original = Kernel.timer_end
    patch.setattr(Kernel, "timer_end", lambda self, timeout: original(self, timeout + 0.05))
    _no_wall_clock_end(patch)


def _no_wall_clock_end(patch: Patch) -> None:
    original = Kernel.arm
    patch.setattr(Kernel, "arm", lambda self, slot, timeout, _until: original(self, slot, timeout, math.inf))


def confirm_with_fresh_time(patch: Patch) -> None:
    """Confirming a slot starts its timer anew."""
    original = Kernel.confirm

    def confirm(self: Kernel, slot: int) -> None:
        self.slots[slot].expires = self.timer_end(2.0)
        self.slots[slot].until = math.inf
        original(self, slot)

    patch.setattr(Kernel, "confirm", confirm)


def no_wall_clock_end(patch: Patch) -> None:
    """The gate knows jiffies only, which do not count the time that a machine is suspended."""
    _no_wall_clock_end(patch)


def expiry_after_own_outage(patch: Patch) -> None:
    """An observer trusts its sight however long it has seen nothing."""
    patch.setattr(FailureDetector, "trusted", lambda *_: True)
    original = FailureDetector.expires_at

    def expires_at(self: FailureDetector, view: View, node: str) -> float:
        self._trusted_since = 0.0
        return original(self, view, node)

    patch.setattr(FailureDetector, "expires_at", expires_at)


def expiry_without_beat_revision(patch: Patch) -> None:
    """An expiry takes effect although the node has beaten since."""
    _without_conditions(patch, LeaderCommit, lambda condition: condition.key.startswith("beat/"))


def expiry_without_claim_revision(patch: Patch) -> None:
    """An expiry deletes the claims that its leader has seen, whoever has made them anew since."""
    _without_conditions(patch, LeaderCommit, lambda condition: condition.key.startswith("claim/"))


def orphans_freed_at_once(patch: Patch) -> None:
    """A member key that vanishes frees the claims of its node at once."""
    patch.setattr(FailureDetector, "orphan_since", lambda *_: -math.inf)


def leader_write_unconditional(patch: Patch) -> None:
    """What a leader writes takes effect although it leads no more."""
    _without_conditions(patch, LeaderCommit, lambda _condition: True)


def claim_not_conditional(patch: Patch) -> None:
    """A claim is made although another node has one."""
    _without_conditions(patch, Claim, lambda condition: condition.key.startswith("claim/"))
    original = Claims.claim

    def claim(self: Claims, wanted: frozenset[str], plan_revision: int) -> None:
        view = self._context.view
        revisions = {key: view._revisions.pop(key) for key in list(view._revisions) if key.startswith("claim/")}
        for address in wanted:
            if self.mine(address):
                view._revisions[f"claim/{address}"] = revisions[f"claim/{address}"]
        original(self, wanted, plan_revision)
        view._revisions.update(revisions)

    patch.setattr(Claims, "claim", claim)


def claim_of_a_dead_member(patch: Patch) -> None:
    """A claim is made although the membership is gone or the plan has changed."""
    _without_conditions(patch, Claim, lambda condition: not condition.key.startswith("claim/"))


def unclaim_before_release(patch: Patch) -> None:
    """A claim is given up while the address is still here."""
    original = Claims.give_up
    patch.setattr(Claims, "give_up", lambda self, wanted, _local: original(self, wanted, {}))


def take_before_release(patch: Patch) -> None:
    """What the plan gives is taken without a claim, whoever still has it."""
    patch.setattr(Claims, "firm", lambda *_: True)


def late_unclaim_forgotten(patch: Patch) -> None:
    """A claim whose deletion may still be under way is relied on."""
    patch.setattr(Claims, "firm", Claims.mine)


def adoption_of_the_dead(patch: Patch) -> None:
    """An agent whose predecessor's membership is over joins anew without silencing what it left."""
    original = Membership.lose

    def lose(self: Membership, why: str) -> None:
        original(self, why)
        if "previous agent" in why:
            self._parts.serving.local.clear()
            self._parts.context.effects.clear()

    patch.setattr(Membership, "lose", lose)
