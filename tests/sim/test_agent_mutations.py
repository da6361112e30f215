"""Every deliberate defect in the agent's procedures is found, by the playbooks or by the simulation."""

from __future__ import annotations

import pytest

from tests.sim.agent_mutations import AGENT_MUTATIONS, IN_SIMULATION
from tests.sim.finding import find
from tests.unit.node.playbooks import SCENES, play, written

#: The defects that must be among them, whatever else is.
DEMANDED = (
    "armed_after_the_answer",
    "confirmed_before_the_answer",
    "release_without_muting",
    "drop_without_emptying",
    "failed_take_stays_allowed",
)


def test_the_demanded_defects_are_among_the_mutations() -> None:
    assert set(DEMANDED) <= set(AGENT_MUTATIONS)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in AGENT_MUTATIONS if name not in IN_SIMULATION])
def test_a_deliberate_defect_is_found_by_a_playbook(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = written()
    AGENT_MUTATIONS[name](monkeypatch)
    found = [title for title, scene in SCENES.items() if play(scene) != expected[title]]
    assert found
    print(f"{name}: {found}")


@pytest.mark.parametrize("name", IN_SIMULATION)
def test_a_deliberate_defect_is_found_by_the_simulation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    invariants, knobs, seeds = IN_SIMULATION[name]
    AGENT_MUTATIONS[name](monkeypatch)
    find(name, invariants, knobs, seeds)
