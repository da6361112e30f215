"""The engine with real runners and scripts: order, no overlap, results, environment, cancellation."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from locum.errors import HoldEnded, LocumError, ScriptDirectoryError, UsageError
from locum.events.engine import EventEngine
from locum.events.model import Event, EventResult, EventStatus
from locum.events.runner.results import Outcome
from locum.events.runner_client import RunnerClient
from tests.unit.bench import Bench, alive, carrying, eventually, run_async, until


def outcomes(result: EventResult) -> dict[str, str]:
    return {one.script: one.outcome.value for one in result.scripts}


def test_i4_scripts_run_in_ascending_order(bench: Bench) -> None:
    order = bench.file("order")
    for name in ("70.c", "10.a", "40.b"):
        bench.shell(name, f'echo "{name} $1" >>{order}\n')
    bench.python("55.p", f"def monitor():\n    open({str(order)!r}, 'a').write('55.p monitor\\n')\n")
    assert bench.run(Event.MONITOR).ok
    assert bench.lines("order") == ["10.a monitor", "40.b monitor", "55.p monitor", "70.c monitor"]


def test_i4_the_first_failure_ends_the_event(bench: Bench) -> None:
    order = bench.file("order")
    bench.shell("10.a", f"echo a >>{order}\n")
    bench.shell("20.b", f"echo b >>{order}; echo broken; exit 3\n")
    bench.shell("30.c", f"echo c >>{order}\n")
    result = bench.run(Event.MONITOR)
    assert bench.lines("order") == ["a", "b"]
    assert outcomes(result) == {"10.a": "ok", "20.b": "failed"}
    assert result.failure is not None
    assert (result.failure.status, result.failure.output) == (3, "broken\n")


def test_i5_events_asked_for_at_once_run_one_after_the_other_in_that_order(bench: Bench) -> None:
    trace = bench.file("trace")
    for name in ("10.a", "20.b"):
        bench.shell(name, f'echo "+ $1" >>{trace}; sleep 0.02; echo "- $1" >>{trace}\n')
    events = [Event.MONITOR, Event.RECOVERED, Event.STARTUP, Event.MONITOR]

    async def go() -> None:
        async with bench.running() as engine:
            await asyncio.gather(*(engine.run(event) for event in events))

    run_async(go())
    expected = [f"{sign} {event}" for event in events for _ in range(2) for sign in "+-"]
    assert bench.lines("trace") == expected


def test_disabled_and_unhandled_scripts_are_listed_and_not_started(bench: Bench) -> None:
    bench.script("10.off", "#!/bin/sh\nexit 1\n", mode=0o644)
    bench.python("20.other", "raise SystemExit(9)\ndef startup(): pass\n")
    bench.shell("30.on", "exit 0\n")
    result = bench.run(Event.MONITOR)
    assert outcomes(result) == {"10.off": "disabled", "20.other": "not-handled", "30.on": "ok"}
    assert result.ok


def test_an_event_that_nobody_handles_starts_nothing(bench: Bench) -> None:
    bench.python("20.other", "def startup(): pass\n")

    async def go() -> EventResult:
        engine = bench.engine()  # not started: there is no runner that could run anything
        return await engine.run(Event.MONITOR)

    result = run_async(go())
    assert result.ok
    assert outcomes(result) == {"20.other": "not-handled"}


def test_an_event_that_waits_for_its_turn_gets_what_holds_when_it_starts(bench: Bench) -> None:
    go_on, began = bench.file("go-on"), bench.file("began")
    waits = f"touch {began}; while [ ! -e {go_on} ]; do sleep 0.01; done"
    bench.shell("10.a", f'if [ "$1" = monitor ]; then {waits}; else echo $LOCUM_DEADLINE; fi\n')
    deadline = 1

    async def go() -> EventResult:
        nonlocal deadline
        async with bench.running() as engine:
            first = asyncio.create_task(engine.run(Event.MONITOR))
            await eventually(began.exists)
            arguments = ("eth0", "10.0.0.1", "24")
            second = asyncio.create_task(
                engine.run(Event.TAKEIP, arguments, environment=lambda: {"LOCUM_DEADLINE": str(deadline)})
            )
            await asyncio.sleep(0.1)
            deadline = 2
            go_on.touch()
            await first
            return await second

    (result,) = run_async(go()).scripts
    assert result.output.strip() == "2"


def test_i2_what_only_a_holder_may_run_is_asked_after_the_wait_for_a_runner(bench: Bench) -> None:
    """The runner has died, and the hold ends before the next one is ready."""
    bench.shell("10.a", f"touch {bench.file('ran')}\n")
    holds = True

    def asked() -> dict[str, str]:
        if not holds:
            raise HoldEnded
        return {}

    async def go() -> None:
        async with bench.running() as engine:
            ready = engine._ready_link

            async def late() -> RunnerClient | str:
                nonlocal holds
                holds = False
                return await ready()

            engine._ready_link = late  # type: ignore[method-assign]
            with pytest.raises(HoldEnded):
                await engine.run(Event.TAKEIP, ("eth0", "10.0.0.1", "24"), environment=asked)

    run_async(go())
    assert not bench.file("ran").exists()


def test_arguments_environment_and_state(bench: Bench) -> None:
    report = (
        "import json, os, sys\n"
        "def takeip(*arguments):\n"
        "    state_exists = os.path.isdir(os.environ['LOCUM_SCRIPT_STATE'])\n"
        "    print(json.dumps([arguments, sys.argv, dict(os.environ), os.getcwd(), state_exists]))\n"
    )
    path = bench.python("50.web.script", report)
    table = {"port": 80, "hosts": ["a", "b c"], "start-timeout": 1.5, "tls": True, "name": "ü"}

    async def go() -> EventResult:
        async with bench.running({"50.web": table}) as engine:
            return await engine.run(
                Event.TAKEIP, ("eth0", "10.0.0.1", "24"), environment=lambda: {"LOCUM_LIFETIME": "3"}
            )

    os.environ["NOT_FOR_SCRIPTS"] = "secret"
    (result,) = run_async(go()).scripts
    arguments, argv, environment, directory, state_exists = json.loads(result.output)
    assert arguments == ["eth0", "10.0.0.1", "24"]
    assert argv == [str(path), "takeip", "eth0", "10.0.0.1", "24"]
    assert directory == "/"
    assert state_exists
    expected = {
        "LOCUM_NODE": "n1",
        "LOCUM_EVENT": "takeip",
        "LOCUM_SCRIPT": "50.web",
        "LOCUM_LIFETIME": "3",
        "LOCUM_RUNTIME": str(bench.runtime),
        "LOCUM_STATE": str(bench.state),
        "LOCUM_SCRIPT_STATE": str(bench.state / "scripts" / "50.web"),
        "LOCUM_SETTING_PORT": "80",
        "LOCUM_SETTING_HOSTS": "a b c",
        "LOCUM_SETTING_START_TIMEOUT": "1.5",
        "LOCUM_SETTING_TLS": "true",
        "LOCUM_SETTING_NAME": "ü",
    }
    assert {key: environment[key] for key in expected} == expected
    assert json.loads(environment["LOCUM_SETTINGS"]) == table
    assert Path(environment["LOCUM_FUNCTIONS"]).is_file()
    assert environment["PATH"].startswith("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    assert "NOT_FOR_SCRIPTS" not in environment
    assert "LOCUM_RUNNER_PATH" not in environment


def test_shell_scripts_get_the_same(bench: Bench) -> None:
    bench.shell(
        "50.web", 'echo "$* $LOCUM_EVENT $LOCUM_SCRIPT $LOCUM_SETTING_PORT $(pwd) $(umask)"; cat; ls /proc/$$/fd\n'
    )
    (result,) = bench.run(Event.TAKEIP, "eth0", "::1", "64", settings={"50.web": {"port": 80}}).scripts
    first, *descriptors = result.output.splitlines()
    assert first == "takeip eth0 ::1 64 takeip 50.web 80 / 0022"
    # dash keeps the script itself open as 10; nothing of the runner's is left.
    assert [descriptor for descriptor in descriptors if descriptor not in ("0", "1", "2", "10", "255")] == []


def test_settings_and_environment_can_be_changed(bench: Bench) -> None:
    bench.shell("50.web", 'echo "$LOCUM_SETTING_PORT $LOCUM_NODE"\n')

    async def go() -> list[str]:
        async with bench.running({"50.web": {"port": 1}}) as engine:
            first = await engine.run(Event.MONITOR)
            engine.configure({"50.web": {"port": 2}}, {"LOCUM_NODE": "n2"})
            second = await engine.run(Event.MONITOR)
            return [result.scripts[0].output.strip() for result in (first, second)]

    assert run_async(go()) == ["1 n1", "2 n2"]


def test_arguments_that_are_not_the_events_are_refused(bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")

    async def go() -> None:
        async with bench.running() as engine:
            with pytest.raises(UsageError, match="takeip takes INTERFACE ADDRESS MASKBITS; 1 given"):
                await engine.run(Event.TAKEIP, ("eth0",))
            with pytest.raises(UsageError, match="monitor takes no arguments; 1 given"):
                await engine.run(Event.MONITOR, ("x",))

    run_async(go())


def test_the_directory_is_read_again_at_every_event(bench: Bench) -> None:
    path = bench.shell("10.a", "echo one\n")

    async def go() -> list[dict[str, str]]:
        results = []
        async with bench.running() as engine:
            results.append(await engine.run(Event.MONITOR))
            bench.shell("10.a", "echo two\n")
            bench.shell("20.b", "exit 0\n")
            results.append(await engine.run(Event.MONITOR))
            path.chmod(0o644)
            results.append(await engine.run(Event.MONITOR))
            assert Event.MONITOR in await engine.handled()
            (bench.scripts / "20.b").unlink()
            assert Event.MONITOR not in await engine.handled()
        assert [result.scripts[0].output for result in results] == ["one\n", "two\n", ""]
        return [outcomes(result) for result in results]

    assert run_async(go()) == [
        {"10.a": "ok"},
        {"10.a": "ok", "20.b": "ok"},
        {"10.a": "disabled", "20.b": "ok"},
    ]


def test_a_bad_directory_does_not_start(bench: Bench) -> None:
    async def go() -> None:
        with pytest.raises(ScriptDirectoryError, match="holds no event script"):
            await bench.engine().start()

    run_async(go())


def test_what_is_handled(bench: Bench) -> None:
    bench.python("10.a", "def monitor(): pass\ndef recovered(): pass\n")
    bench.script("20.b", "#!/bin/sh\n# startup\n", mode=0o644)
    bench.shell("30.c", "case $1 in shutdown) ;; esac\n")
    handled = run_async(bench.engine().handled())
    assert handled == (Event.SHUTDOWN, Event.MONITOR, Event.RECOVERED)
    assert Event.STARTUP not in handled


def test_cancelling_kills_the_script_and_everything_in_its_session(bench: Bench) -> None:
    pids = bench.file("pids")
    bench.shell(
        "10.a",
        f"trap '' TERM; sleep 1000 & (trap '' TERM; sleep 1000) & echo $$ $! >{pids}.new; mv {pids}.new {pids}; wait\n",
    )
    bench.shell("20.b", f"echo never >>{bench.file('never')}\n")
    bench.shell("05.free", "exit 0\n")

    async def go() -> EventEngine:
        async with bench.running() as engine:
            task = asyncio.ensure_future(engine.run(Event.MONITOR))
            await eventually(pids.exists)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # No waiting here: the cancelled call returned only when all of it was dead.
            assert not any(alive(int(pid)) for pid in pids.read_text().split())
            status = engine.status()[Event.MONITOR]
            assert [one.outcome for one in status.scripts] == [Outcome.OK, Outcome.CANCELLED]
            assert status.last.failure is not None
            return engine

    run_async(go())
    assert not bench.file("never").exists()


def test_i5_an_event_waits_for_the_script_of_a_cancelled_one(bench: Bench) -> None:
    trace = bench.file("trace")
    bench.shell("10.a", f'echo "$1" >>{trace}; [ "$1" != monitor ] || exec sleep 1000\n')

    async def go() -> EventResult:
        async with bench.running() as engine:
            monitor = asyncio.ensure_future(engine.run(Event.MONITOR))
            await eventually(lambda: bench.lines("trace"))
            recovered = asyncio.ensure_future(engine.run(Event.RECOVERED))
            await asyncio.sleep(0)
            monitor.cancel()
            result = await recovered
            assert monitor.cancelled()
            (cancelled,) = engine.status()[Event.MONITOR].scripts
            assert cancelled.outcome is Outcome.CANCELLED
            return result

    assert run_async(go()).ok
    assert bench.lines("trace") == ["monitor", "recovered"]


def test_cancelling_one_that_waits_for_its_turn_leaves_the_others_alone(bench: Bench) -> None:
    gate = bench.file("gate")
    bench.shell("10.a", f"echo $1 >>{bench.file('trace')}; while [ ! -e {gate} ]; do sleep 0.01; done\n")

    async def go() -> None:
        async with bench.running() as engine:
            first = asyncio.ensure_future(engine.run(Event.MONITOR))
            second = asyncio.ensure_future(engine.run(Event.RECOVERED))
            third = asyncio.ensure_future(engine.run(Event.STARTUP))
            await eventually(lambda: bench.lines("trace"))
            second.cancel()
            gate.touch()
            assert (await first).ok
            assert (await third).ok
            assert second.cancelled()

    run_async(go())
    assert bench.lines("trace") == ["monitor", "startup"]


def test_stopping_ends_the_run_under_way_as_cancelled(bench: Bench) -> None:
    bench.shell("10.a", f"echo $$ >{bench.file('pid')}; exec sleep 1000\n")

    async def go() -> EventResult:
        engine = bench.engine()
        await engine.start()
        task = asyncio.ensure_future(engine.run(Event.STARTUP))
        await eventually(lambda: bench.lines("pid"))
        runner = engine.runner_pid
        await engine.stop()
        assert not alive(runner)
        return await task

    result = run_async(go())
    assert result.scripts[0].outcome is Outcome.CANCELLED
    assert not alive(int(bench.lines("pid")[0]))


def test_a_runner_that_worked_is_replaced_at_once_when_it_dies(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only runners that die one after the other are started after growing pauses."""
    monkeypatch.setattr("locum.events.engine._RESTART_PAUSES", (0.0, 3600.0))
    bench.shell("10.a", "exit 0\n")

    async def works_and_dies(engine: EventEngine) -> None:
        assert (await engine.run(Event.MONITOR)).ok
        runner = engine.runner_pid
        os.kill(runner, signal.SIGKILL)
        await eventually(lambda: engine.runner_pid not in (0, runner))

    async def go() -> None:
        async with bench.running() as engine:
            for _ in range(3):
                await works_and_dies(engine)

    run_async(go())


