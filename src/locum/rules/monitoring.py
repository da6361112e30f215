"""Startup, monitoring, and the resulting health of the node.

``startup`` is retried with back-off until it succeeds. Then ``monitor`` runs, every MonitorInterval seconds and at once
on a trigger. While it fails it runs more often, so that a repaired node comes back soon.

Rules of this file: results of scripts and times. It knows no address and no plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from locum.rules.activity import Activity
from locum.rules.context import Context
from locum.rules.damping import Damper, Rule, health_rule
from locum.rules.effects import RunEvent

#: First pause after a failed ``startup`` or ``monitor``; it doubles up to the longest (monitor: MonitorInterval).
FIRST_PAUSE, LONGEST_STARTUP_PAUSE = 1.0, 30.0


class Monitoring:
    """The state of this node's services according to its scripts."""

    def __init__(self, context: Context, activity: Activity) -> None:
        self._context = context
        self._activity = activity
        self.started = False
        self.earned = False
        self.healthy = False
        #: Whether a monitor has ended, with any result, since the node joined. Only then do others see "started", so
        #: that a starting node causes one reconfiguration instead of two.
        self.judged = False
        self.reason = "startup has not run yet"
        #: When to run ``startup`` or ``monitor`` next.
        self.next_due = 0.0
        self._pause = FIRST_PAUSE
        self._triggered = False
        self._proofs = 0
        self._damper = Damper()
        self._was_inactive = False

    def adopt(self, started: bool, earned: bool, healthy: bool, reason: str) -> None:
        """After a restart of the agent: continue with the node's last report."""
        self.started, self.earned, self.healthy, self.reason = started, earned, healthy, reason
        self.judged = started
        self._seen(healthy)
        self.trigger()

    def require_monitor(self) -> None:
        """A new membership, or a stopped or banned node: a new monitor must pass before the node serves (I6)."""
        self._proofs += 1
        self.earned = False
        self.healthy = False
        self.judged = False
        if self.started:
            self.reason = "waiting for the first monitor"
        self.trigger()

    def inactive(self, present: bool) -> None:
        """Set whether the node is stopped or banned. Afterwards a monitor must pass before the node serves (I6).

        The node reports it at once, not when it is free again: others would plan with its earlier report.
        """
        if present and not self._was_inactive:
            self.require_monitor()
        self._was_inactive = present

    def lost(self) -> None:
        """The membership was lost. For damping this counts as a failed monitor, so that a node that expires repeatedly
        does not get its addresses back each time."""
        self._seen(False)

    def _rule(self) -> Rule:
        return health_rule(self._context.tunables)

    def _seen(self, healthy: bool) -> None:
        self._damper.seen(healthy, self._context.now, self._rule())

    def settling(self) -> str:
        """Why a passing monitor does not count yet, "" when it does."""
        rule = self._rule()
        if not self.healthy or not self._damper.unsteady(self._context.now, rule):
            return ""
        losses = self._damper.losses(rule)
        return (
            f"monitor passes again; after {losses} failures within {rule.window:g} s it must pass for "
            f"{rule.pause(losses):g} s before this node counts as healthy"
        )

    def steady_at(self, since: float) -> float:
        """When a passing monitor counts, if it did not at ``since``; infinite when it did."""
        return self._damper.next_due(since, self._rule()) if self.healthy else math.inf

    def trigger(self) -> None:
        """Run ``monitor`` as soon as possible."""
        self.next_due = 0.0
        self._triggered = True

    def due(self) -> Callable[[], None] | None:
        """The script event to run now: ``startup`` until it has succeeded, then ``monitor``."""
        if self._context.now < self.next_due:
            return None
        return self._monitor if self.started else self._startup

    def _startup(self) -> None:
        def done(ok: bool, reason: str) -> None:
            if ok:
                self.started = True
                self._pause = FIRST_PAUSE
                self.require_monitor()
                return
            self.reason = f"startup failed: {reason}"
            self._context.note(f"{self.reason}; again in {self._pause:.0f} s", "error")
            self.next_due = self._context.now + self._pause
            self._pause = min(2 * self._pause, LONGEST_STARTUP_PAUSE)

        self.reason = "startup is running"
        self._context.emit(RunEvent(self._activity.begin("startup", done), "startup"))

    def _monitor(self) -> None:
        proof = self._proofs

        def done(ok: bool, reason: str) -> None:
            if proof != self._proofs or (self._activity.cancelling and not ok):
                self.trigger()
                return
            self.judged = True
            self._seen(ok)
            interval = self._context.tunables.monitor_interval
            if ok:
                if not self.healthy:
                    self._context.note("monitor passes: this node is healthy")
                self.earned = self.healthy = True
                self.reason = ""
                self._pause = FIRST_PAUSE
                wait = interval
            else:
                if self.healthy or self.reason != reason:
                    self._context.note(f"monitor fails: {reason}", "error")
                self.healthy = False
                self.reason = reason
                wait = min(self._pause, interval)
                self._pause = min(2 * self._pause, interval)
            self.next_due = 0.0 if self._triggered else self._context.now + wait

        self._triggered = False
        self._context.emit(RunEvent(self._activity.begin("monitor", done), "monitor"))
