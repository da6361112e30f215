"""Deliberate defects, each switched on by a test, that the simulation must find.

A mutation is a function that changes the rules, the agent or the kernel through a monkeypatch; production code
knows nothing of them. ``MUTATIONS`` says for each what it must violate and with which knobs it is found soon.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from locum.rules import plan as planning
from locum.rules.beats import Beats
from locum.rules.context import Context
from locum.rules.damping import Rule
from locum.rules.effects import ReadAnew
from locum.rules.following import Following
from locum.rules.history import History
from locum.rules.leading import Leading
from locum.rules.membership import Membership
from locum.rules.moment import Moment
from locum.rules.node import LOOK_AGAIN, Adoption, Node
from locum.rules.obstacles import Obstacles
from locum.rules.parts import Parts
from locum.rules.schema import HealthRecord
from locum.rules.serving import Serving
from locum.rules.upkeep import Upkeep
from locum.rules.view import View
from locum.store.base import Condition
from locum_sim.run import Knobs
from tests.sim.hold_mutations import (
    Patch,
    adoption_of_the_dead,
    beat_unconditional,
    claim_not_conditional,
    claim_of_a_dead_member,
    confirm_with_fresh_time,
    deadline_from_answer,
    element_timeout_rounded_up,
    expiry_after_own_outage,
    expiry_without_beat_revision,
    expiry_without_claim_revision,
    late_unclaim_forgotten,
    leader_write_unconditional,
    no_margin,
    no_wall_clock_end,
    orphans_freed_at_once,
    take_before_release,
    timeout_a_little_long,
    unclaim_before_release,
)


class Mutation(NamedTuple):
    """``invariants``: those of which one must be seen violated. ``seeds``: within how many seeds it must be found."""

    apply: Callable[[Patch], None]
    invariants: tuple[str, ...]
    knobs: Knobs = Knobs()
    seeds: int = 60


def closing_does_not_wait(patch: Patch) -> None:
    """A node runs ``recovered`` as soon as it is settled itself."""
    original = Following.all_reached

    def all_reached(self: Following, plan: Any, phase: str) -> bool:
        return phase == "settled" or original(self, plan, phase)

    patch.setattr(Following, "all_reached", all_reached)


def _nothing_due(moment: Moment) -> str | None:  # noqa: ARG001 - called by name
    return None


def settled_while_moving(patch: Patch) -> None:
    """A node says that it is settled while an address changes its interface."""
    original = Serving.settled

    def settled(self: Serving, moment: Moment) -> bool:
        moving, self.moving = self.moving, None
        self.update_due, due = _nothing_due, self.update_due  # type: ignore[method-assign]
        try:
            return original(self, moment)
        finally:
            self.moving, self.update_due = moving, due  # type: ignore[method-assign]

    patch.setattr(Serving, "settled", settled)


def changes_after_settling_forgotten(patch: Patch) -> None:
    """What changes after a node has settled is never closed."""
    original = Following._target

    def target(self: Following, plan: Any, settled: bool, _changes: int) -> Any:
        return original(self, plan, settled, 0)

    patch.setattr(Following, "_target", target)


def overlapping_scripts(patch: Patch) -> None:
    """The runner does not wait for what an earlier one left."""
    patch.setattr("locum_sim.host.Host._kill_orphan", lambda *_: None)
    patch.setattr("locum_sim.machine_state.MachineState.kill_children", lambda self: setattr(self, "child", None))


def unearned(patch: Patch) -> None:
    """A node serves as soon as it is a member."""
    original = planning.current_health

    def health(view: View, node: str) -> HealthRecord | None:
        found = original(view, node)
        if found is None:
            return None
        return HealthRecord(found.incarnation, True, True, True, "", found.down, found.refused, found.leaving)

    patch.setattr(planning, "current_health", health)


def ban_forgets(patch: Patch) -> None:
    """A node that bans itself overwrites what admins decided."""
    original = Following.ban

    def ban(self: Following, reason: str) -> None:
        original(self, reason)
        assert self._ban is not None
        self._ban = type(self._ban)(banned_until=self._ban.banned_until, ban_reason=reason)

    patch.setattr(Following, "ban", ban)


def beats_starve(patch: Patch) -> None:
    """The beats of others put off what is due."""

    def next_wakeup(self: Node, original: Callable[[Node], float] = Node.next_wakeup) -> float:
        looked, self._looked, self._wakeup = self._looked, -math.inf, None
        soonest = original(self)
        self._looked = looked
        return soonest if soonest > self.parts.context.now else self.parts.context.now + LOOK_AGAIN

    patch.setattr(Node, "next_wakeup", next_wakeup)


def orphan_of_a_lost_plan(patch: Patch) -> None:
    """A plan that cannot be read is left as it is."""
    original = Leading._lead

    def lead(self: Leading, standing: list[Condition]) -> None:
        if "plan" not in self._context.view.corrupt:
            original(self, standing)

    patch.setattr(Leading, "_lead", lead)


def stopped_nodes_not_waited_for(patch: Patch) -> None:
    """``recovered`` does not wait for the releases of a node that takes no part in the plan."""
    patch.setattr(Following, "_all_released", lambda *_: True)


def refusals_of_the_kernel_forgotten(patch: Patch) -> None:
    """An address that the kernel does not accept is only logged."""
    patch.setattr(Upkeep, "failed", lambda *_: False)


def gate_failures_forgotten(patch: Patch) -> None:
    """A gate that cannot be armed is only logged."""
    patch.setattr(Obstacles, "unable", lambda *_: "")


def restored_without_a_word(patch: Patch) -> None:
    """An address that came back is no news for the scripts."""
    patch.setattr(Upkeep, "forgotten", lambda *_: None)


def adopted_without_a_look(patch: Patch) -> None:
    """A restarted agent does not look whether the kernel still has what its predecessor had taken."""
    original = Membership._adopt

    def adopt(self: Membership, adoption: Adoption) -> None:
        original(self, msgspec.structs.replace(adoption, missing=frozenset()))

    patch.setattr(Membership, "_adopt", adopt)


def links_undamped(patch: Patch) -> None:
    """A link counts as soon as it is back."""
    patch.setattr(Rule, "pause", lambda *_: 0.0)


def what_is_known_outlives_the_store(patch: Patch) -> None:
    """Whatever has the higher revision stays, also when everything is read anew."""
    patch.setattr(View, "_contradiction", lambda *_: "")
    patch.setattr(View, "answered", lambda *_: "")
    patch.setattr(View, "apply", lambda self, batch: self._take(batch.changes, batch.revision))


def begun_at_once(patch: Patch) -> None:
    """A node claims and takes as soon as it has a hold, whoever may hold by what the store has lost."""
    patch.setattr(History, "may_begin", lambda _: True)


def last_beat_not_demanded(patch: Patch) -> None:
    """The store carries out what a member decides, though it has lost the member's last beat."""
    patch.setattr(Context, "membership", lambda self: [self.view.condition(f"member/{self.name}")])


