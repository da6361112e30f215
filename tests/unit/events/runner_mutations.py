"""Deliberate defects in the runner (``src/locum/events/runner``): its process applies them to itself before it serves.

Rules of this file: light imports, for the runner's process loads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from locum.events.runner import run_script
from locum.events.runner.protocol import Job
from locum.events.runner.results import Outcome, ScriptResult
from locum.events.runner.run_lock import RunLock
from locum.events.runner.run_script import Interruption, ScriptRunner
from locum.processes import kill, process


class Patch(Protocol):
    """The part of pytest's MonkeyPatch that mutations use."""

    def setattr(self, target: Any, name: str, value: Any) -> None: ...


@dataclass
class ForGood:
    """Replaces without a way back."""

    def setattr(self, target: Any, name: str, value: Any) -> None:
        setattr(target, name, value)


def a_failed_script_does_not_end_the_event(patch: Patch) -> None:
    """The scripts after one that failed run as well."""
    patch.setattr(Outcome, "ends_event", False)


def a_time_out_counts_as_success(patch: Patch) -> None:
    """A script that was killed for its time limit has the outcome ok."""
    original = ScriptRunner.run

    def run(self: ScriptRunner, job: Job, interruption: Interruption | None = None) -> ScriptResult:
        result = original(self, job, interruption)
        timed_out = result.outcome is Outcome.TIMEOUT
        return msgspec.structs.replace(result, outcome=Outcome.OK) if timed_out else result

    patch.setattr(ScriptRunner, "run", run)


def a_timed_out_script_goes_on(patch: Patch) -> None:
    """A script whose time limit has passed is left running."""
    patch.setattr(ScriptRunner, "_end_session", lambda _self, _job, run: setattr(run, "running", False))


def children_of_a_killed_script_survive(patch: Patch) -> None:
    """Only the script's own process is killed, not its session."""

    def kill_leader(session: int) -> list[object]:
        found = process(session)
        if found is not None:
            kill(found.pid, found.start)
        return []

    patch.setattr(run_script, "kill_session", kill_leader)


def one_limit_for_all_scripts(patch: Patch) -> None:
    """The time limit is for all scripts of an event together."""

    def run_in_order(self: ScriptRunner, jobs: Sequence[Job], interruption: Interruption) -> Iterator[ScriptResult]:
        left = jobs[0].limit
        for job in jobs:
            result = self.run(msgspec.structs.replace(job, limit=max(left, 0.01)), interruption)
            left -= result.seconds
            yield result
            if result.outcome.ends_event:
                return

    patch.setattr(ScriptRunner, "run_in_order", run_in_order)


def killed_by_a_signal_counts_as_success(patch: Patch) -> None:
    """Only a positive exit status is a failure."""
    original = run_script._Run._outcome

    def outcome(self: run_script._Run, code: int) -> tuple[Outcome, int]:
        found, status = original(self, code)
        return (Outcome.OK, 0) if code < 0 else (found, status)

    patch.setattr(run_script._Run, "_outcome", outcome)


def a_leftover_is_not_ended(patch: Patch) -> None:
    """A new runner begins while a script of the one before it still runs."""
    patch.setattr(RunLock, "end_earlier", lambda _self: None)


#: The program of a runner with the defect NAME.
_ENTRY = """
import os, sys
sys.path[:] = os.environ.pop("LOCUM_RUNNER_PATH").split(":")
from locum.events.runner.runner import serve
from tests.unit.events import runner_mutations
runner_mutations.NAME(runner_mutations.ForGood())
sys.exit(serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


def entry(name: str, place: Path) -> Path:
    """A file in ``place`` that is the program of a runner with this defect."""
    path = place / "mutated_runner.py"
    path.write_text(_ENTRY.replace("NAME", name))
    return path
