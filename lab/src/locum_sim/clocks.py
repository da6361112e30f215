"""The clocks of one machine: each runs at the rate of the machine's crystal, which is slightly wrong.

Three readings of one crystal, as on Linux. CLOCK_BOOTTIME counts suspended time; the jiffies (kernel timers, packet
filter timeouts, address lifetimes) do not; the wall clock does and can be set.
"""

from __future__ import annotations

import math

from locum_sim.engine import Engine

#: Unix time at the start of every run.
EPOCH = 1_700_000_000.0


class MachineClock:
    """``offset``: CLOCK_BOOTTIME at the start, seconds; ``rate``: its seconds per true second; ``wall_error``: the
    wall clock's error at the start, in seconds."""

    def __init__(self, engine: Engine, offset: float, rate: float, wall_error: float) -> None:
        self._engine = engine
        self._since = engine.now
        self._boot = offset
        self._rate = rate
        self._wall = EPOCH + engine.now + wall_error - offset
        self._slept = 0.0
        #: The true times when the wall clock was last set back, and when the machine last woke up.
        self.set_back_at = self.woke_at = -math.inf
        self._asleep_since: float | None = None

    @property
    def rate(self) -> float:
        """Seconds on this clock per true second."""
        return self._rate

    def boot(self) -> float:
        """CLOCK_BOOTTIME."""
        return self._boot + (self._engine.now - self._since) * self._rate

    def jiffies(self) -> float:
        """Seconds as counted by kernel timers: they stop while the machine is suspended."""
        now = self._boot + (self._engine.now - self._since) * self._rate
        return (now if self._asleep_since is None else self._asleep_since) - self._slept

    def wall(self) -> float:
        """Unix time."""
        return self._wall + self._boot + (self._engine.now - self._since) * self._rate

    def true(self, boot: float) -> float:
        """The true time at which CLOCK_BOOTTIME will read ``boot``, at the present rate."""
        return self._engine.now + (boot - self.boot()) / self._rate

    def set_rate(self, rate: float) -> None:
        """From now on the crystal runs at ``rate``."""
        self._boot = self.boot()
        self._since = self._engine.now
        self._rate = rate

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward by ``seconds``."""
        if seconds < 0:
            self.set_back_at = self._engine.now
        self._wall += seconds

    def suspend(self) -> None:
        """Jiffies stop from now on."""
        self._asleep_since = self.boot()

    def resume(self) -> None:
        """Jiffies continue."""
        if self._asleep_since is not None:
            self._slept += self.boot() - self._asleep_since
            self.woke_at = self._engine.now
            self._asleep_since = None
