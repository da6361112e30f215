"""Looks for a deliberate defect in the simulation."""

from __future__ import annotations

from collections.abc import Container

import pytest

from locum_sim.run import Knobs, run_seed


def find(name: str, invariants: Container[str], knobs: Knobs, seeds: int) -> None:
    """Run seeds until one of ``invariants`` is violated; fail when none of the first ``seeds`` does that."""
    others = []
    for seed in range(seeds):
        violation = run_seed(seed, knobs).violation
        if violation is not None and violation.invariant in invariants:
            print(f"{name}: seed {seed}: {violation}")
            return
        if violation is not None:
            others.append(f"seed {seed}: {violation}")
    pytest.fail(f"not found within {seeds} seeds; found instead: {others or 'nothing'}")
