"""Deliberate defects in the engine's decisions, its order of events and its records.

They patch the product's modules. Each names the test that must find it: that test runs the product. Those of the
runner's process are in :mod:`tests.unit.events.runner_mutations`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from locum.events import decisions, engine
from locum.events.decisions import Plan, decide, passed_over
from locum.events.engine import EventEngine
from locum.events.model import Event, EventResult, Script
from locum.events.runner.protocol import Answer, Greeting
from locum.events.runner.results import Outcome, ScriptResult
from locum.events.runner_client import Run, RunnerClient
from locum.events.status import StatusBook
from locum.node.kernel_watch import KernelWatch
from tests.unit.events import runner_mutations as runner
from tests.unit.events import test_decisions as decision_tests
from tests.unit.events import test_engine as engine_tests
from tests.unit.events import test_started as late
from tests.unit.events.runner import test_protocol as protocol
from tests.unit.events.runner import test_run_lock as deaths
from tests.unit.events.runner import test_run_script as unusual
from tests.unit.node import test_kernel_watch as watch

Patch = pytest.MonkeyPatch
Check = Callable[..., None]


# -- what runs, and in which order ------------------------------------------------------------------------------


def order_by_name(patch: Patch) -> None:
    """Scripts run in the order of their names without the number."""
    patch.setattr(decisions, "order", lambda name: (0, name[3:]))


def disabled_scripts_run(patch: Patch) -> None:
    """A script that is not executable is started like the others."""
    original = passed_over

    def over(script: Script, event: Event) -> Outcome | None:
        return original(msgspec.structs.replace(script, enabled=True), event)

    patch.setattr(decisions, "passed_over", over)


def monitor_before_startup(patch: Patch) -> None:
    """A script that joins a running node has its ``monitor`` at once."""
    _decide(patch, lambda plan: [step for step in plan.steps if step[1] is plan.event])


def startup_at_each_monitor(patch: Patch) -> None:
    """A script that has had its ``startup`` gets it again."""
    patch.setattr(decisions, "late", lambda scripts, started: () if started is None else tuple(scripts))


def new_scripts_get_every_event(patch: Patch) -> None:
    """A script that joins a running node hears of addresses before its ``startup``."""
    original = decide

    def decided(event: Event, arguments: Sequence[str], scripts: Any, started: Any) -> Plan:
        return original(event, arguments, scripts, started if event is Event.MONITOR else None)

    patch.setattr(engine, "decide", decided)


def returning_scripts_are_not_new(patch: Patch) -> None:
    """A script that was disabled and is enabled again has no ``startup``."""
    patch.setattr(engine, "still_started", lambda _scripts, started: started)


def init_forgets_nothing(patch: Patch) -> None:
    """A node that starts again takes its scripts for started."""
    original = Plan.started_after

    def after(self: Plan, answers: Sequence[ScriptResult], ok: bool, started: Any) -> Any:
        return started if self.event is Event.INIT else original(self, answers, ok, started)

    patch.setattr(Plan, "started_after", after)


def failed_startup_counts_as_started(patch: Patch) -> None:
    """A script whose ``startup`` failed beside ``monitor`` does not get it again."""
    original = Plan.started_after

    def after(self: Plan, answers: Sequence[ScriptResult], ok: bool, started: Any) -> Any:
        known = original(self, answers, ok, started)
        return known if known is None else known | {one.script for one in self.startups(answers)}

    patch.setattr(Plan, "started_after", after)


def startup_has_the_limit_of_monitor(patch: Patch) -> None:
    """Every event has MonitorTimeout."""
    patch.setattr(decisions, "time_limit", lambda _event, tunables: tunables.monitor_timeout)


# -- what results mean ------------------------------------------------------------------------------------------


def a_time_out_is_no_failure(patch: Patch) -> None:
    """The event goes on, and succeeds, when a script has timed out."""
    patch.setattr(Outcome, "ends_event", property(lambda self: self in (Outcome.FAILED, Outcome.CANCELLED)))


def a_failed_startup_is_no_failure(patch: Patch) -> None:
    """The ``monitor`` of a script whose ``startup`` failed counts as passed."""
    patch.setattr(decisions, "_of_its_startup", lambda failed: ScriptResult(failed.script, Outcome.OK))


def a_dead_runner_is_no_failure(patch: Patch) -> None:
    """The script that ran when the runner died counts as passed."""
    original = Plan.broken_off

    def broken(self: Plan, *arguments: Any) -> ScriptResult:
        return msgspec.structs.replace(original(self, *arguments), outcome=Outcome.OK)

    patch.setattr(Plan, "broken_off", broken)


def scripts_after_a_failure_are_forgotten(patch: Patch) -> None:
    """The status has no results but those of the last run."""
    original = StatusBook.add
    patch.setattr(StatusBook, "add", lambda self, result, _present: original(self, result, ()))


def any_event_is_repeated(patch: Patch) -> None:
    """The end of any event uses up a script's wish for another ``monitor``."""
    original = KernelWatch._event_ended

    def ended(self: KernelWatch, result: EventResult) -> None:
        original(self, msgspec.structs.replace(result, event=Event.MONITOR))

    patch.setattr(KernelWatch, "_event_ended", ended)


