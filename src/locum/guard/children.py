"""Starting the guard's children and bringing them back when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

#: Exit status of an agent that can never do its work; it is not started again. (sysexits.h: EX_CONFIG)
EXIT_HOPELESS = 78
#: A child that dies within this many seconds of its start has failed to start.
QUICK_DEATH = 5.0
#: After this many quick deaths in a row, each new start waits, one second more each time up to the longest.
FREE_STARTS, LONGEST_PAUSE = 3, 10.0


class Child:
    """One supervised process: ``python -m MODULE ARGUMENTS``."""

    def __init__(self, name: str, module: str, arguments: Sequence[str]) -> None:
        self.name = name
        self._command = [sys.executable, "-m", module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._deaths = 0
        #: When to start it (again), CLOCK_BOOTTIME seconds; only meaningful while it does not run.
        self.start_at = 0.0

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self, now: float) -> None:
        """Start it."""
        environment = {**os.environ, "LOCUM_GUARD": str(os.getpid())}
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, env=environment)
        self._started = now

    def ended(self, now: float) -> int | None:
        """Its exit status (negative: minus the signal) when it has ended since the last look; sets ``start_at``."""
        status = self._process.poll() if self._process is not None else None
        if status is None:
            return None
        self._process = None
        self._deaths = self._deaths + 1 if now - self._started < QUICK_DEATH else 0
        self.start_at = now + min(max(self._deaths - FREE_STARTS, 0), LONGEST_PAUSE)
        return status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self, limit: float) -> None:
        """SIGTERM, and SIGKILL when ``limit`` seconds were not enough."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
