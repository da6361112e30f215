"""How the run of a script ended: what the runner answers, and what is shown and stored.

Rules of this file: values only, light imports.
"""

from __future__ import annotations

import enum

import msgspec

#: Exit statuses that Locum assigns: the event could not begin; the time limit (as timeout(1) has it); a script that
#: could not be started, or was not found (as in the shell).
NOT_RUN, TIMED_OUT, CANNOT_EXECUTE, NOT_FOUND = 2, 124, 126, 127


class Outcome(enum.StrEnum):
    """How a script's run ended."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"
    #: Killed because a more urgent event had to run (only ``monitor`` is ever cancelled), or the daemon ended.
    CANCELLED = "cancelled"
    #: Present but not executable.
    DISABLED = "disabled"
    #: A Python script that defines no function for the event: nothing was started.
    NOT_HANDLED = "not-handled"

    @property
    def ends_event(self) -> bool:
        """Whether the event has failed with it, and no further script runs (I4)."""
        return self in (Outcome.FAILED, Outcome.TIMEOUT, Outcome.CANCELLED)


class ScriptResult(msgspec.Struct, frozen=True):
    """The last run of one script for one event.

    ``started`` is unix time in seconds, ``seconds`` the duration. ``status`` is the exit status, 128 + signal
    when a signal ended it, 124 when the time-out did. ``output`` is its standard output and error
    (head and tail when it is long), with a dump of its processes after a time-out. ``reason`` says in one line why it
    is not ok, "" without output.
    """

    script: str
    outcome: Outcome
    status: int = 0
    started: float = 0.0
    seconds: float = 0.0
    output: str = ""
    reason: str = ""
