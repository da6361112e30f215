"""Damping of a link, or of a node's health, that is lost and returns repeatedly.

Rules of this file: times only (seconds of the boot-time clock). A loss counts at once. A return counts when it has
lasted for a time that doubles with each loss within a window. Until then it is *unsteady*: good enough for addresses
that no steady link or node can serve, and for those it serves already (:func:`locum.rules.plan.hostable`).
"""

from __future__ import annotations

import math

import msgspec

from locum.config.tunables import Tunables


class Rule(msgspec.Struct, frozen=True):
    """``delay``: how long a return must last after the first loss that counts; 0 means no damping. ``longest``: the
    limit of its doubling. ``window``: older losses are forgotten. ``free``: the number of losses within the window that
    do not count. Times in seconds."""

    delay: float
    longest: float
    window: float
    free: int = 0

    def pause(self, losses: int) -> float:
        """How long a return must last after this number of ``losses`` within the window."""
        if self.delay <= 0 or losses <= self.free:
            return 0.0
        return float(min(self.delay * 2 ** min(losses - self.free - 1, 60), max(self.delay, self.longest)))


def link_rule(tunables: Tunables) -> Rule:
    """The rule for links."""
    return Rule(tunables.link_up_delay, tunables.damping_longest, tunables.damping_window)


def health_rule(tunables: Tunables) -> Rule:
    """The rule for a node's health: one failure does not count."""
    return Rule(tunables.healthy_delay, tunables.damping_longest, tunables.damping_window, free=1)


class Damper:
    """The damping of one thing that is present or absent. Its state begins as unknown; the first presence is steady.

    Each call passes the rule, so that a change of it is in force at once.
    """

    def __init__(self) -> None:
        self._present: bool | None = None
        self._losses: list[float] = []
        self._back = math.inf

    def seen(self, present: bool, now: float, rule: Rule) -> None:
        """Record whether it is ``present`` now."""
        if present == self._present:
            return
        if not present:
            self._losses = [when for when in self._losses if now - when <= rule.window]
            if self._present:
                self._losses.append(now)
        elif self._present is not None:
            self._back = now
        self._present = present

    def losses(self, rule: Rule) -> int:
        """The number of losses within the window before the last return."""
        return sum(self._back - when <= rule.window for when in self._losses)

    def until(self, rule: Rule) -> float:
        """Until when it is unsteady; minus infinity when it is absent or was never lost."""
        if not self._present or math.isinf(self._back):
            return -math.inf
        return self._back + rule.pause(self.losses(rule))

    def unsteady(self, now: float, rule: Rule) -> bool:
        """Whether it is present and has not lasted long enough."""
        return self._back != math.inf and now < self.until(rule)

    def next_due(self, since: float, rule: Rule) -> float:
        """When it becomes steady, if it was not at ``since``; infinite when it was, or is absent."""
        if self._back == math.inf:
            return math.inf
        until = self.until(rule)
        return until if since < until else math.inf
