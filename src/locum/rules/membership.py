"""The stages of a node's life, and the turns from one to the next.

::

    JOINING ──ADMITTED──> MEMBER ──ENDED──> LOST ──EMPTY──> JOINING
       └──────────────────────────ENDED──────^
    JOINING, MEMBER, LOST ──DEPARTED──> LEFT

Rules of this file: :data:`NEXT` is the complete table; any other turn is a defect. It decides when a membership begins
and ends and the effect on the other parts, not the work of a member (:mod:`locum.rules.node`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping

from locum.rules.effects import DropHold, Exit
from locum.rules.identity import Adoption
from locum.rules.parts import Parts
from locum.rules.plan import current_health
from locum.rules.status import Stage


class Turn(enum.Enum):
    """The reason for the end of a stage."""

    #: The ``member`` key of this very incarnation is in the store: written by this agent, or by its predecessor.
    ADMITTED = enum.auto()
    #: The membership has ended, or the predecessor's has.
    ENDED = enum.auto()
    #: Every address is released, no script runs, and the store was read again.
    EMPTY = enum.auto()
    #: The node has left in order.
    DEPARTED = enum.auto()


NEXT: Mapping[tuple[Stage, Turn], Stage] = {
    (Stage.JOINING, Turn.ADMITTED): Stage.MEMBER,
    (Stage.JOINING, Turn.ENDED): Stage.LOST,
    (Stage.MEMBER, Turn.ENDED): Stage.LOST,
    (Stage.LOST, Turn.EMPTY): Stage.JOINING,
    (Stage.JOINING, Turn.DEPARTED): Stage.LEFT,
    (Stage.MEMBER, Turn.DEPARTED): Stage.LEFT,
    (Stage.LOST, Turn.DEPARTED): Stage.LEFT,
}


class Membership:
    """One node's present stage. ``new_incarnation`` returns a name that was never used before."""

    def __init__(self, parts: Parts, new_incarnation: Callable[[], str], adoption: Adoption | None) -> None:
        self._parts = parts
        self._new_incarnation = new_incarnation
        self._adoption = adoption
        self.stage = Stage.JOINING
        #: When the present membership, or the attempt to get it, began (CLOCK_BOOTTIME seconds).
        self.began_at = 0.0

    @property
    def member(self) -> bool:
        """Whether the node is a member, as far as it knows."""
        return self.stage is Stage.MEMBER

    def time_passes(self, now: float, wall: float) -> None:
        """Set the time, and check whether the hold has ended since the last input. Every input begins here."""
        parts, context = self._parts, self._parts.context
        held = parts.hold.valid(context.now)
        context.now, context.wall = now, wall
        if held and not parts.hold.valid(now):
            context.note("the hold ended without an answer from the store: releasing all addresses", "error")
            parts.serving.mark_uncertain()
            context.emit(DropHold())

    def step(self) -> None:
        """Follow the view's account of this node's membership."""
        parts, context = self._parts, self._parts.context
        if self.member and f"member/{context.name}" in parts.view.corrupt:
            # A node that starts now cannot read that this one is a member, and frees its claims after a hold.
            self.lose("this node's membership cannot be read in the store")
        if self.member and not parts.view.alive(context.name, context.incarnation):
            if parts.leaving.ends_membership:
                # The watch showed the farewell before its answer came.
                self.left()
            else:
                self.lose("this node's membership is gone from the store")
        if self.stage is Stage.LOST and self.empty:
            self._turn(Turn.EMPTY)
            parts.lookout.begin()
        if self.stage is Stage.JOINING and not parts.leaving.asked:
            self._join()
        if self.member:
            self._look_for_contradiction()

    def _look_for_contradiction(self) -> None:
        """Look for another node's claim on an address that is held here.

        The own claim ends only with this membership, or by this node after the release. So another node's claim proves
        another history, or a foreign writer's change. Releasing addresses one after the other would be too slow: the
        other node may have taken this one by then. All of them are silenced at once instead.
        """
        found = self._parts.serving.contradiction()
        if found is not None:
            self.lose(found)

    @property
    def empty(self) -> bool:
        """Whether nothing is left of an earlier membership, neither here nor in the view."""
        parts = self._parts
        return not parts.serving.local and parts.activity.idle and parts.history.current

    def lose(self, why: str) -> None:
        """The membership has ended: silence the addresses at once, run ``releaseip`` for them, then join again."""
        parts, context = self._parts, self._parts.context
        context.note(f"{why}; releasing all addresses and joining again", "error")
        self._turn(Turn.ENDED)
        self._become("")
        parts.hold.lose()
        context.last_beat = 0
        parts.serving.mark_uncertain()
        parts.monitoring.lost()
        context.emit(DropHold())
        parts.history.mark_uncertain()

    def begin_history(self) -> None:
        """The store has another history: silence the addresses at once, and discard earlier knowledge."""
        parts = self._parts
        what = parts.history.changed()
        parts.commits.forget()
        parts.detector.forget_all()
        parts.leading.forget()
        parts.serving.claims.forget()
        if self.member:
            self.lose(what)
        elif self.stage is not Stage.LEFT:
            self._become("")
            parts.context.note(what, "error")
            parts.history.mark_uncertain()

    def left(self) -> None:
        """The node has left."""
        if self.stage is not Stage.LEFT:
            self._turn(Turn.DEPARTED)
            self._parts.leaving.left()
            self._parts.context.emit(Exit())

    def _turn(self, turn: Turn) -> None:
        assert (self.stage, turn) in NEXT, f"{turn.name} in stage {self.stage.name}"
        self.stage = NEXT[self.stage, turn]

    def _become(self, incarnation: str) -> None:
        context = self._parts.context
        if incarnation != context.incarnation:
            context.incarnation, self.began_at = incarnation, context.now

    # -- joining ---------------------------------------------------------------------------------------------

    def _join(self) -> None:
        parts, context = self._parts, self._parts.context
        adoption, self._adoption = self._adoption, None
        if adoption is not None:
            if self._may_adopt(adoption):
                self._adopt(adoption)
            else:
                parts.serving.inherit(adoption)
                self.lose("the membership of the previous agent is gone, or had other terms")
        elif context.incarnation and parts.view.alive(context.name, context.incarnation):
            self._joined()
        elif not parts.lookout.clear():
            parts.joining.blocked(parts.lookout.obstacle, parts.lookout.awaited)
        else:
            # Until a commit of this very incarnation is seen, each attempt has a new name.
            candidate = self._new_incarnation()
            parts.joining.step(candidate)
            if parts.joining.tried == candidate:
                self._become(candidate)

    def _joined(self) -> None:
        parts = self._parts
        self._turn(Turn.ADMITTED)
        parts.hold.lose()
        parts.context.last_beat = 0
        parts.following.join()
        parts.monitoring.require_monitor()
        parts.lookout.begin()
        parts.context.note(f"joined as {parts.context.incarnation}")

    def _may_adopt(self, adoption: Adoption) -> bool:
        """Whether the membership exists with the beat that carried its hold, and on terms that this agent keeps.

        Other nodes wait as long as its key says. A store without that beat was restored from an older copy.
        """
        view, name, identity = self._parts.view, self._parts.context.name, self._parts.identity
        if not view.alive(name, adoption.incarnation) or view.revision_of(f"beat/{name}") < adoption.revision:
            return False
        # The embedded store gives beats new revisions when it starts. Within one history, an address that was held has
        # its claim, so a missing claim reveals a restored copy.
        if any(view.claim_of(address) != (name, adoption.incarnation) for address in adoption.held):
            return False
        terms = view.members[name].record
        return terms.hold == identity.hold and terms.margin >= identity.margin

    def _adopt(self, adoption: Adoption) -> None:
        parts, context, view = self._parts, self._parts.context, self._parts.view
        self._turn(Turn.ADMITTED)
        self._become(adoption.incarnation)
        beat = view.beats.get(context.name)
        parts.hold.adopt(adoption.deadline, adoption.slot, beat.record.sequence if beat is not None else 0)
        context.last_beat = adoption.revision
        parts.history.quiet_until = adoption.quiet
        if view.revision_of(f"beat/{context.name}") != adoption.revision:
            # Another beat was accepted and not recorded, or the embedded store has started since and gave it this
            # revision, perhaps from a copy: the claims of the others that it shows may be old.
            parts.history.keep_quiet()
        mine = (context.name, context.incarnation)
        claims = {a: c.record for a, c in view.claims.items() if (c.record.node, c.record.incarnation) == mine}
        parts.lookout.adopt({*claims, *adoption.held})
        parts.serving.adopt(adoption, claims)
        parts.serving.scripts_forget(adoption.missing)
        if not parts.hold.valid(context.now):
            # The guard has removed the addresses. Without the drop, the first renewal would bring them back, and the
            # scripts would not know that they were gone.
            parts.serving.mark_uncertain()
            context.emit(DropHold())
        health = current_health(view, context.name)
        if health is not None:
            parts.monitoring.adopt(health.started, health.earned, health.healthy, health.reason)
            parts.serving.links.adopt(health.down)
        parts.following.adopt()
        context.note(f"adopted {context.incarnation} with {len(adoption.held)} addresses")
