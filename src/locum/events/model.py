"""The values of the event machinery: events and their arguments, scripts, results.

Rules of this file: values only, no I/O. A script that runs has three shapes: the :class:`Script` that lies in the
directory, the :class:`locum.events.runner.protocol.Job` that the runner gets, and the
:class:`locum.events.runner.results.ScriptResult`, which is answered, shown and stored.

The events follow CTDB's event scripts (ctdb-script.options(5), ``ctdb/config/events/README``).
"""

from __future__ import annotations

import enum

import msgspec

from locum.events.runner.results import ScriptResult


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


class Kind(enum.StrEnum):
    """How a script is run."""

    #: Functions called in a child forked from the warm interpreter.
    PYTHON = "python"
    #: Text with a ``#!`` line, executed.
    TEXT = "script"
    #: A program, executed.
    BINARY = "program"


class Script(msgspec.Struct, frozen=True):
    """One script of a directory.

    ``name`` is the file's name without ``.script``; ``enabled`` whether it is executable. ``events`` are the events
    that it handles, as far as known (see :class:`locum.events.analysis.Analysis`), None for any.
    """

    name: str
    path: str
    enabled: bool
    kind: Kind
    events: tuple[str, ...] | None

    def handles(self, event: str) -> bool:
        """Whether running the script for ``event`` could have an effect, enabled or not."""
        return self.events is None or event in self.events


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
        return next((result for result in self.scripts if result.outcome.ends_event), None)

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
