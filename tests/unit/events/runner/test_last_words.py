"""When a service has ended, the script's failure names the file with its last words, and quotes them."""

from __future__ import annotations

import contextlib

import pytest

from locum.events.model import Event
from locum.events.runner.results import ScriptResult
from tests.unit.bench import Bench, alive, kill_service, run_async, until

SERVICE = "['sh', '-c', 'echo ready; while [ ! -e {stop} ]; do sleep 0.05; done; echo out of memory; exit 1']"
PYTHON_SCRIPT = """\
from locum.script import Fail, service_is_running, start_service

COMMAND = {command}

def startup():
    start_service("web", command=COMMAND)

def monitor():
    if not service_is_running("web"):
        {restart}
        raise Fail("nothing listens on port 80")
"""
SHELL_SCRIPT = """\
. "$LOCUM_FUNCTIONS"
case "$1" in
startup) locum_start_service web sh -c 'echo ready; while [ ! -e {stop} ]; do sleep 0.05; done; echo out of memory' ;;
monitor) locum_service_running web || {{ echo nothing listens on port 80; exit 1; }} ;;
shutdown) locum_stop_service web ;;
esac
"""


def script(bench: Bench, kind: str) -> None:
    stop = bench.file("stop")
    if kind == "shell":
        bench.shell("50.web", SHELL_SCRIPT.format(stop=stop))
    else:
        restart = 'start_service("web", command=["sleep", "1000"])' if kind == "restarting" else "pass"
        bench.python("50.web", PYTHON_SCRIPT.format(command=SERVICE.format(stop=stop), restart=restart))


def service(bench: Bench) -> int:
    words = (bench.runtime / "services" / "50.web.pid").read_text().split()
    return int(words[0]) if words else 0


@pytest.mark.parametrize("kind", ["python", "restarting", "shell"])
def test_a_failure_names_the_log_of_a_service_that_has_ended(bench: Bench, kind: str) -> None:
    script(bench, kind)
    log = bench.state / "services" / "50.web.log"

    async def go() -> ScriptResult:
        async with bench.running() as engine:
            assert (await engine.run(Event.STARTUP)).ok
            assert (await engine.run(Event.MONITOR)).ok
            pid = service(bench)
            bench.file("stop").touch()
            until(lambda: not alive(pid))
            found = (await engine.run(Event.MONITOR)).failure
            assert found is not None
            return found

    try:
        found = run_async(go())
    finally:
        with contextlib.suppress(FileNotFoundError):
            kill_service(service(bench))
    why = f"nothing listens on port 80; its service has ended, last words in {log}: out of memory"
    assert found.reason == why
    assert f"[50.web has ended. The end of its log {log}:\nready\nout of memory]" in found.output


def test_a_service_that_was_stopped_or_runs_has_no_last_words(bench: Bench) -> None:
    bench.shell(
        "50.web",
        '. "$LOCUM_FUNCTIONS"\ncase "$1" in\nstartup) locum_start_service web sleep 1000 ;;\n'
        "monitor) echo too slow; exit 1 ;;\nrecovered) locum_stop_service web ;;\nesac\n",
    )

    async def go() -> list[str]:
        async with bench.running() as engine:
            assert (await engine.run(Event.STARTUP)).ok
            reasons = []
            for _ in range(2):
                found = (await engine.run(Event.MONITOR)).failure
                assert found is not None
                reasons.append(found.reason)
                assert (await engine.run(Event.RECOVERED)).ok
            return reasons

    assert run_async(go()) == ["too slow", "too slow"]


def test_a_service_that_ends_while_startup_waits_for_it(bench: Bench) -> None:
    bench.python(
        "50.web",
        "from locum.script import start_service, wait_for_port\ndef startup():\n"
        "    start_service('web', command=['sh', '-c', 'sleep 0.2; echo no such user; exit 1'])\n"
        "    wait_for_port(1, timeout=1)\n",
    )
    found = bench.run(Event.STARTUP).failure
    assert found is not None
    assert found.reason.endswith(f"last words in {bench.state / 'services' / '50.web.log'}: no such user")
