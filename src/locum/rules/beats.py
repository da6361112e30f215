"""The beats of a member: when one is sent, and what its answer means.

Rules of this file: a beat's answer can prolong the hold, end the membership, or show that the store has another
history. Safety rests on the order within :meth:`Beats.answered`. How long a hold lasts is :mod:`locum.rules.hold`'s.
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
        # Beats under way → the highest revision that was known when each was sent.
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
        reason = {put.key: "the node alone writes it, and its membership, a condition, proves which life of the node"}
        self._known[request] = parts.view.known
        commit = Commit(tuple(context.membership()), (put,), reason)
        context.emit(SendBeat(request, slot, commit, context.incarnation, hold.hold, hold.interval))

    def answered(self, request: int, result: CommitResult | None, sent_at: float, now: float, wall: float) -> bool:
        """Take the answer to a beat, with the arguments of :meth:`locum.rules.node.Node.beat_done`.

        Returns whether anything but the end of the hold is different now.
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
        if accepted and current:
            self._look_for_gap(now, wall)
        # The hold is prolonged before it is looked at: an answer that arrives late but still counts must not
        # be preceded by the end of the hold.
        held = hold.valid(now)
        slot = hold.finished(request, accepted, sent_at) if membership.member else None
        if result is not None and accepted and current:
            context.last_beat = max(context.last_beat, result.revision)
        if slot is not None and now < hold.deadline:
            quiet = parts.history.quiet_until
            context.emit(ConfirmHold(context.incarnation, slot, hold.deadline, context.last_beat, quiet))
        membership.time_passes(now, wall)
        if result is not None and not accepted and current:
            # Or the store was restored from a copy that has the membership, but not its last beat.
            membership.lose("the store refused a beat: another node expired this membership")
            return True
        return not (accepted and held)

    def forget(self) -> None:
        """The store has another history: answers to earlier beats cannot be compared with what is known now."""
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
        """A beat was accepted: whether the store can have gone back unseen since the last one.

        A copy is older than the longest hold and its margin (``docs/safety.md``). So a store that was restored
        since this node's last accepted beat lacks that beat, and refuses the next one, unless the gap between the two
        is at least as long. Then, as at the beginning of a membership, some node may still go on by the hold that it
        has in another history, with claims that this one does not show: nothing is claimed or taken until all of
        those are over.
        """
        parts, hold = self._parts, self._parts.hold
        if now < hold.proven + hold.hold + parts.identity.margin:
            return
        # The end of the hold comes first; and whatever the view knows may be another history's.
        self._membership.time_passes(now, wall)
        parts.detector.forget_all()
        for node in parts.view.members:
            parts.detector.beat_seen(node, parts.view.revision_of(f"beat/{node}"), now)
        parts.leading.forget()
        parts.history.mark_uncertain()
        parts.history.keep_quiet()
