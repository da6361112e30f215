"""Scripts that hang, fork, print without end, destroy themselves: the event ends in bounded time and says what was."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from locum.config.tunables import Tunables
from locum.events.model import Event
from locum.events.runner.capture import HEAD, TAIL
from locum.events.runner.results import Outcome, ScriptResult
from tests.unit.bench import Bench, alive, eventually, kill_service, run_async, until


def only(bench: Bench, timeout: float = 60.0) -> ScriptResult:
    (result,) = bench.run(Event.MONITOR, timeout=timeout).scripts
    return result


def timed_out(bench: Bench, there: Callable[[ScriptResult], object]) -> ScriptResult:
    """What became of a script that does not end, if it was killed when it had got as far as ``there`` demands.

    A slow machine needs longer for that than the limit with which this begins: it grows until the script was there.
    """
    limit = 0.5
    while True:
        result = only(bench, timeout=limit)
        assert result.outcome is Outcome.TIMEOUT
        assert result.seconds >= limit
        if there(result):
            return result
        assert limit < 120, f"the script never got there: {result.output}"
        limit *= 4


def pid_in(bench: Bench, name: str) -> int:
    (line,) = until(lambda: bench.lines(name))
    return int(line)


# -- time-outs -----------------------------------------------------------------------------------------------


def test_a_script_that_hangs_is_killed_after_a_dump(bench: Bench) -> None:
    bench.shell("10.hang", "echo before; sleep 1000 & sleep 1001\n")
    result = timed_out(bench, lambda found: all(f"sleep {number}" in found.output for number in (1000, 1001)))
    assert result.status == 124
    said, why, *dump = result.output.splitlines()
    assert said == "before"
    assert re.fullmatch(r"\[did not end within [0-9.]+ s; killed while it was doing this:\]", why)
    assert any(f"{bench.scripts}/10.hang monitor" in line for line in dump)


def test_the_dump_shows_where_a_python_script_hangs(bench: Bench) -> None:
    bench.python("10.hang", "import time\ndef monitor():\n    deeper()\ndef deeper():\n    time.sleep(1000)\n")
    result = timed_out(bench, lambda found: "line 6 in deeper\n" in found.output)
    assert "Python stack of" in result.output
    assert "line 4 in monitor\n" in result.output


def test_the_dump_shows_all_threads_even_when_one_holds_the_interpreter(bench: Bench) -> None:
    bench.python(
        "10.hang",
        "import re, threading, time\n"
        "def monitor():\n"
        "    threading.Thread(target=lambda: time.sleep(1000)).start()\n"
        "    re.match(r'(a+)+$', 'a' * 60 + 'b')\n",  # holds the lock for longer than the universe
    )
    result = timed_out(bench, lambda found: "in monitor" in found.output)
    assert "Current thread" in result.output or "Thread 0x" in result.output


def test_ignoring_every_signal_helps_nobody(bench: Bench) -> None:
    bench.shell(
        "10.stubborn",
        "trap '' TERM INT HUP QUIT USR1 USR2\n"
        f"(trap '' TERM HUP; while :; do sleep 1; done) & echo $! >{bench.file('pid')}\n"
        "while :; do sleep 1; done\n",
    )
    timed_out(bench, lambda _: bench.lines("pid"))
    assert not alive(pid_in(bench, "pid"))


def test_a_stopped_script_and_stopped_children_are_killed(bench: Bench) -> None:
    bench.shell("10.stop", f"sleep 1000 & echo $! >{bench.file('pid')}; kill -STOP $!; kill -STOP $$; echo never\n")
    # The dump shows that they were stopped.
    result = timed_out(bench, lambda found: " T in " in found.output)
    assert "never" not in result.output
    assert not alive(pid_in(bench, "pid"))


def test_a_stopped_python_script_is_killed_without_waiting_for_its_stack(bench: Bench) -> None:
    bench.python("10.stop", "import os, signal\ndef monitor(): os.kill(os.getpid(), signal.SIGSTOP)\n")
    assert only(bench, timeout=0.5).outcome is Outcome.TIMEOUT


def test_children_in_process_groups_of_their_own_are_killed_too(bench: Bench) -> None:
    # As timeout(1) and job control do.
    bench.python(
        "10.groups",
        "import os, time\n"
        "def monitor():\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os.setpgid(0, 0)\n"
        f"        open({str(bench.file('pid'))!r}, 'w').write(str(os.getpid()))\n"
        "    time.sleep(1000)\n",
    )
    timed_out(bench, lambda _: bench.lines("pid"))
    assert not alive(pid_in(bench, "pid"))


def test_the_limit_is_for_each_script(bench: Bench) -> None:
    for number in (10, 20, 30):
        bench.shell(f"{number}.slow", "sleep 0.4\n")
    assert bench.run(Event.MONITOR, timeout=1.0).ok


def test_i4_a_time_out_ends_the_event(bench: Bench) -> None:
    bench.shell("10.hang", "sleep 1000\n")
    bench.shell("20.b", f"echo b >>{bench.file('order')}\n")
    result = bench.run(Event.MONITOR, timeout=0.5)
    assert not result.ok
    assert [(one.script, one.outcome) for one in result.scripts] == [("10.hang", Outcome.TIMEOUT)]
    assert not bench.lines("order")


def test_i5_a_script_that_timed_out_has_ended_when_the_next_event_starts(bench: Bench) -> None:
    hung, lock = bench.file("hung"), bench.file("lock")
    bench.shell(
        "10.hang",
        f"exec 9>>{lock}; flock -n 9 || echo overlap >>{bench.file('broken')}\n"
        f"[ -e {hung} ] && exit 0\n"
        f"echo $$ >{hung}.new; mv {hung}.new {hung}; trap '' TERM; sleep 1000; sleep 1000\n",
    )

    async def go() -> None:
        limit = 0.5
        async with bench.running() as engine:
            while not hung.exists():  # a slow machine needs longer until it hangs
                bench.tunables = Tunables(monitor_timeout=limit, event_timeout=60)
                assert (await engine.run(Event.MONITOR)).scripts[0].outcome is Outcome.TIMEOUT
                limit *= 4
            assert (await engine.run(Event.RECOVERED)).ok

    try:
        run_async(go())
        assert not bench.lines("broken")
    finally:
        kill_service(pid_in(bench, "hung"))


# -- daemons -------------------------------------------------------------------------------------------------

DAEMON = (
    "setsid sh -c 'echo $$ >{pid}; while :; do echo tick || echo broken >>{broken}; sleep 0.02; done' {redirect} &\n"
)


def daemon(bench: Bench, redirect: str = "") -> str:
    text = DAEMON.format(pid=bench.file("pid"), broken=bench.file("broken"), redirect=redirect)
    return text + f"while [ ! -s {bench.file('pid')} ]; do sleep 0.01; done\n"


def test_a_daemon_that_holds_the_output_does_not_hold_the_event(bench: Bench) -> None:
    bench.shell("10.daemon", daemon(bench) + "echo started\n")
    result = only(bench)
    pid = pid_in(bench, "pid")
    try:
        assert result.outcome is Outcome.OK
        assert "started\n" in result.output
        assert "[a process that it started still holds its output: redirect the output of services]" in result.output
        time.sleep(0.2)  # time in which it would notice
        assert alive(pid)
        assert not bench.file("broken").exists(), "and it may go on writing"
    finally:
        kill_service(pid)


def test_a_daemon_with_its_own_output_is_no_matter_of_remark(bench: Bench) -> None:
    bench.shell("10.daemon", daemon(bench, ">/dev/null 2>&1 </dev/null") + "echo started\n")
    result = only(bench)
    try:
        assert result.output == "started\n"
    finally:
        kill_service(pid_in(bench, "pid"))


def test_a_daemon_survives_the_time_out_of_the_script_that_started_it(bench: Bench) -> None:
    bench.shell("10.daemon", daemon(bench) + "sleep 1000\n")
    result = only(bench, timeout=1)
    pid = pid_in(bench, "pid")
    try:
        assert result.outcome is Outcome.TIMEOUT
        assert alive(pid)
        assert "(session of its own, left alone)" in result.output
    finally:
        kill_service(pid)


def test_what_a_script_leaves_in_the_background_when_it_ends_stays(bench: Bench) -> None:
    bench.shell("10.job", f"sleep 1000 >/dev/null 2>&1 & echo $! >{bench.file('pid')}\n")

    async def go() -> None:
        async with bench.running() as engine:
            assert (await engine.run(Event.MONITOR)).ok
        assert alive(pid_in(bench, "pid")), "also when the runner is gone"

    try:
        run_async(go())
    finally:
        os.kill(pid_in(bench, "pid"), 9)


def test_what_a_killed_script_leaves_goes(bench: Bench) -> None:
    bench.shell("10.suicide", f"sleep 1000 & echo $! >{bench.file('pid')}; kill -9 $$\n")
    result = only(bench)
    assert (result.outcome, result.status) == (Outcome.FAILED, 137)
    assert result.output == "[ended by SIGKILL]\n"
    assert not alive(pid_in(bench, "pid"))


# -- output --------------------------------------------------------------------------------------------------


def test_a_hundred_megabytes(bench: Bench) -> None:
    bench.shell("10.loud", "echo first; head -c 100000000 /dev/zero | tr '\\0' x; echo; echo last\n")
    result = only(bench, timeout=300)
    assert result.outcome is Outcome.OK
    assert result.output.startswith("first\n")
    assert result.output.endswith("x\nlast\n")
    assert f"[{100000012 - HEAD - TAIL} bytes left out]" in result.output
    assert len(result.output) < HEAD + TAIL + 100


def test_output_without_end_ends_with_the_time_out(bench: Bench) -> None:
    bench.shell("10.loud", "exec yes\n")
    result = timed_out(bench, lambda found: "bytes left out" in found.output)
    assert result.output.rstrip().splitlines()[-1].strip() != "y", "the dump comes after what it said"


def test_a_survivor_that_prints_without_end_does_not_hold_the_event(bench: Bench) -> None:
    bench.shell("10.loud", f"setsid yes & echo $! >{bench.file('pid')}\n")
    try:
        assert only(bench).outcome is Outcome.OK
    finally:
        kill_service(pid_in(bench, "pid"))


def test_no_newline_at_the_end(bench: Bench) -> None:
    bench.shell("10.short", "printf abc\n")
    assert only(bench).output == "abc"


def test_a_note_of_ours_starts_on_a_line_of_its_own(bench: Bench) -> None:
    bench.shell("10.short", "printf abc; kill -SEGV $$\n")
    result = only(bench)
    assert result.output == "abc\n[ended by SIGSEGV]\n"
    assert result.status == 128 + 11


def test_bytes_that_are_not_text(bench: Bench) -> None:
    bench.shell("10.bytes", "printf '\\377\\0\\303('\n")
    assert only(bench).output == "\\xff\0\\xc3("


def test_closed_output(bench: Bench) -> None:
    bench.shell("10.closed", "exec >&- 2>&-; sleep 0.1; exit 4\n")
    result = only(bench)
    assert (result.status, result.output) == (4, "")


def test_standard_input_is_empty(bench: Bench) -> None:
    bench.shell("10.reader", 'read -r x && echo "got $x"; exit 0\n')
    assert only(bench).output == ""


# -- the file itself -----------------------------------------------------------------------------------------


def test_a_script_that_deletes_itself(bench: Bench) -> None:
    bench.shell("10.gone", 'rm "$0"; echo still here\n')
    bench.python("20.gone", "import os\ndef monitor():\n    os.unlink(__file__)\n    print('still here')\n")
    result = bench.run(Event.MONITOR)
    assert [one.output for one in result.scripts] == ["still here\n", "still here\n"]


def test_a_script_that_is_replaced_while_it_runs(bench: Bench) -> None:
    gate, started = bench.file("gate"), bench.file("started")
    text = f"touch {started}; while [ ! -e {gate} ]; do sleep 0.01; done; echo old\n"

    async def go() -> list[str]:
        async with bench.running() as engine:
            bench.shell("10.a", text)
            run = asyncio.ensure_future(engine.run(Event.MONITOR))
            await eventually(started.exists)
            bench.shell("10.a", "echo new\n")
            gate.touch()
            return [(await run).scripts[0].output, (await engine.run(Event.MONITOR)).scripts[0].output]

    bench.shell("10.a", "exit 0\n")
    assert run_async(go()) == ["old\n", "new\n"]


def test_a_script_that_goes_before_its_turn(bench: Bench) -> None:
    victim = bench.shell("20.victim", "exit 0\n")
    bench.shell("10.a", f"rm {victim}\n")
    result = bench.run(Event.MONITOR)
    assert result.failure is not None
    assert (result.failure.script, result.failure.status) == ("20.victim", 127)
    assert "it no longer exists" in result.failure.output


def test_a_python_script_that_goes_before_its_turn(bench: Bench) -> None:
    victim = bench.python("20.victim", "def monitor(): pass\n")
    bench.shell("10.a", f"rm {victim}\n")
    result = bench.run(Event.MONITOR)
    assert result.failure is not None
    assert "No such file" in result.failure.output


def test_an_interpreter_that_goes(bench: Bench) -> None:
    interpreter = bench.file("interpreter")
    interpreter.write_bytes(Path("/bin/sh").resolve().read_bytes())
    interpreter.chmod(0o755)
    bench.script("10.a", f"#!{interpreter}\nrm {interpreter}\n")
    bench.script("20.b", f"#!{interpreter}\nexit 0\n")
    result = bench.run(Event.MONITOR)
    assert result.failure is not None
    assert "its interpreter does not exist" in result.failure.output


def test_a_program(bench: Bench) -> None:
    program = bench.scripts / "10.false"
    program.write_bytes(Path("/bin/false").resolve().read_bytes())
    program.chmod(0o755)
    assert only(bench).status == 1


@pytest.mark.parametrize("status", [1, 2, 77, 126, 130, 255])
def test_exit_statuses(bench: Bench, status: int) -> None:
    bench.shell("10.a", f"exit {status}\n")
    result = only(bench)
    assert (result.outcome, result.status) == (Outcome.FAILED, status)
