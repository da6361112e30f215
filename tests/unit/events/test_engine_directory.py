"""A script directory on a file system that hangs: whoever looks at it waits; the event loop does not."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any

import pytest

from locum.errors import ScriptDirectoryError
from locum.events import engine as engine_module
from locum.events.directory import ScriptDirectory
from locum.events.model import Event
from locum.threads import NoAnswer
from tests.unit.bench import Bench, run_async

LONG = 30.0


class Hang:
    """From :meth:`begin` to :meth:`end` every look at any script directory stands in the kernel, as it seems."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._free = threading.Event()
        self._free.set()
        self.looks = 0
        survey = ScriptDirectory.survey

        def hanging(directory: ScriptDirectory, *arguments: Any) -> Any:
            self.looks += 1
            assert self._free.wait(4 * LONG)
            return survey(directory, *arguments)

        monkeypatch.setattr(ScriptDirectory, "survey", hanging)

    def begin(self) -> None:
        self._free.clear()

    def end(self) -> None:
        self._free.set()


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Hang:
    monkeypatch.setattr(engine_module, "LOOK_LIMIT", 0.3)
    return Hang(monkeypatch)


async def longest_pause(until: asyncio.Future[Any]) -> float:
    """The longest time between two turns of the event loop until something is done."""
    worst, last = 0.0, time.monotonic()
    while not until.done():
        await asyncio.sleep(0.01)
        worst, last = max(worst, time.monotonic() - last), time.monotonic()
    return worst


def test_events_go_on_with_the_scripts_as_they_were_and_the_loop_turns(bench: Bench, hang: Hang) -> None:
    bench.shell("10.a", "echo one\n")

    async def go() -> None:
        async with bench.running() as engine:
            assert (await engine.run(Event.MONITOR)).ok
            hang.begin()
            looks = hang.looks
            runs = asyncio.ensure_future(several(engine))
            worst = await longest_pause(runs)
            results = runs.result()
            assert all(result.ok for result in results), results
            assert [result.scripts[0].output for result in results] == ["one\n"] * 3
            assert worst < LONG / 2
            assert "hangs" in engine.directory_problem
            # One look hangs; no other joins it, and no event waits for it a second time.
            assert hang.looks == looks + 1
            hang.end()
            end = time.monotonic() + LONG
            while engine.directory_problem and time.monotonic() < end:
                await engine.handled()
                await asyncio.sleep(0.01)
            assert engine.directory_problem == ""
            assert any("is good again" in text for _, text in bench.said)

    async def several(engine: engine_module.EventEngine) -> list[Any]:
        return [await engine.run(Event.MONITOR) for _ in range(3)]

    run_async(go())


def test_the_abilities_of_scripts_stay_as_they_were(bench: Bench, hang: Hang) -> None:
    bench.python("10.a", "def monitor(): pass\n")

    async def go() -> None:
        async with bench.running() as engine:
            before = await engine.handled()
            hang.begin()
            assert await engine.handled() == before
            hang.end()

    run_async(go())


def test_a_daemon_that_starts_says_what_it_waits_for(bench: Bench, hang: Hang, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.shell("10.a", "exit 0\n")
    monkeypatch.setattr(engine_module, "START_LIMIT", 0.3)

    async def go() -> None:
        hang.begin()
        with pytest.raises(ScriptDirectoryError, match="does not answer: its file system hangs"):
            await bench.engine().start()
        hang.end()

    run_async(go())


def test_the_engine_stops_while_a_look_hangs(bench: Bench, hang: Hang) -> None:
    bench.shell("10.a", "exit 0\n")

    async def go() -> None:
        async with bench.running() as engine:
            hang.begin()
            await engine.handled()
        hang.end()

    begin = time.monotonic()
    run_async(go())
    assert time.monotonic() - begin < LONG
    assert os.path.exists(bench.scripts)


def test_a_look_that_no_thread_can_make_counts_as_one_without_an_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.shell("10.first", "exit 0\n")

    async def go() -> None:
        async with bench.running() as engine:
            assert Event.MONITOR in await engine.handled()

            async def none_left(*_: object) -> None:
                raise NoAnswer("reading the script directory: not begun: can't start new thread")

            monkeypatch.setattr(engine._looker, "run", none_left)
            assert Event.MONITOR in await engine.handled()
            assert "can't start new thread" in engine.directory_problem
            monkeypatch.undo()
            await engine.handled()
            assert engine.directory_problem == ""

    asyncio.run(go())
