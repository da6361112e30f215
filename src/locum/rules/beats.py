"""The beats of a member: when each is sent, and the meaning of its answer.

Rules of this file: a beat's answer can prolong the hold, end the membership, or show that the store has another
history. Safety depends on the order within :meth:`Beats.answered`. The length of a hold is the subject of
:mod:`locum.rules.hold`.
"""

from __future__ import annotations

from locum.rules import schema
from locum.rules.effects import ConfirmHold, SendBeat
from locum.rules.membership import Membership
from locum.rules.parts import Parts
from locum.rules.schema import BeatRecord
from locum.store.base import Commit, CommitResult, Put


class Beats:
    """The beats of one node."""

    def __init__(self, parts: Parts, membership: Membership) -> None:
        self._parts = parts
        self._membership = membership
        # Beats under way → the highest revision known when each was sent.
        self._known: dict[int, int] = {}

    def send(self) -> None:
        """Send a beat if one is due."""
        parts, context, hold = self._parts, self._parts.context, self._parts.hold
        if not hold.due(context.now):
            return
        request = context.new_request()
        slot = hold.begin(request, context.now)
        parts.detector.beat_sent(hold.sequence, context.now)
        put = Put(f"beat/{context.name}", schema.encode(BeatRecord(context.incarnation, hold.sequence)))
        reason = {put.key: "only the node writes it, and the condition on its membership identifies the incarnation"}
        self._known[request] = parts.view.known
        commit = Commit(tuple(context.membership()), (put,), reason)
        context.emit(SendBeat(request, slot, commit, context.incarnation, hold.hold, hold.interval))

    def answered(self, request: int, result: CommitResult | None, sent_at: float, now: float, wall: float) -> bool:
        """Take the answer to a beat, with the arguments of :meth:`locum.rules.node.Node.beat_done`.

        Returns whether anything besides the end of the hold has changed.
        """
        parts, context, hold, membership = self._parts, self._parts.context, self._parts.hold, self._membership
        if self._shows_another_history(request, result):
            membership.time_passes(now, wall)
            self.forget()
            membership.begin_history()
            return True
        # The answer to a beat of an earlier membership says nothing about this one.
        current = membership.member and hold.under_way(request)
        accepted = result is not None and result.accepted
        if result is not None:
            parts.history.answered(result.began, now)
        if accepted and current:
            self._look_for_gap(now, wall)
        # The hold is prolonged before it is checked: a late answer that still counts must not be preceded by the end
        # of the hold.
        held = hold.valid(now)
        slot = hold.finished(request, accepted, sent_at) if membership.member else None
        if result is not None and accepted and current:
            context.last_beat = max(context.last_beat, result.revision)
        if slot is not None and now < hold.deadline:
            quiet = parts.history.quiet_until
            context.emit(ConfirmHold(context.incarnation, slot, hold.deadline, context.last_beat, quiet))
        membership.time_passes(now, wall)
        if result is not None and not accepted and current:
            # Alternatively the store was restored from a copy with the membership and without its last beat.
            membership.lose("the store refused a beat: another node expired this membership")
            return True
        return not (accepted and held)

    def forget(self) -> None:
        """The store has another history: answers to earlier beats cannot be compared with the present revisions."""
        self._known.clear()

    def _shows_another_history(self, request: int, result: CommitResult | None) -> bool:
        view, known = self._parts.view, self._known.pop(request, None)
        if result is None or known is None:
            return False
        view.another_history = view.answered(result, [Put(f"beat/{self._parts.context.name}", b"")], known)
        if view.another_history:
            view.forget()
        return bool(view.another_history)

    def _look_for_gap(self, now: float, wall: float) -> None:
        """A beat was accepted: check whether the store can have gone back unnoticed since the last one.

        A copy is older than the longest hold and its margin (``docs/safety.md``). So a store that was restored
        since this node's last accepted beat lacks that beat and refuses the next one, unless the gap between the two
        is at least as long. After such a gap, as at the beginning of a membership, some node may continue on a hold of
        another history, with claims that this history does not show. Nothing is claimed or taken until all such holds
        have ended.
        """
        parts, hold = self._parts, self._parts.hold
        if now < hold.proven + hold.hold + parts.identity.margin:
            return
        # The end of the hold comes first, because the view may contain another history.
        self._membership.time_passes(now, wall)
        parts.detector.forget_all()
        for node in parts.view.members:
            parts.detector.beat_seen(node, parts.view.revision_of(f"beat/{node}"), now)
        parts.leading.forget()
        parts.history.mark_uncertain()
        parts.history.keep_quiet()
