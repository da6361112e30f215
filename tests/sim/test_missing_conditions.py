"""I8: the simulation finds every condition that is missing from a commit of the rules, one at a time."""

from __future__ import annotations

import pytest

from locum_sim.run import run_seed
from tests.sim.finding import found, seeds_for
from tests.sim.missing_conditions import COMMITS, IMPLIED, MISSING, Missing, watch_conditions


@pytest.mark.parametrize("missing", MISSING, ids=lambda missing: missing.name)
def test_i8_a_missing_condition_is_found(missing: Missing, monkeypatch: pytest.MonkeyPatch) -> None:
    missing.apply(monkeypatch)
    for seed in seeds_for(missing.name, missing.seeds):
        violation = run_seed(seed, missing.knobs).violation
        if violation is not None:
            assert violation.invariant in ("I1", "I2", "I8"), violation
            found(missing.name, seed, violation)
            return
    pytest.fail(f"not found within {missing.seeds} seeds")


def test_every_condition_of_every_commit_is_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the rules commit in some troubled histories has no condition that no test leaves out."""
    seen = watch_conditions(monkeypatch)
    for seed, missing in enumerate({missing.knobs: missing for missing in MISSING}.values()):
        run_seed(seed, missing.knobs)
    known = {(missing.commit, missing.condition) for missing in MISSING}
    for name in IMPLIED:
        commit, _, condition = name.partition("_without_")
        known.add((commit, condition.removeprefix("own_").removeprefix("other_")))
    assert {commit for commit, _ in seen} <= set(COMMITS.values())
    assert seen <= known
