"""The guard's procedures, call by call: ``playbooks.txt`` reads like their specification."""

from __future__ import annotations

import pytest

from tests.unit.node.guard.playbooks import SCENES, play, written


def test_every_scene_is_written_down() -> None:
    assert list(written()) == list(SCENES)


@pytest.mark.parametrize("title", SCENES)
def test_the_procedure_asks_for_these_calls_in_this_order(title: str) -> None:
    assert play(SCENES[title]) == written()[title]
