"""The engine's decisions: given a directory, an event and answers, expect these steps, limits and results."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from locum.config.tunables import Tunables
from locum.events import decisions
from locum.events.decisions import Plan, Started, decide
from locum.events.model import Event, EventResult, Kind, Script
from locum.events.runner.results import Outcome, ScriptResult

ALL_STARTED = frozenset({"10.a", "20.b", "30.c"})


def script(name: str, *events: str, kind: Kind = Kind.TEXT, enabled: bool = True, path: str = "/x") -> Script:
    """A script that handles ``events``, any when there are none."""
    return Script(name, path, enabled, kind, events or None)


def python(name: str, *events: str) -> Script:
    """A Python script with these functions."""
    return script(name, *events, kind=Kind.PYTHON)


A, B, C = script("10.a"), script("20.b"), script("30.c")


def steps(plan: Plan) -> list[str]:
    """What runs: script and event."""
    return [f"{one.name} {event}" for one, event in plan.steps]


def results(plan: Plan, *outcomes: Outcome) -> list[str]:
    """What the event results in when its steps end like this."""
    answers = [ScriptResult(one.name, outcome) for (one, _), outcome in zip(plan.steps, outcomes, strict=False)]
    return [f"{one.script} {one.outcome}" for one in plan.results(answers)]


def test_i4_scripts_run_by_number_whatever_the_order_of_their_names() -> None:
    later, sooner = script("70.alpha"), script("05.zeta")
    assert steps(decide(Event.MONITOR, (), [later, B, sooner], None)) == [
        "05.zeta monitor",
        "20.b monitor",
        "70.alpha monitor",
    ]


def test_disabled_scripts_and_python_scripts_without_a_function_are_listed_and_not_started() -> None:
    off, other = script("05.off", enabled=False), python("15.other", "startup")
    plan = decide(Event.MONITOR, (), [off, A, other, python("25.mine", "monitor")], None)
    assert steps(plan) == ["10.a monitor", "25.mine monitor"]
    assert results(plan, Outcome.OK, Outcome.OK) == [
        "05.off disabled",
        "10.a ok",
        "15.other not-handled",
        "25.mine ok",
    ]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMEOUT, Outcome.CANCELLED])
def test_i4_a_script_that_does_not_succeed_ends_the_event(outcome: Outcome) -> None:
    plan = decide(Event.MONITOR, (), [A, B, C], None)
    assert results(plan, Outcome.OK, outcome, Outcome.OK) == ["10.a ok", f"20.b {outcome}"]
    whole = EventResult(Event.MONITOR, (), 0.0, 0.0, (ScriptResult("10.a", Outcome.OK), ScriptResult("20.b", outcome)))
    assert not whole.ok
    assert whole.failure == ScriptResult("20.b", outcome)


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.DISABLED, Outcome.NOT_HANDLED])
def test_what_succeeds_or_is_passed_over_does_not_end_the_event(outcome: Outcome) -> None:
    assert not outcome.ends_event


def test_each_result_is_asked_for_in_its_turn_and_none_after_a_failure() -> None:
    plan = decide(Event.MONITOR, (), [A, B, C], None)
    taken = []

    def answers() -> Iterable[ScriptResult]:
        for name, outcome in (("10.a", Outcome.OK), ("20.b", Outcome.FAILED), ("30.c", Outcome.OK)):
            taken.append(name)
            yield ScriptResult(name, outcome)

    assert len(list(plan.results(answers()))) == 2
    assert taken == ["10.a", "20.b"]


def test_time_limits() -> None:
    tunables = Tunables(monitor_timeout=1, event_timeout=2)
    assert {event: decisions.time_limit(event, tunables) for event in Event} == {
        event: 1 if event == "monitor" else 2 for event in Event
    }
    jobs = decide(Event.MONITOR, (), [A, B], frozenset({"10.a"})).jobs(tunables, lambda _: {})
    assert [(job.script, job.event, job.limit) for job in jobs] == [
        ("10.a", "monitor", 1),
        ("20.b", "startup", 2),
        ("20.b", "monitor", 1),
    ]


def test_a_job_has_the_arguments_and_the_environment_of_its_script() -> None:
    plan = decide(Event.TAKEIP, ("eth0", "10.0.0.1", "24"), [A, python("20.b", "takeip")], None)
    first, second = plan.jobs(Tunables(), lambda name: {"LOCUM_SCRIPT": name})
    assert first.command == ["/x", "takeip", "eth0", "10.0.0.1", "24"]
    assert (first.python, second.python) == (False, True)
    assert second.environment == {"LOCUM_SCRIPT": "20.b", "LOCUM_EVENT": "takeip"}


# -- scripts that join a running node ------------------------------------------------------------------------


def test_a_new_script_gets_startup_before_its_first_monitor_and_no_other_event_before() -> None:
    started = frozenset({"10.a"})
    assert steps(decide(Event.RECOVERED, (), [A, B], started)) == ["10.a recovered"]
    plan = decide(Event.MONITOR, (), [A, B], started)
    assert steps(plan) == ["10.a monitor", "20.b startup", "20.b monitor"]
    assert results(plan, Outcome.OK, Outcome.OK, Outcome.OK) == ["10.a ok", "20.b ok"]


def test_a_new_script_without_monitor_gets_its_startup_all_the_same() -> None:
    new = python("20.b", "startup", "takeip")
    plan = decide(Event.MONITOR, (), [A, new, C], frozenset({"10.a", "30.c"}))
    assert steps(plan) == ["10.a monitor", "20.b startup", "30.c monitor"]
    assert results(plan, Outcome.OK, Outcome.OK, Outcome.OK) == ["10.a ok", "20.b not-handled", "30.c ok"]
    assert results(plan, Outcome.OK, Outcome.FAILED) == ["10.a ok", "20.b failed"]


def test_its_failed_startup_is_the_failure_of_monitor() -> None:
    plan = decide(Event.MONITOR, (), [A, B, C], frozenset({"10.a", "30.c"}))
    failed = ScriptResult("20.b", Outcome.FAILED, 3, output="no port\nat all\n", reason="no port")
    answers = [ScriptResult("10.a", Outcome.OK), failed]
    (_, result) = plan.results(answers)
    assert (result.outcome, result.status) == (Outcome.FAILED, 3)
    assert (result.output, result.reason) == ("its startup failed: no port\nat all\n", "its startup failed: no port")
    assert plan.startups(answers) == [failed]
    assert plan.started_after(answers, False, frozenset({"10.a", "30.c"})) == frozenset({"10.a", "30.c"})


@pytest.mark.parametrize("event", [Event.INIT, Event.SETUP, Event.STARTUP])
def test_the_first_events_are_for_all(event: Event) -> None:
    assert steps(decide(event, (), [A, B], frozenset({"10.a"}))) == [f"10.a {event}", f"20.b {event}"]


@pytest.mark.parametrize(
    ("event", "ok", "before", "after"),
    [
        (Event.STARTUP, True, None, {"10.a", "20.b"}),
        (Event.STARTUP, False, None, None),
        (Event.INIT, True, frozenset({"10.a"}), None),
        (Event.MONITOR, True, None, None),
        (Event.MONITOR, True, frozenset({"10.a"}), {"10.a", "20.b"}),
        (Event.RECOVERED, True, frozenset({"10.a"}), {"10.a"}),
    ],
)
def test_who_has_had_startup(event: Event, ok: bool, before: Started, after: Started) -> None:
    plan = decide(event, (), [A, B, script("40.off", enabled=False), python("50.none", "monitor")], before)
    answers = [ScriptResult(one.name, Outcome.OK) for one, _ in plan.steps]
    assert plan.started_after(answers, ok, before) == after


def test_a_script_that_is_gone_or_disabled_is_new_when_it_returns() -> None:
    assert decisions.still_started([A, script("20.b", enabled=False)], ALL_STARTED) == frozenset({"10.a"})
    assert decisions.still_started([A], None) is None


# -- events that cannot run, or not to their end -------------------------------------------------------------


def test_a_faulty_script_without_a_copy_is_found_before_anything_runs() -> None:
    lost = script("20.b", path="")
    assert decide(Event.MONITOR, (), [A, lost], None).lost == lost
    assert decide(Event.MONITOR, (), [A, script("20.b", path="", enabled=False)], None).lost is None


@pytest.mark.parametrize(("cancelled", "outcome"), [(True, Outcome.CANCELLED), (False, Outcome.FAILED)])
def test_a_runner_that_ends_is_the_failure_of_the_script_that_ran(cancelled: bool, outcome: Outcome) -> None:
    plan = decide(Event.MONITOR, (), [A, B, C], None)
    answers = [ScriptResult("10.a", Outcome.OK)]
    answers.append(plan.broken_off(answers, 5.0, "the runner has ended", cancelled))
    (_, result) = plan.results(answers)
    assert (result.script, result.outcome, result.status, result.reason) == ("20.b", outcome, 2, "the runner has ended")


@pytest.mark.parametrize(
    ("place", "named"), [("/etc/locum/events", "/etc/locum/events"), ("", "10.a")], ids=["directory", "script"]
)
def test_an_event_that_cannot_begin_has_failed(place: str, named: str) -> None:
    result = decide(Event.MONITOR, (), [A], None).not_run(5.0, "broken\nbadly", place)
    assert not result.ok
    assert [(one.script, one.status, one.reason) for one in result.scripts] == [(named, 2, "broken")]


def test_other_names_come_before_scripts() -> None:
    assert sorted(["20.b", "/etc/locum/events", "10.a"], key=decisions.order) == ["/etc/locum/events", "10.a", "20.b"]