def gap_overlooked(patch: Patch) -> None:
    """A hold that is regained after a gap goes on as if the store could not have gone back in it."""
    original = Beats._look_for_gap

    def look_for_gap(self: Beats, now: float, wall: float) -> None:
        if self._parts.hold.deadline == 0.0:
            self._parts.hold.proven = now
            original(self, now, wall)

    patch.setattr(Beats, "_look_for_gap", look_for_gap)


def _rely_on_the_view(parts: Parts) -> None:
    parts.history._doubted_at_read = -1
    parts.context.effects = [effect for effect in parts.context.effects if not isinstance(effect, ReadAnew)]


def gap_without_reading(patch: Patch) -> None:
    """After a gap a node relies on the claims that it knew before."""
    original = Beats._look_for_gap

    def look_for_gap(self: Beats, now: float, wall: float) -> None:
        original(self, now, wall)
        _rely_on_the_view(self._parts)

    patch.setattr(Beats, "_look_for_gap", look_for_gap)


def refused_and_not_read_anew(patch: Patch) -> None:
    """A node whose beat was refused goes on with what it knew."""
    original = Node.beat_done

    def beat_done(self: Node, *arguments: Any) -> None:
        original(self, *arguments)
        _rely_on_the_view(self.parts)

    patch.setattr(Node, "beat_done", beat_done)


