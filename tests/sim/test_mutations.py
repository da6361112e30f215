"""The simulation can fail: every deliberate defect is found, within a bounded number of seeds."""

from __future__ import annotations

import pytest

from tests.sim.finding import find
from tests.sim.mutations import MUTATIONS

#: The defects that must be among them, whatever else is.
DEMANDED = (
    "no_margin",
    "claim_not_conditional",
    "deadline_from_answer",
    "expiry_after_own_outage",
    "take_before_release",
    "leader_write_unconditional",
    "element_timeout_rounded_up",
)


def test_the_demanded_defects_are_among_the_mutations() -> None:
    assert set(DEMANDED) <= set(MUTATIONS)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_deliberate_defect_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation = MUTATIONS[name]
    mutation.apply(monkeypatch)
    find(name, mutation.invariants, mutation.knobs, mutation.seeds)