# -- I5: one event at a time ------------------------------------------------------------------------------------


def two_events_at_once(patch: Patch) -> None:
    """An event does not wait for its turn."""

    class Turn:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *_: object) -> None: ...

    original = EventEngine.__init__

    def init(self: EventEngine, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        self._turn = Turn()  # type: ignore[assignment]

    patch.setattr(EventEngine, "__init__", init)


def a_cancelled_event_is_not_waited_for(patch: Patch) -> None:
    """The next event starts while the script of a cancelled one is being killed."""

    async def wait(_self: EventEngine, link: RunnerClient, run: Run) -> bool:
        try:
            await asyncio.wait([run.finished])
        except asyncio.CancelledError:
            link.cancel(run)
            run.finished.cancel()
            raise
        return False

    patch.setattr(EventEngine, "_await", wait)


def an_older_answer_counts(patch: Patch) -> None:
    """An answer that belongs to an earlier run is taken for one of this run."""
    original = RunnerClient._take

    def take(self: RunnerClient, message: Greeting | Answer) -> None:
        if isinstance(message, Answer) and self._run is not None:
            message = msgspec.structs.replace(message, run=self._run.request.run)
        original(self, message)

    patch.setattr(RunnerClient, "_take", take)


def _decide(patch: Patch, steps: Callable[[Plan], Sequence[tuple[Script, Event]]]) -> None:
    original = decide

    def decided(*arguments: Any) -> Plan:
        plan = original(*arguments)
        return msgspec.structs.replace(plan, steps=tuple(steps(plan)))

    patch.setattr(engine, "decide", decided)


#: Defect → the test that must find it.
ENGINE_MUTATIONS: dict[Callable[[Patch], None], Check] = {
    order_by_name: engine_tests.test_i4_scripts_run_in_ascending_order,
    disabled_scripts_run: engine_tests.test_disabled_and_unhandled_scripts_are_listed_and_not_started,
    monitor_before_startup: late.test_a_new_script_gets_startup_before_its_first_monitor_and_only_then,
    startup_at_each_monitor: late.test_a_script_that_is_enabled_again_is_new_and_one_that_was_changed_is_not,
    new_scripts_get_every_event: late.test_a_new_script_gets_startup_before_its_first_monitor_and_only_then,
    returning_scripts_are_not_new: late.test_a_script_that_is_enabled_again_is_new_and_one_that_was_changed_is_not,
    init_forgets_nothing: late.test_a_node_that_starts_again_takes_no_script_for_started,
    failed_startup_counts_as_started: late.test_a_startup_that_fails_is_the_failure_of_the_monitor_and_is_tried_again,
    startup_has_the_limit_of_monitor: decision_tests.test_time_limits,
    a_time_out_is_no_failure: unusual.test_i4_a_time_out_ends_the_event,
    a_failed_startup_is_no_failure: late.test_a_startup_that_fails_is_the_failure_of_the_monitor_and_is_tried_again,
    a_dead_runner_is_no_failure: deaths.test_i5_runner_killed_while_a_script_runs,
    any_event_is_repeated: watch.test_a_monitor_in_which_a_script_asks_for_it_is_followed_by_another,
    scripts_after_a_failure_are_forgotten: engine_tests.test_results_survive_the_daemon,
    two_events_at_once: engine_tests.test_i5_events_asked_for_at_once_run_one_after_the_other_in_that_order,
    a_cancelled_event_is_not_waited_for: engine_tests.test_i5_an_event_waits_for_the_script_of_a_cancelled_one,
    an_older_answer_counts: protocol.test_i5_an_answer_to_an_earlier_run_is_ignored,
}

#: The same for defects of the runner's process.
RUNNER_CHECKS: dict[Callable[[runner.Patch], None], Check] = {
    runner.a_failed_script_does_not_end_the_event: engine_tests.test_i4_the_first_failure_ends_the_event,
    runner.a_time_out_counts_as_success: unusual.test_i4_a_time_out_ends_the_event,
    runner.a_timed_out_script_goes_on: unusual.test_i5_a_script_that_timed_out_has_ended_when_the_next_event_starts,
    runner.children_of_a_killed_script_survive: unusual.test_what_a_killed_script_leaves_goes,
    runner.one_limit_for_all_scripts: unusual.test_the_limit_is_for_each_script,
    runner.killed_by_a_signal_counts_as_success: unusual.test_what_a_killed_script_leaves_goes,
    runner.a_leftover_is_not_ended: deaths.test_i5_runner_killed_while_a_script_runs,
}
