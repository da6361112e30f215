"""Startup, monitoring, and what the node says of its health.

``startup`` is retried with back-off until it succeeds; then ``monitor`` runs, every MonitorInterval seconds and
at once on a trigger. While it fails it runs more often, so that a repaired node comes back soon.
"""

from __future__ import annotations

from collections.abc import Callable

from locum.cluster.desk import Desk
from locum.cluster.effects import RunEvent

#: First pause after a failed ``startup`` or ``monitor``; it doubles up to the longest (monitor: MonitorInterval).
FIRST_PAUSE, LONGEST_STARTUP_PAUSE = 1.0, 30.0


class Checking:
    """What this node's scripts say of its services."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.started = False
        self.earned = False
        self.healthy = False
        #: Whether a monitor has ended, well or not, since the node joined: only then others hear "started", so
        #: that a starting node causes one reconfiguration and not two.
        self.judged = False
        self.reason = "startup has not run yet"
        self._due = 0.0
        self._pause = FIRST_PAUSE
        self._triggered = False
        self._proofs = 0

    def adopt(self, started: bool, earned: bool, healthy: bool, reason: str) -> None:
        """After a restart of the agent: go on with what the node said before."""
        self.started, self.earned, self.healthy, self.reason = started, earned, healthy, reason
        self.judged = started
        self.trigger()

    def unearn(self) -> None:
        """A new membership, or being stopped or banned: the services must be proven again (I6), by a new monitor."""
        self._proofs += 1
        self.earned = False
        self.healthy = False
        self.judged = False
        if self.started:
            self.reason = "waiting for the first monitor"
        self.trigger()

    def trigger(self) -> None:
        """Run ``monitor`` as soon as possible."""
        self._due = 0.0
        self._triggered = True

    def due(self) -> Callable[[], None] | None:
        """What to run now: ``startup`` until it has succeeded, then ``monitor``."""
        if self._desk.now < self._due:
            return None
        return self._monitor if self.started else self._startup

    def next_due(self) -> float:
        """When to run ``startup`` or ``monitor`` next."""
        return self._due

    def _startup(self) -> None:
        def done(ok: bool, reason: str) -> None:
            if ok:
                self.started = True
                self._pause = FIRST_PAUSE
                self.unearn()
                return
            self.reason = f"startup failed: {reason}"
            self._desk.note(f"{self.reason}; again in {self._pause:.0f} s", "error")
            self._due = self._desk.now + self._pause
            self._pause = min(2 * self._pause, LONGEST_STARTUP_PAUSE)

        self.reason = "startup is running"
        self._desk.emit(RunEvent(self._desk.begin("startup", done), "startup"))

    def _monitor(self) -> None:
        proof = self._proofs

        def done(ok: bool, reason: str) -> None:
            if proof != self._proofs or (self._desk.cancelling and not ok):
                self.trigger()
                return
            self.judged = True
            interval = self._desk.tunables.monitor_interval
            if ok:
                if not self.healthy:
                    self._desk.note("monitor passes: this node is healthy")
                self.earned = self.healthy = True
                self.reason = ""
                self._pause = FIRST_PAUSE
                wait = interval
            else:
                if self.healthy or self.reason != reason:
                    self._desk.note(f"monitor fails: {reason}", "error")
                self.healthy = False
                self.reason = reason
                wait = min(self._pause, interval)
                self._pause = min(2 * self._pause, interval)
            self._due = 0.0 if self._triggered else self._desk.now + wait

        self._triggered = False
        self._desk.emit(RunEvent(self._desk.begin("monitor", done), "monitor"))