#: The faults that matter for a store that goes back: whoever was cut off, frozen or restarted at the wrong time.
BACK = (
    "store_restored",
    "store_restored",
    "store_wiped",
    "cut",
    "cut_up",
    "lag_watch",
    "freeze_all",
    "kill_agent",
    "kill_all",
    "link_down",
    "delay_messages",
)
MUTATIONS: dict[str, Mutation] = {
    mutation.apply.__name__: mutation
    for mutation in (
        Mutation(no_margin, ("I1",)),
        Mutation(
            deadline_from_answer, ("I1",), Knobs(only=("delay_messages", "freeze_all", "cut_up"), nodes=3, calm=0.2)
        ),
        Mutation(beat_unconditional, ("I1", "I2", "I8")),
        Mutation(element_timeout_rounded_up, ("I1",)),
        Mutation(timeout_a_little_long, ("I1",)),
        Mutation(confirm_with_fresh_time, ("I1",)),
        Mutation(no_wall_clock_end, ("I1",)),
        Mutation(expiry_after_own_outage, ("expiry",), Knobs(only=("store_outage",), nodes=3, calm=2.0)),
        Mutation(
            expiry_without_beat_revision,
            ("I8", "I1", "expiry"),
            Knobs(only=("delay_messages", "freeze_all", "cut"), nodes=3, calm=0.2),
        ),
        Mutation(expiry_without_claim_revision, ("I1", "I8"), Knobs(only=("late_release",), nodes=3, calm=0.5)),
        Mutation(orphans_freed_at_once, ("I1",), Knobs(only=("delete_key", "freeze_all"), nodes=3, calm=0.2)),
        Mutation(
            leader_write_unconditional, ("I8", "I1"), Knobs(only=("delay_messages", "freeze_all"), nodes=3, calm=0.2)
        ),
        Mutation(claim_not_conditional, ("I1", "I8")),
        Mutation(
            claim_of_a_dead_member,
            ("I8", "I1"),
            Knobs(only=("delay_messages", "admin", "freeze_agent"), hold=0.25, addresses=8, nodes=2, calm=0.1),
            seeds=200,
        ),
        Mutation(unclaim_before_release, ("I1", "I2")),
        Mutation(take_before_release, ("I1", "I2")),
        Mutation(
            late_unclaim_forgotten,
            ("I1",),
            Knobs(only=("delay_messages", "cut_up", "link_down", "kill_agent"), calm=0.2),
        ),
        Mutation(
            adoption_of_the_dead, ("I1", "I2", "liveness"), Knobs(only=("change_hold", "kill_agent"), nodes=3, calm=0.3)
        ),
        Mutation(what_is_known_outlives_the_store, ("liveness", "I1"), Knobs(only=BACK, nodes=3, calm=0.5)),
        Mutation(begun_at_once, ("I1", "I2"), Knobs(only=BACK, nodes=3, calm=0.5)),
        Mutation(
            last_beat_not_demanded,
            ("I1", "I2", "liveness"),
            Knobs(only=("store_restored", "kill_all", "link_down", "admin"), nodes=3, calm=0.5),
        ),
        Mutation(gap_overlooked, ("I1", "I2"), Knobs(only=BACK, nodes=3, calm=0.5)),
        Mutation(
            gap_without_reading,
            ("I1", "I2", "liveness"),
            Knobs(only=("store_restored", "cut", "cut_up", "link_down"), nodes=3, calm=0.5),
        ),
        Mutation(refused_and_not_read_anew, ("liveness", "I1"), Knobs(only=BACK, nodes=3, calm=0.5)),
        Mutation(closing_does_not_wait, ("liveness",)),
        Mutation(settled_while_moving, ("liveness",), Knobs(only=("link_down",), nodes=3, addresses=8, calm=0.5)),
        Mutation(changes_after_settling_forgotten, ("liveness",), Knobs(only=("store_outage",), calm=1.0)),
        Mutation(overlapping_scripts, ("I5",)),
        Mutation(
            unearned,
            ("I6",),
            Knobs(only=("monitor_fails", "scripts_fail", "power_off", "kill_all"), nodes=2, calm=0.3, rounds=1),
        ),
        Mutation(ban_forgets, ("I9",), Knobs(only=("scripts_fail", "admin", "link_down"), calm=0.2)),
        # Without harm: the beats of six nodes alone do it, and each of them makes the run slow.
        Mutation(
            beats_starve,
            ("liveness", "expiry"),
            Knobs(only=("monitor_fails",), nodes=6, hold=0.25, rounds=1, trouble=2.0),
        ),
        Mutation(orphan_of_a_lost_plan, ("liveness",), Knobs(only=("spoil_key",), nodes=3, calm=0.3)),
        Mutation(
            stopped_nodes_not_waited_for,
            ("liveness",),
            Knobs(only=("admin", "scripts_slow"), nodes=2, addresses=8, calm=0.3),
        ),
        Mutation(refusals_of_the_kernel_forgotten, ("served",), Knobs(only=("refuse_address",), nodes=3, calm=1.0)),
        Mutation(gate_failures_forgotten, ("served",), Knobs(only=("refuse_gate",), nodes=3, calm=2.0)),
        Mutation(restored_without_a_word, ("liveness",), Knobs(only=("remove_by_hand",), calm=0.5)),
        Mutation(
            adopted_without_a_look,
            ("liveness",),
            Knobs(only=("remove_by_hand", "kill_agent"), calm=0.05, hold=5.0, addresses=12),
        ),
        Mutation(
            links_undamped,
            ("moves",),
            # One seed in seven has the tunables with which moves are counted.
            Knobs(only=("flap_link",), nodes=2, addresses=2, calm=10.0, trouble=40.0, rounds=1),
        ),
    )
}
