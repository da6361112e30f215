"""Whether a process belongs to the event script that runs: then nothing may wait for that event on its behalf.

Rules of this file: it asks the kernel (proc(5)) and the runner's record, never the process. A variable in its
environment would be lost by sudo and ``env -i``, and inherited by services that outlive the script.

A process belongs to a script when it, or one of its ancestors, is in the script's session. A service that a script has
started is not: it has a session of its own, and init for a parent as soon as what started it has ended. A process that
systemd or a job queue starts on behalf of a script (``systemd-run --wait``) cannot be told from any other.
"""

from __future__ import annotations

import os

import msgspec

from locum.events.processes import process

#: More ancestors than any process has that a script started.
_MOST = 1000


class Inside(msgspec.Struct, frozen=True):
    """The script that runs, and for which event."""

    script: str
    event: str

    def __str__(self) -> str:
        return f"the event {self.event} (script {self.script})"


class _Running(msgspec.Struct):
    script: str = ""
    event: str = ""
    pid: int = 0


class _Record(msgspec.Struct):
    running: _Running | None = None


_decoder = msgspec.json.Decoder(_Record)


def inside(pid: int, runtime: str, runner: int) -> Inside | None:
    """The script that process ``pid`` is a part of; None when it is of none that runs now.

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
        # Before the script's number is on file, the runner is the only ancestor to know it by.
        if found.parent == runner or (running.pid and found.session == running.pid):
            return place
        pid = found.parent
    return None


def _running(runtime: str) -> _Running | None:
    """What the runner has put on file (:mod:`locum.events.record`)."""
    try:
        with open(os.path.join(runtime, "events", "running"), "rb") as file:
            return _decoder.decode(file.read().split(b"\n", 1)[0]).running
    except (OSError, msgspec.DecodeError):
        return None
