"""A script that comes to a running node gets ``startup`` before anything else, and no script gets it twice."""

from __future__ import annotations

import asyncio
import contextlib

from locum.config.tunables import Tunables
from locum.events.engine import EventEngine
from locum.events.model import Event, EventResult
from locum.events.runner.results import Outcome
from tests.unit.bench import Bench, eventually, run_async

TRACE = 'echo "{name} $1" >>{place}/trace\n'


def script(bench: Bench, name: str, text: str = "") -> None:
    bench.shell(name, TRACE.format(name=name, place=bench.place) + "# startup\n" + text)


def trace(bench: Bench) -> list[str]:
    """What ran since the last call."""
    lines = bench.lines("trace")
    bench.file("trace").unlink(missing_ok=True)
    return lines


async def run(engine: EventEngine, event: Event) -> EventResult:
    return await engine.run(event)


def test_a_new_script_gets_startup_before_its_first_monitor_and_only_then(bench: Bench) -> None:
    script(bench, "10.a")
    script(bench, "30.c")

    async def go() -> None:
        async with bench.running() as engine:
            assert (await run(engine, Event.INIT)).ok
            assert (await run(engine, Event.STARTUP)).ok
            trace(bench)
            script(bench, "20.b")
            assert (await run(engine, Event.RECOVERED)).ok
            assert trace(bench) == ["10.a recovered", "30.c recovered"]
            assert engine.late == ("20.b",)
            assert (await run(engine, Event.MONITOR)).ok
            assert trace(bench) == ["10.a monitor", "20.b startup", "20.b monitor", "30.c monitor"]
            assert not engine.late
            assert (await run(engine, Event.MONITOR)).ok
            assert (await run(engine, Event.RECOVERED)).ok
            assert trace(bench)[3:] == ["10.a recovered", "20.b recovered", "30.c recovered"]
            assert {one.script: one.outcome for one in engine.status()[Event.STARTUP].scripts} == dict.fromkeys(
                ("10.a", "20.b", "30.c"), Outcome.OK
            )

    run_async(go())


def test_a_script_that_is_enabled_again_is_new_and_one_that_was_changed_is_not(bench: Bench) -> None:
    script(bench, "10.a")
    script(bench, "20.b")

    async def go() -> None:
        async with bench.running() as engine:
            await run(engine, Event.STARTUP)
            script(bench, "20.b", "exit 0\n")
            trace(bench)
            await run(engine, Event.MONITOR)
            assert trace(bench) == ["10.a monitor", "20.b monitor"]
            (bench.scripts / "20.b").chmod(0o644)
            await run(engine, Event.MONITOR)
            (bench.scripts / "20.b").chmod(0o755)
            trace(bench)
            await run(engine, Event.MONITOR)
            assert trace(bench) == ["10.a monitor", "20.b startup", "20.b monitor"]

    run_async(go())


def test_a_startup_that_fails_is_the_failure_of_the_monitor_and_is_tried_again(bench: Bench) -> None:
    script(bench, "10.a")

    async def go() -> None:
        async with bench.running() as engine:
            await run(engine, Event.STARTUP)
            script(bench, "20.b", f'[ "$1" != startup ] || [ -e {bench.place}/ready ] || {{ echo no port; exit 3; }}\n')
            result = await run(engine, Event.MONITOR)
            assert result.failure is not None
            assert (result.failure.script, result.failure.status) == ("20.b", 3)
            assert result.failure.output == "its startup failed: no port\n"
            trace(bench)
            await run(engine, Event.IPREALLOCATED)
            assert trace(bench) == ["10.a ipreallocated"]
            bench.file("ready").touch()
            assert (await run(engine, Event.MONITOR)).ok
            assert trace(bench) == ["10.a monitor", "20.b startup", "20.b monitor"]

    run_async(go())


def test_a_new_script_without_monitor_gets_its_startup_and_then_its_events(bench: Bench) -> None:
    script(bench, "10.a")

    async def go() -> None:
        async with bench.running() as engine:
            await run(engine, Event.STARTUP)
            note = f"    open('{bench.place}/trace', 'a').write('20.b {{}}\\n')\n"
            text = "".join(f"def {event}():\n{note.format(event)}" for event in ("startup", "recovered"))
            bench.python("20.b", text)
            trace(bench)
            await run(engine, Event.MONITOR)
            await run(engine, Event.RECOVERED)
            assert trace(bench) == ["10.a monitor", "20.b startup", "10.a recovered", "20.b recovered"]

    run_async(go())


def test_an_agent_that_restarts_starts_nothing_again_and_a_new_node_starts_everything(bench: Bench) -> None:
    script(bench, "10.a")

    async def node(*events: Event) -> list[str]:
        trace(bench)
        async with bench.running() as engine:
            for event in events:
                assert (await run(engine, event)).ok
        return trace(bench)

    run_async(node(Event.INIT, Event.STARTUP))
    script(bench, "20.b")
    assert run_async(node(Event.MONITOR)) == ["10.a monitor", "20.b startup", "20.b monitor"]
    assert run_async(node(Event.MONITOR)) == ["10.a monitor", "20.b monitor"]
    assert run_async(node(Event.INIT, Event.STARTUP, Event.MONITOR)) == [
        f"{name} {event}" for event in ("init", "startup", "monitor") for name in ("10.a", "20.b")
    ]


def test_before_the_node_has_started_no_script_is_late(bench: Bench) -> None:
    script(bench, "10.a", '[ "$1" != startup ]\n')

    async def go() -> None:
        async with bench.running() as engine:
            assert not (await run(engine, Event.STARTUP)).ok
            script(bench, "20.b")
            trace(bench)
            await run(engine, Event.MONITOR)
            assert trace(bench) == ["10.a monitor", "20.b monitor"]

    run_async(go())


def test_a_late_startup_has_its_own_limit_and_can_be_cancelled(bench: Bench) -> None:
    script(bench, "10.a")

    async def go() -> None:
        async with bench.running() as engine:
            await run(engine, Event.STARTUP)
            script(bench, "20.b", 'case "$1" in startup) sleep 1000 ;; esac\n')
            bench.tunables = Tunables(monitor_timeout=60, event_timeout=0.5)
            result = await run(engine, Event.MONITOR)
            assert result.failure is not None
            assert result.failure.outcome is Outcome.TIMEOUT
            assert result.failure.reason == "its startup failed: did not end within 0.5 s"
            bench.tunables = Tunables(monitor_timeout=60, event_timeout=60)
            trace(bench)
            event = asyncio.ensure_future(run(engine, Event.MONITOR))
            await eventually(lambda: "20.b startup" in bench.lines("trace"))
            event.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await event
            assert engine.late == ("20.b",)

    run_async(go())


def test_a_node_that_starts_again_takes_no_script_for_started(bench: Bench) -> None:
    script(bench, "10.a")

    async def go() -> None:
        async with bench.running() as engine:
            await run(engine, Event.STARTUP)
        async with bench.running() as engine:
            script(bench, "20.b")
            await engine.handled()
            assert engine.late == ("20.b",)
            await run(engine, Event.INIT)
            assert not engine.late
            assert (await run(engine, Event.STARTUP)).ok
            assert trace(bench)[-2:] == ["10.a startup", "20.b startup"]

    run_async(go())
