"""The stages of a node's life, and what leads from one to the next.

::

    JOINING ──ADMITTED──> MEMBER ──ENDED──> LOST ──EMPTY──> JOINING
       └──────────────────────────ENDED──────^
    JOINING, MEMBER, LOST ──DEPARTED──> LEFT

Rules of this file: :data:`NEXT` is the whole table; a turn that it does not have is a defect. It decides when a
membership begins and ends and what that means for the other parts, not what a member does
(:mod:`locum.rules.node`).
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
    """What ends a stage."""

    #: The ``member`` key of this very incarnation is in the store: written by this agent, or by the one before it.
    ADMITTED = enum.auto()
    #: The membership is over, or that of the agent before this one is.
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
    """Where one node is in its life. ``new_incarnation`` returns a name that was never used before."""

    def __init__(self, parts: Parts, new_incarnation: Callable[[], str], adoption: Adoption | None) -> None:
        self._parts = parts
        self._new_incarnation = new_incarnation
        self._adoption = adoption
        self.stage = Stage.JOINING
        #: When the present membership began, or the try to get it (CLOCK_BOOTTIME seconds).
        self.began_at = 0.0

    @property
    def member(self) -> bool:
        """Whether the node is a member, as far as it knows."""
        return self.stage is Stage.MEMBER

    def time_passes(self, now: float, wall: float) -> None:
        """Every input begins here: the time, and whether the hold has ended since the input before."""
        parts, context = self._parts, self._parts.context
        held = parts.hold.valid(context.now)
        context.now, context.wall = now, wall
        if held and not parts.hold.valid(now):
            context.note("the hold has ended without an answer from the store: releasing all addresses", "error")
            parts.serving.mark_uncertain()
            context.emit(DropHold())

    def step(self) -> None:
        """Follow what the view says about this node's membership."""
        parts, context = self._parts, self._parts.context
        if self.member and f"member/{context.name}" in parts.view.corrupt:
            # A node that starts anew cannot read that this one is a member, and frees its claims after a hold.
            self.lose("this node's membership cannot be read in the store")
        if self.member and not parts.view.alive(context.name, context.incarnation):
            if parts.leaving.ends_membership:
                # The farewell, seen in the watch before its answer came.
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
        """A claim on an address that is held here ends with this membership, or by this node after the release.

        So another node's claim on it is proof of another history, or a stranger's work. Addresses are released one
        after the other; by then the other node may have taken this one. All of them fall silent at once instead.
        """
        found = self._parts.serving.contradiction()
        if found is not None:
            self.lose(found)

    @property
    def empty(self) -> bool:
        """Whether nothing is left of an earlier membership, and the view is not that membership's."""
        parts = self._parts
        return not parts.serving.local and parts.activity.idle and parts.history.current

    def lose(self, why: str) -> None:
        """The membership is over: silent at once, then the scripts are told, then the node joins anew."""
        parts, context = self._parts, self._parts.context
        context.note(f"{why}; releasing all addresses and joining anew", "error")
        self._turn(Turn.ENDED)
        self._become("")
        parts.hold.lose()
        context.last_beat = 0
        parts.serving.mark_uncertain()
        parts.monitoring.lost()
        context.emit(DropHold())
        parts.history.mark_uncertain()

    def begin_history(self) -> None:
        """The store's history is another one: silent at once, and what was known before counts no longer."""
        parts = self._parts
        what = parts.history.changed()
        parts.commits.forget()
        parts.detector.forget_all()
        parts.leading.forget()
        parts.serving.forget()
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
                parts.serving.inherit(adoption.held)
                self.lose("the membership of the agent before this one is gone, or was on other terms")
        elif context.incarnation and parts.view.alive(context.name, context.incarnation):
            self._joined()
        elif not parts.lookout.clear():
            parts.joining.blocked(parts.lookout.obstacle, parts.lookout.awaited)
        else:
            # Until a commit of this very incarnation is seen, each try has a name of its own.
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
        """Whether the membership stands with the beat that it was held by, and on terms that this agent keeps.

        Others wait as long as its key says. A store without that beat was restored from an older copy.
        """
        view, name, identity = self._parts.view, self._parts.context.name, self._parts.identity
        if not view.alive(name, adoption.incarnation) or view.revision_of(f"beat/{name}") < adoption.revision:
            return False
        # The embedded store gives beats new revisions when it starts. An address that was held has its claim in one
        # history: so a copy shows itself by one that it does not have.
        if any(view.claim_of(address) != (name, adoption.incarnation) for address in adoption.held):
            return False
        terms = view.members[name].record
        return terms.hold == identity.hold and terms.margin >= identity.margin

    def _adopt(self, adoption: Adoption) -> None:
        parts, context, view = self._parts, self._parts.context, self._parts.view
        self._turn(Turn.ADMITTED)
        parts.lookout.trust()
        self._become(adoption.incarnation)
        beat = view.beats.get(context.name)
        parts.hold.adopt(adoption.deadline, adoption.slot, beat.record.sequence if beat is not None else 0)
        context.last_beat = adoption.revision
        parts.history.quiet_until = adoption.quiet
        mine = (context.name, context.incarnation)
        claims = {a: c.record for a, c in view.claims.items() if (c.record.node, c.record.incarnation) == mine}
        parts.serving.adopt(adoption.held, claims)
        parts.serving.scripts_forget(adoption.missing)
        if not parts.hold.valid(context.now):
            parts.serving.mark_uncertain()
        health = current_health(view, context.name)
        if health is not None:
            parts.monitoring.adopt(health.started, health.earned, health.healthy, health.reason)
            parts.serving.links.adopt(health.down)
        parts.following.adopt()
        context.note(f"adopted {context.incarnation} with {len(adoption.held)} addresses")
