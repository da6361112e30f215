"""Holds: own beats and deadline, and the proof that another node's hold has ended.

The argument, in short (``docs/safety.md`` has all of it). Times are CLOCK_BOOTTIME of one machine each; only
rates are compared. Node N sends a beat at ``s`` and the store commits it at ``c``; observer O sees it at ``o``:
``s <= c <= o`` in real time. N's hold lasts until ``s + hold`` on N's clock. O acts at ``o + hold + margin`` on
O's clock, in a commit that is conditional on that beat still being the last. When the commit succeeds, N has no
accepted beat sent after ``s``, so its hold has ended, provided that the margin covers the difference of the two
clocks' rates over a hold and the granularity of the kernel's timers.

Rules of this file: beats and times. It commits nothing and knows no address.
"""

from __future__ import annotations

import math
from functools import lru_cache

from locum.rules.view import View

#: Beats per hold. Five attempts fit into a hold, so that it survives the loss of some.
BEATS_PER_HOLD = 5
#: Longest time between two beats, in seconds.
LONGEST_INTERVAL = 1.0
#: The number of beats that the kernel's gate can tell apart: one that carries the hold, and others under way.
SLOTS = 4
#: Bound on the difference of two clocks' rates that the margin covers: 1000 ppm, twice what NTP may slew.
CLOCK_RATE_BOUND = 0.001
#: After an outage of the store each node gets this number of beats, and at least this number of seconds, to be heard of
#: again; never more than a hold and its margin.
REJOIN_BEATS = 3
SHORTEST_ALLOWANCE = 0.5
#: Kernel timers and queues: some jiffies of 10 ms (HZ=100), and packets already handed to a network card.
KERNEL_SLACK = 0.03


def margin_for(hold: float) -> float:
    """Seconds that observers wait beyond ``hold`` (seconds) when the kernel's gate enforces it."""
    return KERNEL_SLACK + 2 * CLOCK_RATE_BOUND * hold


def interval_for(hold: float) -> float:
    """Seconds between two beats."""
    return min(hold / BEATS_PER_HOLD, LONGEST_INTERVAL)


@lru_cache(maxsize=256)
def rejoin_allowance(hold: float, margin: float) -> float:
    """Seconds that a node with this ``hold`` and ``margin`` gets to beat again once the store is back."""
    return min(max(REJOIN_BEATS * interval_for(hold), SHORTEST_ALLOWANCE), hold + margin)


class OwnHold:
    """The node's own beats: when the next is due, which are under way, until when the hold lasts.

    Several beats may be under way, because an unanswered one must not block the others.
    """

    def __init__(self, hold: float) -> None:
        self.hold = hold
        self.interval = interval_for(hold)
        self.deadline = 0.0
        self.sequence = 0
        #: When the last accepted beat of this membership was sent.
        self.proven = -math.inf
        #: When the next beat should be sent.
        self.next_due = 0.0
        self._slot: int | None = None
        self._under_way: dict[int, int] = {}

    def valid(self, now: float) -> bool:
        """Whether the hold lasts at ``now``."""
        return now < self.deadline

    def due(self, now: float) -> bool:
        """Whether a beat should be sent now."""
        return now >= self.next_due

    def begin(self, request: int, now: float) -> int:
        """Start a beat; returns its slot, which is never the one that carries the present hold."""
        self.sequence += 1
        self.next_due = now + self.interval
        free = [s for s in range(SLOTS) if s != self._slot and s not in self._under_way.values()]
        if not free:
            # The oldest beat under way has had no answer for several intervals: reuse its slot. Its answer will be
            # ignored, because the slot is then armed for another beat.
            oldest = min(self._under_way)
            free = [self._under_way.pop(oldest)]
        self._under_way[request] = free[0]
        return free[0]

    def under_way(self, request: int) -> bool:
        """Whether the beat of ``request`` awaits its answer: sent in this membership, and its slot not reused."""
        return request in self._under_way

    def finished(self, request: int, accepted: bool | None, sent_at: float) -> int | None:
        """A beat was answered. Returns its slot when it prolongs the hold (which is then confirmed), else None."""
        slot = self._under_way.pop(request, None)
        if slot is None or not accepted or sent_at + self.hold <= self.deadline:
            return None
        self.deadline = sent_at + self.hold
        self.proven = sent_at
        self._slot = slot
        return slot

    def beat_now(self) -> None:
        """Make the next beat due at once."""
        self.next_due = 0.0

    def adopt(self, deadline: float, slot: int, sequence: int) -> None:
        """Continue the hold of a predecessor: it lasts until ``deadline`` and is carried by ``slot``."""
        self.deadline = deadline
        self.proven = deadline - self.hold
        self._slot = slot
        self.sequence = sequence

    def lose(self) -> None:
        """The membership is gone: the hold ends, and no beat under way counts."""
        self.deadline = 0.0
        self.proven = -math.inf
        self._slot = None
        self.next_due = 0.0
        self._under_way.clear()


