"""Whatever dies, and however: no script runs twice (I5), services live on, and the next event works."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.config.tunables import Tunables
from locum.events import runner_client
from locum.events.model import Event
from locum.events.runner import run_lock
from locum.events.runner.results import Outcome
from locum.events.runner.run_lock import RunLock, RunnerBusy, Running
from locum.processes import boot_id, process, session_members
from tests.unit.bench import Bench, alive, eventually, kill_service, run_async, until

#: A daemon's stand-in: an engine that runs monitor and says which process its runner is.
AGENT = """
import asyncio, sys
from collections.abc import Iterator
from pathlib import Path
from locum.config.tunables import Tunables
from locum.events.engine import EventEngine
from locum.events.model import Event

async def main(place):
    given = {"runtime": place / "runtime", "state": place / "state", "settings": {}, "environment": {}}
    engine = EventEngine(place / "events", **given, tunables=lambda: Tunables(monitor_timeout=600))
    await engine.start()
    print(engine.runner_pid, flush=True)
    result = await engine.run(Event.MONITOR)
    print(result.scripts[0].outcome, flush=True)
    await engine.stop()

asyncio.run(main(Path(sys.argv[1])))
"""

#: Hangs, with a child in its session and a service outside it, and counts how often it began.
SCRIPT = """#!/bin/sh
cd {place}
exec 9>lock
flock -n 9 || echo twice >>broken
echo begun >>begun
setsid sh -c 'echo $$ >>services; echo $$ >service; exec sleep 1000' 9>&- >/dev/null 2>&1 </dev/null &
[ "$(wc -l <begun)" = 1 ] || {{ echo ended >>ended; exit 0; }}  # only the first one hangs
(exec sleep 1001) & echo $! >child
while [ ! -s service ]; do sleep 0.01; done
echo $$ >script.new; mv script.new script
while :; do sleep 0.01; done
"""


class Agent:
    """An engine in a process of its own."""

    def __init__(self, bench: Bench) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(bench.place)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        self._lines = self.process.stdout
        self.runner = int(self._lines.readline())

    def outcome(self) -> str:
        return self._lines.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._lines.close()


@pytest.fixture
def hanging(bench: Bench) -> Bench:
    """A bench whose script hangs at its first run."""
    bench.script("10.a", SCRIPT.format(place=bench.place))
    return bench


def number(bench: Bench, name: str) -> int:
    until(lambda: bench.lines(name))
    return int(bench.lines(name)[0])


def end_services(bench: Bench) -> None:
    for line in bench.lines("services"):
        kill_service(int(line))


def expect_that_all_of_the_script_is_dead(bench: Bench) -> None:
    for name in ("script", "child"):
        pid = number(bench, name)
        until(lambda pid=pid: not alive(pid))  # type: ignore[misc]
    assert alive(number(bench, "service"))
    assert not bench.file("broken").exists()
    assert not bench.file("ended").exists()


def expect_that_the_next_event_works(bench: Bench) -> None:
    """I5: and it does not begin before the earlier run has ended."""
    result = bench.run(Event.MONITOR)
    assert result.ok, result
    assert bench.lines("begun") == ["begun", "begun"]
    assert bench.lines("ended") == ["ended"]
    assert not bench.file("broken").exists()


def test_i5_agent_killed_while_a_script_runs(hanging: Bench) -> None:
    agent = Agent(hanging)
    number(hanging, "script")
    agent.end()
    try:
        expect_that_all_of_the_script_is_dead(hanging)  # although no new agent has come
        until(lambda: not alive(agent.runner))
        expect_that_the_next_event_works(hanging)
    finally:
        end_services(hanging)


def test_i5_agent_and_runner_killed_while_a_script_runs(hanging: Bench) -> None:
    agent = Agent(hanging)
    script = number(hanging, "script")
    agent.process.send_signal(signal.SIGSTOP)  # so that it cannot start a new runner in between
    os.kill(agent.runner, signal.SIGKILL)
    agent.end()
    try:
        assert alive(script), "nobody is left who could end it"
        first_service = number(hanging, "service")
        expect_that_the_next_event_works(hanging)
        assert not alive(script)
        assert alive(first_service)
    finally:
        end_services(hanging)


def test_i5_everything_killed_but_a_child_of_the_script(hanging: Bench) -> None:
    agent = Agent(hanging)
    script, child = number(hanging, "script"), number(hanging, "child")
    agent.process.send_signal(signal.SIGSTOP)
    os.kill(agent.runner, signal.SIGKILL)
    os.kill(script, signal.SIGKILL)
    agent.end()
    service = number(hanging, "service")
    try:
        until(lambda: not alive(script))
        assert alive(child)
        expect_that_the_next_event_works(hanging)
        assert not alive(child)
        assert alive(service)
    finally:
        end_services(hanging)


def test_i5_agent_killed_while_its_runner_is_stopped(hanging: Bench) -> None:
    agent = Agent(hanging)
    script = number(hanging, "script")
    os.kill(agent.runner, signal.SIGSTOP)
    agent.end()
    try:
        assert alive(script)
        expect_that_the_next_event_works(hanging)
        assert not alive(agent.runner), "the next runner ended it, as it could not end by itself"
        assert not alive(script)
    finally:
        end_services(hanging)


def test_i5_runner_killed_while_a_script_runs(hanging: Bench) -> None:
    async def go() -> None:
        async with hanging.running() as engine:
            run = asyncio.ensure_future(engine.run(Event.MONITOR))
            await eventually(lambda: hanging.lines("script"))
            runner = engine.runner_pid
            os.kill(runner, signal.SIGKILL)
            result = await run
            assert result.failure is not None
            assert result.failure.outcome is Outcome.FAILED
            assert result.failure.output == f"the event runner (process {runner}) was ended by SIGKILL"
            assert (await engine.run(Event.MONITOR)).ok
            assert engine.runner_pid != runner
            assert hanging.said == [
                ("error", f"the event runner (process {runner}) was ended by SIGKILL; starting another one"),
                ("warning", "10.a was still running for an earlier daemon or runner; it was ended"),
            ]

    try:
        run_async(go())
        assert hanging.lines("begun") == ["begun", "begun"]
        assert hanging.lines("ended") == ["ended"]
        assert not hanging.file("broken").exists()
    finally:
        end_services(hanging)


def test_a_runner_that_is_killed_again_and_again(bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")

    async def go() -> None:
        async with bench.running() as engine:
            for _ in range(4):
                before = engine.runner_pid
                os.kill(before, signal.SIGKILL)
                await eventually(lambda before=before: engine.runner_pid not in (0, before))  # type: ignore[misc]
                assert (await engine.run(Event.MONITOR)).ok

    run_async(go())


def test_a_runner_that_cannot_start_is_said_and_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.shell("10.a", "exit 0\n")

    async def go() -> None:
        async with bench.running() as engine:
            with monkeypatch.context() as patch:
                patch.setattr(runner_client, "_MAIN", bench.file("missing.py"))
                os.kill(engine.runner_pid, signal.SIGKILL)
                await eventually(lambda: any(text.startswith("no event can run: ") for _, text in bench.said))
            texts = [text for _, text in bench.said]
            assert any("exited with status 2" in text for text in texts)
            # What it said itself came over a pipe of ours, not to a standard error that might not accept it.
            assert any(text.startswith("event runner: ") and "missing.py" in text for text in texts)
            assert (await engine.run(Event.MONITOR)).ok

    run_async(go())


def test_a_stopped_runner_is_replaced_and_its_run_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_client, "ANSWER_MARGIN", 0.5)
    bench.shell("10.a", f"echo >>{bench.file('begun')}; while [ ! -e {bench.file('gate')} ]; do sleep 0.01; done\n")

    async def go() -> None:
        async with bench.running() as engine:
            limit = 0.5
            while True:
                bench.tunables = Tunables(monitor_timeout=limit)
                run = asyncio.ensure_future(engine.run(Event.MONITOR))
                await eventually(lambda run=run: run.done() or bench.lines("begun"))  # type: ignore[misc]
                if not run.done():
                    break
                limit *= 4  # a slow machine needs longer until the script begins
                bench.file("begun").unlink(missing_ok=True)
            bench.tunables = Tunables(monitor_timeout=600)
            os.kill(engine.runner_pid, signal.SIGSTOP)
            failure = (await run).failure
            assert failure is not None
            assert f"gave no sign of life for {limit + 0.5:g} s and was killed" in failure.output
            bench.file("gate").touch()
            assert (await engine.run(Event.MONITOR)).ok

    run_async(go())


def test_a_killed_spare_child_is_replaced(bench: Bench) -> None:
    bench.python("10.a", "def monitor(): pass\n")

    async def go() -> None:
        async with bench.running() as engine:
            assert (await engine.run(Event.MONITOR)).ok
            children = Path(f"/proc/{engine.runner_pid}/task/{engine.runner_pid}/children")
            spare = await eventually(lambda: children.read_text().split())
            for pid in spare:
                os.kill(int(pid), signal.SIGKILL)
                await eventually(lambda pid=pid: not alive(int(pid)))  # type: ignore[misc]
            for _ in range(3):
                assert (await engine.run(Event.MONITOR)).ok

    run_async(go())


def test_systemd_stops_everything_at_once_and_shutdown_still_runs(bench: Bench) -> None:
    bench.shell("10.a", "echo $1\n")

    async def go() -> None:
        async with bench.running() as engine:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(engine.runner_pid, number)
            result = await engine.run(Event.SHUTDOWN)
            assert result.scripts[0].output == "shutdown\n"

    run_async(go())


@pytest.fixture
def ignoring() -> Iterator[None]:
    """As a process that was started by nohup, or by a shell in the background."""
    old = {n: signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("ignoring")
def test_scripts_get_ordinary_signals(bench: Bench) -> None:
    bench.shell("10.a", "grep SigIgn /proc/self/status; grep SigBlk /proc/self/status\n")
    (result,) = bench.run(Event.MONITOR).scripts
    # 32 and 33 belong to the C library, whose posix_spawn() leaves them ignored; programs set them up for themselves.
    ours = (1 << 31) - 1
    assert [int(line.split()[1], 16) & ours for line in result.output.splitlines()] == [0, 0]


def test_500_runs_leak_no_descriptor_and_no_process(bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")
    bench.python("20.b", "def monitor(): print('hello')\n")
    bench.shell("30.c", "(sleep 0.01; echo late) &\n")  # survives its script, and holds its output

    async def go() -> None:
        async with bench.running() as engine:

            def state() -> tuple[int, int, int]:
                runner = engine.runner_pid
                children = Path(f"/proc/{runner}/task/{runner}/children").read_text().split()
                return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{runner}/fd")), len(children)

            for _ in range(5):
                await engine.run(Event.MONITOR)
            before = state()
            for _ in range(500 // 3):
                assert (await engine.run(Event.MONITOR)).ok
            # The last drain, or a spare child that is just being forked; nothing that grows with the number of runs.
            after = state()
            assert after[0] <= before[0] + 2
            assert after[1] <= before[1] + 6
            assert after[2] <= before[2] + 5

    run_async(go())


# -- the record by itself ------------------------------------------------------------------------------------


def test_the_record_tells_the_next_runner(tmp_path: Path) -> None:
    first = RunLock(str(tmp_path), os.getpid())
    script = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    first.begun("50.web", "monitor", script.pid)
    first.close()
    second = RunLock(str(tmp_path), os.getpid())
    assert second.end_earlier() == "50.web"
    assert script.wait() == -signal.SIGKILL
    assert second.end_earlier() is None
    second.close()


def started_but_not_numbered(place: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A script that leaves a service, as it is when the runner died right after it had started it."""
    path = place / "script"
    lines = ["#!/bin/sh", f"cd {place}", "setsid sleep 1000 &", "echo $! >new; mv new service"]
    path.write_text("\n".join([*lines, "while :; do sleep 0.05; done", ""]))
    path.chmod(0o755)
    first = RunLock(str(place), os.getpid())
    first.starting("50.web", "takeip", "token.7", [str(path), "takeip", "eth0"])
    script = subprocess.Popen(
        [path, "takeip", "eth0"], start_new_session=True, env={**os.environ, "LOCUM_RUN": "token.7"}
    )
    service = int(until(lambda: (place / "service").exists() and (place / "service").read_text()))
    until(lambda: os.getsid(service) == service)  # until then it is a child of the script like others
    first.close()
    return script, service


