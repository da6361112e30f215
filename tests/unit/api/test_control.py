"""The control socket against clients that misbehave, with an agent that is not there."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import cast

import pytest

from locum.api.control import ControlServer
from locum.api.model import DaemonState, LoopReport, ScriptsReport, StatusReport
from locum.api.reload import Reloader
from locum.config.model import PathSettings
from locum.events.engine import EventEngine
from locum.json_lines_async import HIGH_WATER
from locum.node.driver import Driver
from tests.unit.store.harness import asynchronous

#: Length of what each line of ``watch`` says.
BULK = 200_000


class RestlessDriver:
    """Something changes all the time."""

    async def wait_for_change(self, limit: float) -> bool:
        return True


async def _no_gate() -> None:
    return None


class Control(ControlServer):
    """Reports of a cluster that always changes; counts them."""

    def __init__(self) -> None:
        parts = cast(Driver, RestlessDriver()), cast(EventEngine, None), cast(Reloader, None)
        super().__init__(*parts, gate=_no_gate, leaving=lambda: None, loop=LoopReport, tell=lambda _: None)
        self.reports = itertools.count()
        self.made = 0
        self.old: tuple[str, ...] = ()

    def _old(self) -> tuple[tuple[str, ...], float | None]:
        return self.old, 12.5 if self.old else None

    def _state(self) -> DaemonState:
        return DaemonState()

    def _scripts(self) -> ScriptsReport:
        return ScriptsReport("/events")

    def _report(self, state: DaemonState) -> StatusReport:
        self.made = next(self.reports)
        cause = f"{self.made} ".ljust(BULK, "x")
        return StatusReport("n1", None, self.made, cause, "settled", (), (), (), ())


async def start(tmp_path: Path) -> tuple[Control, str]:
    """A server, and where it listens."""
    control = Control()
    path = str(tmp_path / "control.sock")
    await control.start(PathSettings(runtime=str(tmp_path), control=path))
    return control, path


@asynchronous
async def test_who_watches_and_does_not_read_costs_a_bounded_amount_and_then_sees_the_present(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("locum.api.control.WATCH_PAUSE", 0.001)
    control, path = await start(tmp_path)
    reader, writer = await asyncio.open_unix_connection(path, limit=64)
    writer.write(b'{"op":"watch"}\n')
    assert control._server is not None
    before = -1
    while before != control.made or control.made == 0:
        before = control.made
        await asyncio.sleep(0.2)
    (connection,) = control._server.connections
    assert connection.unsent() <= HIGH_WATER + 2 * BULK
    kept = control.made
    # The others are served meanwhile.
    other, other_writer = await asyncio.open_unix_connection(path, limit=10 * BULK)
    other_writer.write(b'{"op":"status"}\n')
    assert json.loads(await other.readline())["ok"]
    assert control.made == kept + 1
    # What it missed is left out, the present is not.
    data = b""
    while b'"epoch":%d,' % (kept + 5) not in data:
        data += await reader.read(1 << 20)
    writer.close()
    other_writer.close()
    await control.close()


@asynchronous
async def test_a_defect_in_an_operation_is_an_answer_and_not_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    control, path = await start(tmp_path)

    async def defective(_: object) -> object:
        raise KeyError("oops")

    control.add({"defective": defective})
    reader, writer = await asyncio.open_unix_connection(path, limit=10 * BULK)
    for _ in range(2):
        writer.write(b'{"op":"defective"}\n')
        answer = json.loads(await reader.readline())
        assert answer == {
            "ok": False,
            "kind": "error",
            "error": "unexpected KeyError: 'oops'; the daemon's log says more",
        }
    assert "oops" in capsys.readouterr().err
    writer.write(b'{"op":"status"}\n')
    assert json.loads(await reader.readline())["ok"]
    writer.close()
    await control.close()


@asynchronous
async def test_every_answer_from_old_knowledge_says_so(tmp_path: Path) -> None:
    """Also those of operations that parts of their own bring; only what concerns this node alone is never old."""
    control, path = await start(tmp_path)

    async def anything(_: object) -> object:
        return {}

    control.add({"new-operation": anything, "event-status": anything})
    reader, writer = await asyncio.open_unix_connection(path, limit=10 * BULK)

    async def ask(operation: str) -> dict[str, object]:
        writer.write(json.dumps({"op": operation}).encode() + b"\n")
        answer = json.loads(await reader.readline())
        return {name: value for name, value in answer.items() if name != "result"}

    assert await ask("new-operation") == {"ok": True}
    control.old = ("the store does not answer",)
    for operation in ("new-operation", "status"):
        assert await ask(operation) == {"ok": True, "old": ["the store does not answer"], "age": 12.5}
    assert await ask("event-status") == {"ok": True}
    writer.close()
    await control.close()


@asynchronous
async def test_more_requests_at_once_than_anybody_needs_end_the_connection(tmp_path: Path) -> None:
    control, path = await start(tmp_path)
    reader, writer = await asyncio.open_unix_connection(path, limit=10 * BULK)
    writer.write(b'{"op":"watch"}\n' * 1000)
    data = await reader.read()
    assert b"too many requests at once" in data
    writer.close()
    await control.close()
