"""A fake daemon for the commands to talk to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from locum.api.answers import success
from locum.api.model import AdminResult, DaemonState
from locum.api.status_report import status_report, tunable_reports
from locum.cli.main import main
from locum.config.tunables import Tunables
from locum.rules.view import View
from tests.unit.api.fake_daemon import FakeDaemon, fake_daemon
from tests.unit.api.views import WALL, cluster


def as_json(value: object) -> Any:
    """``value`` as it arrives at the other side."""
    return json.loads(msgspec.json.encode(value))


def status_of(view: View) -> Any:
    """The status of ``view`` as n2's daemon tells it."""
    daemon = DaemonState(hold_left=1.5, hold=2.0, store="memory:", stage="member")
    return as_json(status_report(view, "n2", WALL, Tunables(), daemon))


class Scene:
    """What the fake daemon answers; tests change it before they run a command."""

    def __init__(self) -> None:
        self.view = cluster()
        #: Why what the daemon knows may be over.
        self.old: list[str] = []
        self.admin: Any = as_json(AdminResult("done so"))
        self.answers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "status": lambda _: self.known({**status_of(self.view), **self.marks()}),
            "tunables": lambda _: self.known(as_json(tunable_reports(self.view, Tunables()))),
            "connections-list": lambda _: self.known([]),
            "admin": lambda _: success(self.admin),
        }

    def known(self, result: Any) -> Any:
        """An answer from what the daemon knows of the cluster."""
        return success(result, self.old, 12.5 if self.old else None)

    def marks(self) -> dict[str, Any]:
        """How a status shows that it is old."""
        return {"stale": True, "age": 12.5, "warnings": self.old} if self.old else {}

    def answer(self, request: dict[str, Any]) -> Any:
        return self.answers[request["op"]](request)


class Command:
    """Runs ``locum`` in this process against the fake daemon."""

    def __init__(self, daemon: FakeDaemon, scene: Scene, capture: pytest.CaptureFixture[str]) -> None:
        self.daemon = daemon
        self.scene = scene
        self.err = ""
        self._capture = capture

    def __call__(self, *arguments: str, status: int = 0) -> str:
        self._capture.readouterr()
        found = main(arguments)
        out, self.err = self._capture.readouterr()
        assert found == status, self.err
        assert "Traceback" not in self.err
        return out

    @property
    def request(self) -> dict[str, Any]:
        """The last request that the daemon got."""
        return self.daemon.requests[-1]


@pytest.fixture
def locum(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    scene = Scene()
    with fake_daemon(tmp_path / "control.sock", scene.answer) as daemon:
        monkeypatch.setenv("LOCUM_SOCKET", daemon.path)
        yield Command(daemon, scene, capsys)
