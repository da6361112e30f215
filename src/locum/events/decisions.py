"""What the event engine decides: the scripts of an event, their order, their time limits, the meaning of results.

Rules of this file: pure. The daemon's engine, ``locum event run --dir`` and the simulation decide by these functions;
no other file states an order, a limit or the meaning of a result. When an event is due or repeated after a failure, and
what its failure means for the node, is decided by the rules of the cluster.

An event is decided once, before it begins (:func:`decide`): its :class:`Plan` lists the steps, each one script with one
event. The runner carries them out up to the first that fails (I4). The plan then reads the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from locum.config.tunables import Tunables
from locum.errors import UsageError
from locum.events.model import ARGUMENTS, Event, EventResult, Kind, Script
from locum.events.runner.protocol import Job
from locum.events.runner.reason import first_line
from locum.events.runner.results import NOT_RUN, Outcome, ScriptResult

#: The event that scripts can have repeated (``monitor_again``), and the seconds from its end to the next run.
REPEATED, REPEAT_PAUSE = Event.MONITOR, 1.0
#: These events concern all scripts alike: ``startup`` follows, or this is it.
_BEFORE_STARTUP = (Event.INIT, Event.SETUP, Event.STARTUP)

#: Names of the scripts that have had their ``startup``; None while the node has not started.
Started = frozenset[str] | None


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


def order(name: str) -> tuple[int, str]:
    """The place of a script's name, or of another name in a list of results: by number (I4), other names first."""
    return (int(name[:2]) if name[:2].isdigit() else -1, name)


def in_order(scripts: Iterable[Script]) -> tuple[Script, ...]:
    """``scripts`` in the order in which they run."""
    return tuple(sorted(scripts, key=lambda script: order(script.name)))


def time_limit(event: Event, tunables: Tunables) -> float:
    """How long one script may take for ``event``, seconds."""
    return tunables.monitor_timeout if event is Event.MONITOR else tunables.event_timeout


def passed_over(script: Script, event: Event) -> Outcome | None:
    """Why ``script`` is not started for ``event``; None when it is."""
    if not script.enabled:
        return Outcome.DISABLED
    if script.kind is Kind.PYTHON and not script.handles(event):
        return Outcome.NOT_HANDLED
    return None


def handled(scripts: Iterable[Script]) -> tuple[Event, ...]:
    """Every event for which some script could have an effect."""
    enabled = [script for script in scripts if script.enabled]
    return tuple(event for event in Event if any(script.handles(event) for script in enabled))


def late(scripts: Iterable[Script], started: Started) -> tuple[Script, ...]:
    """The scripts that came to a running node and have not had their ``startup``."""
    return () if started is None else tuple(one for one in scripts if _wants_startup(one) and one.name not in started)


def still_started(scripts: Iterable[Script], started: Started) -> Started:
    """``started`` without scripts that are gone or disabled: when they return, they are new."""
    return None if started is None else started & {script.name for script in scripts if _wants_startup(script)}


def _wants_startup(script: Script) -> bool:
    return script.enabled and script.handles(Event.STARTUP)


class Plan(msgspec.Struct, frozen=True):
    """One run of ``event``.

    ``scripts``: those that the event concerns, in order, including the ones that are passed over. ``steps``: what is
    run, in order.
    """

    event: Event
    arguments: tuple[str, ...]
    scripts: tuple[Script, ...]
    steps: tuple[tuple[Script, Event], ...]

    @property
    def lost(self) -> Script | None:
        """A script that is faulty and of which no usable copy exists: the event cannot run."""
        return next((script for script, _ in self.steps if not script.path), None)

    def jobs(self, tunables: Tunables, environment: Callable[[str], Mapping[str, str]]) -> tuple[Job, ...]:
        """A job for each step; ``environment`` returns the variables of the script with this name."""
        return tuple(
            Job(
                script=script.name,
                path=script.path,
                python=script.kind is Kind.PYTHON,
                event=event,
                arguments=self.arguments if event is self.event else (),
                environment={**environment(script.name), "LOCUM_EVENT": event},
                limit=time_limit(event, tunables),
            )
            for script, event in self.steps
        )

    def results(self, answers: Iterable[ScriptResult]) -> Iterator[ScriptResult]:
        """One result for each script, up to the one that ends the event.

        ``answers`` are those of the steps. Each is asked for when its turn comes.
        """
        answer = iter(answers)
        for script in self.scripts:
            skipped = passed_over(script, self.event)
            result = ScriptResult(script.name, skipped) if skipped is not None else None
            for event in (event for one, event in self.steps if one is script):
                given = next(answer, None)
                if given is None:
                    return
                if event is self.event:
                    result = given
                elif given.outcome.ends_event:
                    result = _of_its_startup(given)
                    break
            assert result is not None
            yield result
            if result.outcome.ends_event:
                return

    def startups(self, answers: Iterable[ScriptResult]) -> list[ScriptResult]:
        """The answers to a ``startup`` that preceded a script's first ``monitor``."""
        steps = zip(self.steps, answers, strict=False)  # answers end with the first failure
        return [answer for (_, event), answer in steps if event is not self.event]

    def broken_off(self, answers: Sequence[ScriptResult], began: float, reason: str, cancelled: bool) -> ScriptResult:
        """The result of the step that has no answer, because the runner ended or was ended (``cancelled``)."""
        outcome = Outcome.CANCELLED if cancelled else Outcome.FAILED
        return ScriptResult(self.steps[len(answers)][0].name, outcome, NOT_RUN, began, 0.0, reason, reason)

    def not_run(self, began: float, reason: str, place: str = "") -> EventResult:
        """The result of the event when it could not begin; ``place``: what is at fault, by default the first script."""
        place = place or self.steps[0][0].name
        result = ScriptResult(place, Outcome.FAILED, NOT_RUN, began, 0.0, reason, first_line(reason))
        return EventResult(self.event, self.arguments, began, 0.0, (result,))

    def started_after(self, answers: Sequence[ScriptResult], ok: bool, started: Started) -> Started:
        """The scripts that have had their ``startup`` after this run, whose event has succeeded if ``ok``."""
        if self.event is Event.INIT:
            return None
        if self.event is Event.STARTUP and ok:
            return frozenset(script.name for script in self.scripts if _wants_startup(script))
        if started is None:
            return None
        return started | {one.script for one in self.startups(answers) if one.outcome is Outcome.OK}


def decide(event: Event, arguments: Sequence[str], scripts: Iterable[Script], started: Started) -> Plan:
    """How ``event`` runs over ``scripts``.

    A script that joined a running node gets ``startup`` before its first ``monitor``, and no other event until that has
    succeeded.
    """
    scripts = in_order(scripts)
    new = () if event in _BEFORE_STARTUP else late(scripts, started)
    if event is not Event.MONITOR:
        scripts = tuple(script for script in scripts if script not in new)
    steps: list[tuple[Script, Event]] = []
    for script in scripts:
        if script in new:
            steps.append((script, Event.STARTUP))
        if passed_over(script, event) is None:
            steps.append((script, event))
    return Plan(event, tuple(arguments), scripts, tuple(steps))


def _of_its_startup(failed: ScriptResult) -> ScriptResult:
    """A ``startup`` that failed before the first ``monitor`` is the failure of that ``monitor``."""
    text, why = f"its startup failed: {failed.output}", f"its startup failed: {failed.reason}"
    return msgspec.structs.replace(failed, output=text, reason=why)
