"""Looks for a deliberate defect in the simulation.

``found_by.txt`` has the seed that found each defect the last time. It comes first, which spares most of the search; it
decides nothing. When changes of the code have made seeds useless, write the file again: run ``tests/sim`` with
``LOCUM_FOUND_BY`` set to a file, which gets a line for each defect, sort these lines, and put them in the place of the
old ones.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from pathlib import Path

import pytest

from locum_sim.run import Knobs, run_seed

_KNOWN = Path(__file__).with_name("found_by.txt")


def seeds_for(name: str, count: int) -> Iterator[int]:
    """The first ``count`` seeds, in the order in which defect ``name`` is looked for."""
    known = [int(line.split()[1]) for line in _KNOWN.read_text().splitlines() if line.split()[0] == name]
    yield from known
    yield from (seed for seed in range(count) if seed not in known)


def found(name: str, seed: int, violation: object) -> None:
    """Record that ``seed`` has found the defect ``name``."""
    print(f"{name}: seed {seed}: {violation}")
    if path := os.environ.get("LOCUM_FOUND_BY"):
        with open(path, "a") as file:
            file.write(f"{name} {seed}\n")


def find(name: str, invariants: Container[str], knobs: Knobs, seeds: int) -> None:
    """Run seeds until one of ``invariants`` is violated; fail when none of the first ``seeds`` does that."""
    others = []
    for seed in seeds_for(name, seeds):
        violation = run_seed(seed, knobs).violation
        if violation is not None and violation.invariant in invariants:
            found(name, seed, violation)
            return
        if violation is not None:
            others.append(f"seed {seed}: {violation}")
    pytest.fail(f"not found within {seeds} seeds; found instead: {others or 'nothing'}")
