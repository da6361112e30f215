"""Every deliberate defect in the guard's procedures is found, by the playbooks and partly also in the simulation."""

from __future__ import annotations

import pytest

from tests.sim.finding import find
from tests.sim.guard_mutations import GUARD_MUTATIONS, IN_SIMULATION
from tests.unit.node.guard.playbooks import SCENES, play, written

#: The defects that must be among them, whatever else is.
DEMANDED = (
    "deadline_judged_late",
    "silence_without_the_gate",
    "restarted_before_its_end",
    "no_clean_slate",
    "dropped_hold_is_none",
    "hung_is_alive",
    "failure_is_final",
    "end_without_silence",
)


def test_the_demanded_defects_are_among_the_mutations() -> None:
    assert set(DEMANDED) <= set(GUARD_MUTATIONS)
    assert set(IN_SIMULATION) <= set(GUARD_MUTATIONS)


@pytest.mark.parametrize("name", GUARD_MUTATIONS)
def test_a_deliberate_defect_is_found_by_a_playbook(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = written()
    GUARD_MUTATIONS[name](monkeypatch)
    found = [title for title, scene in SCENES.items() if play(scene) != expected[title]]
    assert found
    print(f"{name}: {found}")


@pytest.mark.parametrize("name", IN_SIMULATION)
def test_a_deliberate_defect_is_found_by_the_simulation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    invariants, knobs, seeds = IN_SIMULATION[name]
    GUARD_MUTATIONS[name](monkeypatch)
    find(name, invariants, knobs, seeds)
