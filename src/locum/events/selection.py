"""Selects the scripts that an event starts, and combines their results with those of the others.

Rules of this file: pure. The engine of the daemon and ``locum event run --dir`` share it.
"""

from __future__ import annotations

from collections.abc import Sequence

from locum.errors import UsageError
from locum.events.analysis import Kind
from locum.events.directory import Script
from locum.events.model import ARGUMENTS, Event, EventResult, Outcome, ScriptResult
from locum.events.runner.reason import first_line

#: Exit status of an event that could not begin because of the directory or the runner.
NOT_RUN_STATUS = 2


def passed_over(script: Script, event: Event) -> Outcome | None:
    """Why ``script`` is not started for ``event``; None when it is."""
    if not script.enabled:
        return Outcome.DISABLED
    if script.kind is Kind.PYTHON and not script.handles(event):
        return Outcome.NOT_HANDLED
    return None


def to_start(scripts: Sequence[Script], event: Event) -> list[Script]:
    """The scripts to start, in order."""
    return [script for script in scripts if passed_over(script, event) is None]


def combine(scripts: Sequence[Script], event: Event, results: Sequence[ScriptResult]) -> tuple[ScriptResult, ...]:
    """One result for each script up to the one that failed: ``results`` are those of the scripts that were started."""
    combined: list[ScriptResult] = []
    remaining = iter(results)
    for script in scripts:
        reason = passed_over(script, event)
        if reason is not None:
            combined.append(ScriptResult(script.name, reason))
            continue
        result = next(remaining, None)
        if result is None:
            break
        combined.append(result)
        if result.outcome is not Outcome.OK:
            break
    return tuple(combined)


def not_run(place: str, event: Event, arguments: Sequence[str], started: float, reason: str) -> EventResult:
    """The result of an event that could not begin, with the reason as the output of ``place``."""
    result = ScriptResult(place, Outcome.FAILED, NOT_RUN_STATUS, started, 0.0, reason, first_line(reason))
    return EventResult(event, tuple(arguments), started, 0.0, (result,))


def parse_event(name: str, arguments: Sequence[str]) -> Event:
    """The event called ``name``. Raises UsageError for an unknown event or wrong arguments."""
    try:
        event = Event(name)
    except ValueError:
        raise UsageError(f"unknown event {name!r}; the events are {', '.join(Event)}") from None
    wanted = ARGUMENTS.get(event, ())
    if len(arguments) != len(wanted):
        takes = " ".join(wanted).upper() or "no arguments"
        raise UsageError(f"event {event} takes {takes}; {len(arguments)} given")
    return event