class FailureDetector:
    """The beats of other nodes as seen here, and whether this node's view is fresh enough to judge them.

    The view is trusted while the node's own beats come back through the watch: a lagging watch or an unanswering store
    shows in them. The return of a beat also proves that every earlier commit has been seen. So a gap does not falsify
    observed beats, and holds are counted from them as always. But others may have lost beats in the gap as well. After
    it each gets some time (:func:`rejoin_allowance`), so that an outage of the store is not mistaken for the death of
    the nodes.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._seen: dict[str, tuple[int, float]] = {}
        #: When the newest own beat that came back was sent: every commit before that time has been seen.
        self.current_at = -1.0e18
        self._trusted_since = 0.0
        self._return_reported = False
        self._sent: dict[int, float] = {}
        self._orphans: dict[str, tuple[int, float]] = {}

    def beat_sent(self, sequence: int, now: float) -> None:
        """An own beat was sent at ``now``; its echo will show the progress of the watch."""
        self._sent[sequence] = now
        while len(self._sent) > 64:
            self._sent.pop(next(iter(self._sent)))

    def beat_echoed(self, sequence: int, now: float) -> None:
        """An own beat came back through the watch."""
        sent = self._sent.pop(sequence, None)
        if sent is None:
            return
        # Beats that waited in a store's queue come back in a row when it recovers. The duration without any beat counts
        # here, not the time between the sending of two beats.
        if now - self.current_at > 3 * self._interval:
            self._trusted_since = now
        self.current_at = max(self.current_at, sent)

    def beat_seen(self, node: str, revision: int, now: float) -> None:
        """``node``'s beat (or member key) was seen at ``revision``."""
        known = self._seen.get(node)
        if known is None or known[0] != revision:
            self._seen[node] = (revision, now)

    def store_is_back(self, now: float) -> bool:
        """Whether the beat just seen of another node shows that the store takes beats again after a loss of own ones.

        True once in each outage. So all nodes beat as soon as the first one succeeds, instead of each at its next turn.
        A store that is slow rather than away does not get more beats than it can answer.
        """
        if self.trusted(now):
            self._return_reported = False
            return False
        reported, self._return_reported = self._return_reported, True
        return not reported

    def forget(self, node: str) -> None:
        """``node`` is no longer a member."""
        self._seen.pop(node, None)

    def forget_all(self) -> None:
        """Past observations may be another history's: everything counts from its next observation."""
        self._seen.clear()
        self._orphans.clear()

    def trusted(self, now: float, hold: float | None = None) -> bool:
        """Whether this node's view is fresh enough to judge others. ``hold``: theirs, in seconds.

        The unseen time must be too short for them to have missed more than two beats.
        """
        interval = self._interval if hold is None else min(self._interval, interval_for(hold))
        return now - self.current_at <= 2 * interval

    def expires_at(self, view: View, node: str) -> float:
        """When ``node`` will have been silent for its hold and the margin, on this node's clock.

        Not before the rejoin allowance since the last gap in this node's view.
        """
        member = view.members[node].record
        seen = self._seen.get(node)
        silent = (seen[1] if seen is not None else 0.0) + member.hold + member.margin
        return max(silent, self._trusted_since + rejoin_allowance(member.hold, member.margin))

    def expired(self, view: View, node: str, now: float) -> bool:
        """Whether ``node``'s hold has surely ended; the expiry must also be conditional on :meth:`seen_revision`."""
        if node not in self._seen or now < self.expires_at(view, node):
            return False
        return self.trusted(now, view.members[node].record.hold)

    def last_sign(self, node: str) -> float | None:
        """When the last beat of ``node`` was seen, by CLOCK_BOOTTIME; None when none was."""
        seen = self._seen.get(node)
        return None if seen is None else seen[1]

    def seen_revision(self, node: str) -> int:
        """The beat revision on which the judgement is based; 0 when none was seen."""
        seen = self._seen.get(node)
        return 0 if seen is None else seen[0]

    def orphan_since(self, key: str, revision: int, now: float) -> float:
        """Since when ``key`` at ``revision`` has been seen without its membership."""
        known = self._orphans.get(key)
        if known is None or known[0] != revision:
            self._orphans[key] = (revision, now)
            return now
        return max(known[1], self._trusted_since)

    def orphan_gone(self, key: str) -> None:
        """``key`` has its membership, or is deleted."""
        self._orphans.pop(key, None)
