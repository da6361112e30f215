"""The last result of every script of every event, kept over a restart of the daemon: only for display.

Rules of this file: one small file per event in ``RUNTIME/events/status``.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from locum.events.decisions import order
from locum.events.model import Event, EventResult, EventStatus
from locum.events.runner.results import ScriptResult
from locum.events.stored import Stored


class StatusBook:
    """Results by event. Only :meth:`read` and :meth:`write` touch files."""

    def __init__(self, runtime: str) -> None:
        place = os.path.join(runtime, "events", "status")
        self._files = {event: Stored[EventStatus](os.path.join(place, f"{event}.json"), EventStatus) for event in Event}
        self._events: dict[Event, EventStatus] = {}

    def read(self) -> None:
        """Adopt the results of an earlier process, for events without a result."""
        for event, file in self._files.items():
            if (found := file.read()) is not None:
                self._events.setdefault(event, found)

    def add(self, result: EventResult, present: Collection[str]) -> None:
        """Take over a result.

        Earlier results stay for scripts that are ``present`` (names). Results of removed scripts are dropped: they
        would be shown as failed for ever.
        """
        known = self._events.get(result.event)
        earlier = known.scripts if known is not None else ()
        scripts: dict[str, ScriptResult] = {one.script: one for one in earlier if one.script in present}
        scripts.update((one.script, one) for one in result.scripts)
        ordered = tuple(scripts[name] for name in sorted(scripts, key=order))
        self._events[result.event] = EventStatus(result.event, result, ordered)

    def write(self, event: Event) -> None:
        """Write the state of ``event``."""
        self._files[event].write(self._events[event])

    def snapshot(self) -> dict[Event, EventStatus]:
        """The current state, by event."""
        return dict(self._events)