def test_results_survive_the_daemon(bench: Bench) -> None:
    bench.shell("10.a", 'echo "$1"\n')
    bench.shell("20.b", '[ "$1" != monitor ]\n')
    bench.run(Event.STARTUP)
    failed = bench.run(Event.MONITOR)
    bench.shell("05.new", '[ "$1" != monitor ]\n')
    bench.run(Event.MONITOR)

    async def read() -> dict[Event, EventStatus]:
        async with bench.running() as engine:
            return engine.status()

    status = run_async(read())
    assert status[Event.STARTUP].last.ok
    monitor = status[Event.MONITOR]
    assert outcomes(monitor.last) == {"05.new": "failed"}
    # Those that did not run because of the failure keep what they had.
    assert [(one.script, one.outcome.value) for one in monitor.scripts] == [
        ("05.new", "failed"),
        ("10.a", "ok"),
        ("20.b", "failed"),
    ]
    assert monitor.scripts[1] == failed.scripts[0]


def test_a_damaged_status_file_is_ignored(bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")
    bench.run(Event.MONITOR)
    (bench.runtime / "events" / "status" / "monitor.json").write_text('{"event": 7')

    async def read() -> dict[Event, EventStatus]:
        async with bench.running() as engine:
            return engine.status()

    assert run_async(read()) == {}


def test_result_times(bench: Bench) -> None:
    bench.shell("10.a", "sleep 0.2\n")
    before = time.time()
    result = bench.run(Event.MONITOR)
    (one,) = result.scripts
    assert before <= result.started <= one.started <= time.time()
    assert 0.2 <= one.seconds <= result.seconds


def test_a_directory_that_cannot_be_written_is_one_clear_message(bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")
    bench.runtime.write_text("a file")

    async def go() -> None:
        with pytest.raises(LocumError, match=r"runtime/listen: cannot be created: Not a directory"):
            await bench.engine().start()

    run_async(go())


def test_two_daemons_do_not_share_a_runtime_directory(bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")

    async def go() -> None:
        async with bench.running() as engine:
            with pytest.raises(LocumError, match=f"in use by process {os.getpid()}, which runs event scripts"):
                await bench.engine().start()
            assert (await engine.run(Event.MONITOR)).ok

    run_async(go())


def resident(pid: int) -> int:
    """Resident memory in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_the_runner_is_small(bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")

    async def go() -> int:
        async with bench.running() as engine:
            await engine.run(Event.MONITOR)  # by then it has imported everything
            return resident(engine.runner_pid)

    assert run_async(go()) < 24 * 1024


def test_no_process_is_left_when_the_engine_has_stopped(bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")
    bench.run(Event.MONITOR)
    until(lambda: not carrying(str(bench.runtime)))
