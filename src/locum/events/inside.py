"""Determines whether a process belongs to the running event script: then no request of it may wait for that event.

Rules of this file: it asks the kernel (proc(5)) and the runner's record, never the process. A variable in its
environment would be lost by sudo and ``env -i``, and inherited by services that survive the script.

A process belongs to a script when it, or one of its ancestors, is in the script's session. A service that a script has
started does not: it has a session of its own, and init as its parent as soon as its starter has ended. A process that
systemd or a job queue starts for a script (``systemd-run --wait``) cannot be recognised.
"""

from __future__ import annotations

import os

import msgspec

from locum.events.runner.run_lock import Record, Running, first_line_of
from locum.processes import process

#: Upper bound of the ancestors of any process that a script started.
_MOST = 1000


class Inside(msgspec.Struct, frozen=True):
    """The running script and its event."""

    script: str
    event: str

    def __str__(self) -> str:
        return f"the event {self.event} (script {self.script})"


def inside(pid: int, runtime: str, runner: int) -> Inside | None:
    """The running script of which process ``pid`` is a part; None when there is none.

    ``runtime`` is the runtime directory of the runner, which is process ``runner``.
    """
    running = _running(runtime)
    if running is None or runner <= 0:
        return None
    place = Inside(running.script, running.event)
    for _ in range(_MOST):
        found = process(pid) if pid > 0 else None
        if found is None:
            return None
        # Before the script's number is on file, only the runner as an ancestor identifies it.
        if found.parent == runner or (running.pid and found.session == running.pid):
            return place
        pid = found.parent
    return None


def _running(runtime: str) -> Running | None:
    """Read the runner's record (:mod:`locum.events.runner.run_lock`)."""
    try:
        with open(os.path.join(runtime, "events", "running"), "rb") as file:
            return first_line_of(file.read(), Record).running
    except OSError:
        return None