def test_i5_a_script_whose_number_was_not_written_down_is_found(tmp_path: Path) -> None:
    script, service = started_but_not_numbered(tmp_path)
    try:
        second = RunLock(str(tmp_path), os.getpid())
        assert second.end_earlier() == "50.web"
        assert script.wait() == -signal.SIGKILL
        assert alive(service)
        second.close()
    finally:
        kill_service(service)


def test_i5_a_child_of_such_a_script_that_outlived_it_is_found(tmp_path: Path) -> None:
    script, service = started_but_not_numbered(tmp_path)
    child = until(lambda: [one for one in session_members(script.pid) if one.pid != script.pid])[0]
    os.kill(child.pid, signal.SIGSTOP)
    script.kill()
    script.wait()
    try:
        assert alive(child.pid)
        second = RunLock(str(tmp_path), os.getpid())
        second.end_earlier()
        assert not alive(child.pid)
        assert alive(service)
        second.close()
    finally:
        kill_service(service)


def test_one_that_did_not_come_to_be_started_is_no_obstacle(tmp_path: Path) -> None:
    first = RunLock(str(tmp_path), os.getpid())
    first.starting("50.web", "monitor", "token.8", ["/no/such", "monitor"])
    first.close()
    second = RunLock(str(tmp_path), os.getpid())
    second.end_earlier()
    assert second.still_running("50.web") == []
    second.close()


