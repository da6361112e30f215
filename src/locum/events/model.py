"""The events, their arguments, and the result of a run.

The table follows CTDB's event scripts (ctdb-script.options(5), ``ctdb/config/events/README``) with the
guarantees of Locum's design, "Events". Nothing in this file does I/O.
"""

from __future__ import annotations

import enum

import msgspec


class Event(enum.StrEnum):
    """An event's name, as a script receives it in its first argument."""

    INIT = "init"
    SETUP = "setup"
    STARTUP = "startup"
    SHUTDOWN = "shutdown"
    MONITOR = "monitor"
    STARTRECOVERY = "startrecovery"
    STARTIPREALLOCATE = "startipreallocate"
    RELEASEIP = "releaseip"
    TAKEIP = "takeip"
    UPDATEIP = "updateip"
    IPREALLOCATED = "ipreallocated"
    RECOVERED = "recovered"


#: The names of the arguments that follow the event's name; events that are not here take none.
ARGUMENTS: dict[Event, tuple[str, ...]] = {
    Event.TAKEIP: ("interface", "address", "maskbits"),
    Event.RELEASEIP: ("interface", "address", "maskbits"),
    Event.UPDATEIP: ("old_interface", "new_interface", "address", "maskbits"),
}


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


class EventResult(msgspec.Struct, frozen=True):
    """One run of an event over the directory: the scripts that ran, in order; the last one is the one that failed."""

    event: Event
    arguments: tuple[str, ...]
    started: float
    seconds: float
    scripts: tuple[ScriptResult, ...]

    @property
    def failure(self) -> ScriptResult | None:
        """The script that stopped the event, or None when all succeeded (I4)."""
        for result in self.scripts:
            if result.outcome in (Outcome.FAILED, Outcome.TIMEOUT, Outcome.CANCELLED):
                return result
        return None

    @property
    def ok(self) -> bool:
        """Whether every script succeeded."""
        return self.failure is None


class EventStatus(msgspec.Struct, frozen=True):
    """The state of an event: its last run, and the last result of each script, in the order of the scripts.

    The two differ after a failure: scripts after the one that failed keep the result of an earlier run.
    """

    event: Event
    last: EventResult
    scripts: tuple[ScriptResult, ...]
