"""The guard's loop: the deadline, the children, the signals.

Rules of this file: it must stay so simple that it is right, because it is what remains when the agent hangs. It
knows a deadline and a list of addresses; it never asks the store. It reaches the machine through
:mod:`locum.node.guard.ports` alone.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Protocol

from locum.lateness import Stop
from locum.node.guard.children import EXIT_HOPELESS, Child
from locum.node.guard.ports import HoldPagePort, Log, WakeupsPort

#: An agent that has not said for this many seconds that it runs, while the guard does, is replaced.
HUNG_AFTER = 8.0
#: Longest sleep: how late a new deadline, or a child to be started, can be noticed.
LONGEST_SLEEP = 0.5
#: Pause before a child is tried again that the system did not let start, in seconds.
START_PAUSE = 1.0
#: How long children may take to stop when the guard gives up on an orderly end, in seconds.
STOP_LIMIT = 5.0
#: Pause between two looks whether the children have stopped, in seconds.
STOP_PAUSE = 0.01


class Silencing(Protocol):
    """Silences the node without waiting; see :class:`locum.node.guard.silence.Silencer`."""

    def begin(self) -> None:
        """Have the gate shut and every public address removed."""
        ...

    def again(self) -> None:
        """Repeat what of it failed, if anything did."""
        ...


class Watch:
    """See the module. ``reread`` has what the guard knows of the configuration renewed, without waiting."""

    def __init__(
        self,
        wakeups: WakeupsPort,
        page: HoldPagePort,
        agent: Child,
        others: list[Child],
        silencer: Silencing,
        reread: Callable[[], None],
        log: Log,
    ) -> None:
        self._wakeups = wakeups
        self._page = page
        self._agent = agent
        self._others = others
        self._silencer = silencer
        self._reread = reread
        self._log = log
        self._terminations = 0
        # Whether the node is to leave, and whether the present agent knows: one that starts anew is told once it runs.
        self._leaving = False
        self._told = False
        # The deadline that was enforced last; 0: an agent dropped its hold, and may have died before it was silent.
        self._enforced: float | None = 0.0
        self._pulse = (0.0, 0.0)
        self._awake = 0.0
        self._last = wakeups.boot()

    def run(self) -> int:
        """Until the agent has ended in order, or cannot go on; returns the exit status."""
        self._page.tell_guard_stop(None)
        self._wakeups.start(self._stood)
        while True:
            now = self._wakeups.boot()
            self._keep_deadline(now)
            status = self._keep_children(now)
            if status is not None:
                return status
            self._handle(self._wakeups.wait(self._next(now)))

    def _stood(self, stop: Stop, longest: Stop | None) -> None:
        self._log(f"the guard's loop stood for {stop}; it could not keep the hold's deadline meanwhile", "warning")
        self._page.tell_guard_stop(longest)

    def _next(self, now: float) -> float:
        deadline = self._page.deadline
        return min(deadline, now + LONGEST_SLEEP) if deadline > now else now + LONGEST_SLEEP

    def _keep_deadline(self, now: float) -> None:
        deadline = self._page.deadline
        if deadline > now:
            self._enforced = None
        elif deadline != self._enforced:
            # Silence first, then words.
            self._silencer.begin()
            self._enforced = deadline
            if deadline:
                self._log(
                    f"the hold ended {(now - deadline) * 1000:.0f} ms ago: removing all public addresses", "error"
                )
        else:
            self._silencer.again()

    def _keep_children(self, now: float) -> int | None:
        for child in (*self._others, self._agent):
            status = child.ended(now)
            if status is not None:
                if child is self._agent and (status in (0, EXIT_HOPELESS) or self._terminations > 1):
                    return 0 if status == 0 else 1
                how = f"signal {-status}" if status < 0 else f"status {status}"
                self._log(f"the {child.name} has ended ({how}); starting it again", "error")
            if child.pid is None and now >= child.start_at:
                if child is self._agent:
                    self._pulse = (self._page.pulse, 0.0)
                    self._awake = 0.0
                    self._told = False
                try:
                    child.start(now)
                except OSError as error:
                    # No process or memory to be had: no reason for this one to end as well.
                    child.start_at = now + START_PAUSE
                    self._log(f"cannot start the {child.name}: {error.strerror}; trying again", "error")
        self._check_pulse(now)
        return None

    def _check_pulse(self, now: float) -> None:
        """Replace an agent that hangs. Only time counts in which the guard itself was awake."""
        self._awake += min(now - self._last, 2 * LONGEST_SLEEP)
        self._last = now
        pulse = self._page.pulse
        if pulse != self._pulse[0]:
            self._pulse = (pulse, self._awake)
            if self._leaving and not self._told:
                self._told = True
                self._agent.signal(signal.SIGTERM)
        elif self._awake - self._pulse[1] > HUNG_AFTER and self._agent.pid is not None:
            self._log(f"the agent has not run for {HUNG_AFTER:.0f} s: killing it", "error")
            self._pulse = (pulse, self._awake)
            self._agent.signal(signal.SIGKILL)

    def _handle(self, received: Sequence[int]) -> None:
        for number in received:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._terminations += 1
                self._leaving = self._told = True
                # The first asks for an orderly leave; who insists gets a quick one.
                self._agent.signal(signal.SIGTERM if self._terminations == 1 else signal.SIGKILL)
            elif number == signal.SIGHUP:
                self._agent.signal(signal.SIGHUP)
            elif number == signal.SIGUSR1:
                self._reread()
            elif number == signal.SIGUSR2:
                # The agent says that it begins to leave. It may have died since, so whichever runs is told as well.
                self._leaving = True

    def close(self) -> None:
        """End the children that are left: SIGTERM, and SIGKILL when that was not enough."""
        self._wakeups.close()
        left = [child for child in (self._agent, *self._others) if child.pid is not None]
        for child in left:
            child.signal(signal.SIGTERM)
        end, killed = self._wakeups.boot() + STOP_LIMIT, False
        while left := [child for child in left if child.ended(self._wakeups.boot()) is None]:
            if self._wakeups.boot() >= end:
                if killed:
                    # In uninterruptible sleep. It runs none of our code any more.
                    names = ", ".join(f"the {child.name} (process {child.pid})" for child in left)
                    self._log(f"the kernel does not let {names} end: going without", "error")
                    return
                for child in left:
                    child.signal(signal.SIGKILL)
                end, killed = self._wakeups.boot() + STOP_LIMIT, True
            self._wakeups.pause(STOP_PAUSE)