def test_a_process_that_got_the_number_of_a_dead_script_is_left_alone(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    found = process(bystander.pid)
    assert found is not None
    first = RunLock(str(tmp_path), os.getpid())
    first._write(Running("50.web", "monitor", bystander.pid, found.start - 1))
    first.close()
    second = RunLock(str(tmp_path), os.getpid())
    second.end_earlier()
    second.close()
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_a_record_of_an_earlier_boot_means_nothing(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    first = RunLock(str(tmp_path), os.getpid())
    first.begun("50.web", "monitor", bystander.pid)
    first.close()
    path = tmp_path / "events" / "running"
    path.write_text(path.read_text().replace(boot_id(), "another"))
    second = RunLock(str(tmp_path), os.getpid())
    assert second.end_earlier() is None
    second.close()
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"boot": 3}', '{"running": {"pid": "x"}}', "\0\0\0"])
def test_a_damaged_record_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "running").write_text(content)
    with_boot = content.replace('{"', f'{{"boot": "{boot_id()}", "', 1) if "running" in content else content
    (tmp_path / "events" / "running").write_text(with_boot)
    one = RunLock(str(tmp_path), os.getpid())
    one.end_earlier()
    one.close()


def test_i5_what_cannot_be_killed_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninterruptible sleep cannot be made to order; a kill that does nothing looks the same."""
    left = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    found = process(left.pid)
    assert found is not None
    first = RunLock(str(tmp_path), os.getpid())
    first.begun("50.web", "monitor", left.pid)
    first.close()
    second = RunLock(str(tmp_path), os.getpid())
    monkeypatch.setattr(run_lock, "kill_session", lambda *_: [found])
    second.end_earlier()
    assert second.still_running("50.web") == [left.pid]
    assert second.still_running("60.nfs") == []
    second.close()
    third = RunLock(str(tmp_path), os.getpid())  # also after one more restart
    third.end_earlier()
    assert third.still_running("50.web") == [left.pid]
    left.kill()
    left.wait()
    assert third.still_running("50.web") == []
    third.close()


def test_the_lock_is_refused_while_its_agent_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "BUSY_PATIENCE", 0.05)
    first = RunLock(str(tmp_path), os.getpid())
    with pytest.raises(RunnerBusy, match=f"in use by process {os.getpid()}"):
        RunLock(str(tmp_path), os.getpid())
    first.close()
    RunLock(str(tmp_path), os.getpid()).close()
