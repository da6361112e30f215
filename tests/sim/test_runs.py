"""Runs as a whole: the same seed is the same history, peace is peaceful, what was found once stays found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from locum_sim.faults.draw import WEIGHTS
from locum_sim.run import Knobs, run_seed
from locum_sim.run_state import Violation
from locum_sim.seeds_report import Total

#: Seeds that found something, with what it was. A change of the mix of faults gives them another meaning; what they
#: found in the rules is therefore also tested by itself (``test_scenarios.py``, ``tests/unit/rules``).
FOUND = {
    33: "a claim whose deletion was under way was relied on",
    96: "an address came back with the note of an earlier membership",
    523: "an agent that adopted took an address by a claim of a restored copy, which another node still served",
    1241: "releaseip ran for an address that still answered, just after the gate's rules had been removed",
    4120: "an agent that was killed in the midst of a release after a reload left the address out of the gate",
    5888: "an address that another program had put elsewhere in the midst of its release stayed there",
    6239: "an agent that adopted a hold which had ended brought addresses back without takeip",
    9540: "an address that another program had configured before a reload made it public stayed",
    6337: "an administrator's command from before the healing had the last word",
    5028: "a take went on after the hold had been lost in its midst",
    5300: "takeip started after the hold had been dropped while the take waited for the kernel",
    5404: "takeip started after the hold had been dropped while the take waited for its note",
    5626: "takeip started although the store's history had changed in the midst of the take",
    9006: "a refusal of an earlier membership's beat ended the present one",
    4934: "a spoiled claim was nobody's to write anew: its node had released the address and read the store anew since",
    20160: "views that lagged behind the healing were taken for rest",
    20275: "a late join made a member that its own node did not know",
    30329: "a claim that could not be read was taken for whose it had been before a gap",
    30342: "recovered did not wait for the release of a stopped node",
    30420: "beats that had waited in the store's queue hid an outage",
    31358: "epochs began anew after a plan that nobody could read",
    40220: "an answer that came late brought a deleted key back",
    41037: "an address was taken on one interface and left on another",
}


def timeline(seed: int, hash_seed: str) -> str:
    """What a process of its own prints about ``seed``."""
    done = subprocess.run(
        [sys.executable, "-m", "locum_sim", "--seed", str(seed), "--whole", "--rounds", "1"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "simulated" in done.stdout, done.stderr
    return done.stdout


@pytest.mark.parametrize("seed", [2, 33, 51, 20160])
def test_a_seed_is_the_same_history_in_every_process(seed: int) -> None:
    assert timeline(seed, "1") == timeline(seed, "31337")


def test_writing_the_timeline_changes_nothing() -> None:
    plain, traced = run_seed(7), run_seed(7, traced=True)
    assert plain._replace(timeline="") == traced._replace(timeline="")
    assert traced.timeline


@pytest.mark.parametrize("seed", range(8))
def test_without_faults_nobody_is_expired_and_everything_is_served(seed: int) -> None:
    outcome = run_seed(seed, Knobs(without=tuple(WEIGHTS), rounds=1))
    assert outcome.violation is None
    assert outcome.figures["expiries"] == 0
    assert outcome.faults.total() == 0


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_once_is_mended(seed: int) -> None:
    assert run_seed(seed).violation is None, FOUND[seed]


def test_the_report_adds_up() -> None:
    total = Total()
    outcomes = [run_seed(seed, Knobs(rounds=1, trouble=5.0)) for seed in range(4)]
    for outcome in outcomes:
        total.add(outcome)
    text = "\n".join(total.lines(cpu=1.0, jobs=1))
    assert total.runs == 4
    assert total.seconds == sum(outcome.seconds for outcome in outcomes)
    assert total.faults.total() == sum(outcome.faults.total() for outcome in outcomes)
    assert f"{total.faults.total():,} faults" in text
    assert "no violation" in text
    assert "kinds that did not occur" in text


def test_a_violation_is_reported_with_its_seed() -> None:
    total, wrong = Total(), Violation("I1", "two of them")
    outcome = run_seed(0, Knobs(rounds=1, trouble=2.0))
    total.add(outcome._replace(violation=wrong))
    assert f"seed 0: {wrong}" in "\n".join(total.lines(cpu=1.0, jobs=1))
