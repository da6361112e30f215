"""The last result of every script of every event, kept over a restart of the daemon.

Rules of this file: one small file per event in ``RUNTIME/events/status``, replaced by rename and not synced: it is
only for display, and a reboot may lose it.
"""

from __future__ import annotations

import os
from collections.abc import Collection

import msgspec

from locum.events.decisions import order
from locum.events.model import Event, EventResult, EventStatus
from locum.events.runner.results import ScriptResult

_decoder = msgspec.json.Decoder(EventStatus)


class StatusBook:
    """Results by event. Only :meth:`read` and :meth:`write` touch files."""

    def __init__(self, runtime: str) -> None:
        self._directory = os.path.join(runtime, "events", "status")
        self._events: dict[Event, EventStatus] = {}

    def read(self) -> None:
        """Adopt the results of an earlier process, for events without a result."""
        for event in Event:
            try:
                with open(self._path(event), "rb") as file:
                    self._events.setdefault(event, _decoder.decode(file.read()))
            except (OSError, msgspec.DecodeError):
                continue

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
        """Write the state of ``event``; a write error is ignored."""
        status, path = self._events[event], self._path(event)
        try:
            os.makedirs(self._directory, mode=0o755, exist_ok=True)
            with open(path + ".new", "wb") as file:
                file.write(msgspec.json.encode(status))
            os.replace(path + ".new", path)
        except OSError:
            pass

    def snapshot(self) -> dict[Event, EventStatus]:
        """The current state, by event."""
        return dict(self._events)

    def _path(self, event: Event) -> str:
        return os.path.join(self._directory, f"{event.value}.json")
