"""A port on which nobody listens any longer is news, unless its service was stopped on purpose."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec
import pytest

from locum.events.model import Event
from locum.node.port_watch import PortWatch, Situation


class Scene:
    """A directory of declarations, a situation, and what is told."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.now = Situation(enabled=frozenset({"50.web", "60.other"}))
        self.watched: set[int] = set()
        self.told: list[int] = []
        self.listening: set[int] = set()
        self.ports = PortWatch(
            str(place),
            situation=lambda: self.now,
            watch=self._watch,
            look=self._look,
            closed=self.told.append,
        )

    def _watch(self, ports: object) -> None:
        assert isinstance(ports, frozenset)
        self.watched = set(ports)

    def _look(self, ports: Collection[int]) -> None:
        for port in sorted(set(ports) - self.listening):
            self.ports.gone(port)

    def read(self) -> None:
        self.ports.load()
        self.ports.read()

    def gone(self, port: int) -> None:
        self.ports.load()
        self.ports.gone(port)

    def event_ended(self) -> None:
        self.ports.load()
        self.ports.event_ended()

    def declare(self, script: str, text: str) -> None:
        (self.place / script).write_text(text)

    def become(self, **changes: object) -> None:
        self.now = msgspec.structs.replace(self.now, **changes)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    made = Scene(tmp_path)
    made.declare("50.web", "80\n443\n")
    made.read()
    assert made.watched == {80, 443}
    return made


@pytest.mark.parametrize("running", [None, Event.MONITOR])
def test_a_service_that_dies_is_news(scene: Scene, running: Event | None) -> None:
    scene.become(running=running)
    scene.gone(80)
    assert scene.told == [80]


@pytest.mark.parametrize("change", [{"leaving": True}, {"running": Event.SHUTDOWN}])
def test_a_node_that_leaves_stops_its_services_in_silence(scene: Scene, change: dict[str, object]) -> None:
    scene.become(**change)
    scene.gone(80)
    scene.event_ended()
    assert scene.told == []


@pytest.mark.parametrize("running", [None, Event.MONITOR, Event.RELEASEIP, Event.RECOVERED])
def test_a_port_that_was_withdrawn_while_the_event_runs_is_no_news(scene: Scene, running: Event | None) -> None:
    scene.become(running=running)
    scene.declare("50.web", "443\n")
    scene.gone(80)
    scene.become(running=None)
    scene.event_ended()
    assert scene.told == []
    assert scene.watched == {443}


@pytest.mark.parametrize("running", [Event.RELEASEIP, Event.RECOVERED, Event.STARTUP])
@pytest.mark.parametrize("back", [True, False])
def test_a_service_that_an_event_stops_is_judged_when_the_event_has_ended(
    scene: Scene, running: Event, back: bool
) -> None:
    scene.become(running=running)
    scene.gone(80)
    assert scene.told == []
    scene.listening = {80} if back else set()
    scene.become(running=None)
    scene.event_ended()
    assert scene.told == ([] if back else [80])
    scene.event_ended()
    assert scene.told == ([] if back else [80])


def test_the_ports_of_a_script_that_was_disabled_or_removed_are_no_news(scene: Scene) -> None:
    scene.declare("60.other", "22\n")
    scene.read()
    scene.become(enabled=frozenset({"60.other"}))
    scene.gone(80)
    assert scene.told == []
    assert scene.watched == {22}
    scene.gone(22)
    assert scene.told == [22]


def test_before_the_scripts_are_known_every_declaration_counts(scene: Scene) -> None:
    scene.become(enabled=None)
    scene.gone(80)
    assert scene.told == [80]
