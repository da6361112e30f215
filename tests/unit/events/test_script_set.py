"""A directory at fault under a running daemon: what ran before goes on to run, and nothing fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from locum.errors import ScriptDirectoryError
from locum.events.directory import ScriptDirectory, Survey
from locum.events.engine import EventEngine
from locum.events.model import Event
from locum.events.script_set import ScriptSet, forget
from tests.unit.bench import PYTHON, SHELL, Bench, run_async


async def ran(engine: EventEngine) -> list[str]:
    """What the scripts of a monitor that succeeds say."""
    result = await engine.run(Event.MONITOR)
    assert result.ok, result
    return [one.output.strip() for one in result.scripts if one.output]


def web(bench: Bench, text: str) -> None:
    bench.shell("50.web", f"echo {text}\n")


def break_syntax(bench: Bench) -> None:
    bench.script("40.py", PYTHON + "def monitor(:\n")


def break_shell(bench: Bench) -> None:
    bench.script("40.py", SHELL + 'case "$1" in\n')


def break_mode(bench: Bench) -> None:
    (bench.scripts / "40.py").chmod(0o777)


def break_interpreter(bench: Bench) -> None:
    bench.script("40.py", "#!/no/such/python\n")


def empty_it(bench: Bench) -> None:
    bench.script("40.py", "")


@pytest.mark.parametrize("harm", [break_syntax, break_shell, break_mode, break_interpreter, empty_it])
def test_a_script_at_fault_stays_as_it_was_and_the_others_follow_the_directory(
    bench: Bench, harm: Callable[[Bench], None]
) -> None:
    bench.python("40.py", "def monitor(): print('old')\n")
    web(bench, "web")

    async def go() -> None:
        async with bench.running() as engine:
            assert await ran(engine) == ["old", "web"]
            harm(bench)
            web(bench, "newer")
            bench.shell("60.more", "echo more\n")
            assert await ran(engine) == ["old", "newer", "more"]
            assert "40.py runs as before" in engine.directory_problem
            assert [level for level, text in bench.said if "is faulty: 40.py: " in text] == ["error"]
            assert await ran(engine) == ["old", "newer", "more"]
            bench.python("40.py", "def monitor(): print('repaired')\n")
            assert await ran(engine) == ["repaired", "newer", "more"]
            assert engine.directory_problem == ""
            assert bench.said[-1][1].endswith("is good again, and in use as it is")

    run_async(go())


def test_what_others_could_have_changed_is_never_executed(bench: Bench) -> None:
    web(bench, "web")

    async def go() -> None:
        async with bench.running() as engine:
            path = bench.script("50.web", SHELL + "echo planted\n")
            path.chmod(0o757)
            assert await ran(engine) == ["web"]
            bench.scripts.chmod(0o777)
            bench.script("50.web", SHELL + "echo planted\n")
            bench.script("60.planted", SHELL + "echo planted\n")
            assert await ran(engine) == ["web"]

    run_async(go())


def test_of_two_scripts_with_one_number_the_one_that_ran_before_runs(bench: Bench) -> None:
    web(bench, "web")

    async def go() -> None:
        async with bench.running() as engine:
            bench.shell("50.aaa", "echo aaa\n")
            assert await ran(engine) == ["web"]
            assert "50.aaa does not run" in engine.directory_problem
            (bench.scripts / "50.web").chmod(0o644)
            assert await ran(engine) == ["aaa"]
            assert engine.directory_problem == ""

    run_async(go())


def test_two_new_scripts_with_one_number_both_wait_until_that_is_mended(bench: Bench) -> None:
    web(bench, "web")

    async def go() -> None:
        async with bench.running() as engine:
            bench.shell("60.a", "echo a\n")
            bench.shell("60.b", "echo b\n")
            assert await ran(engine) == ["web"]
            (bench.scripts / "60.a").unlink()
            assert await ran(engine) == ["web", "b"]

    run_async(go())


def test_a_new_script_at_fault_does_not_run_and_fails_nothing(bench: Bench) -> None:
    web(bench, "web")

    async def go() -> None:
        async with bench.running() as engine:
            bench.script("40.new", PYTHON + "def (\n")
            assert await ran(engine) == ["web"]
            assert "40.new does not run" in engine.directory_problem

    run_async(go())


def hide(bench: Bench) -> None:
    bench.scripts.rename(bench.place / "elsewhere")


def unmount(bench: Bench) -> None:
    hide(bench)
    bench.scripts.mkdir(mode=0o755)


def open_up(bench: Bench) -> None:
    bench.scripts.chmod(0o777)


@pytest.mark.parametrize("harm", [hide, unmount, open_up])
def test_a_directory_at_fault_as_a_whole_changes_nothing(bench: Bench, harm: Callable[[Bench], None]) -> None:
    bench.python("40.py", "def monitor(): print('py')\n")
    web(bench, "web")

    async def go() -> None:
        async with bench.running() as engine:
            assert await ran(engine) == ["py", "web"]
            harm(bench)
            assert await ran(engine) == ["py", "web"]
            handled = await engine.handled()
            assert handled == (Event.MONITOR,) or Event.RECOVERED in handled
            assert str(bench.scripts) in engine.directory_problem

    run_async(go())


def test_a_script_that_is_removed_or_disabled_while_another_is_at_fault_stops_running(bench: Bench) -> None:
    for name in ("10.a", "20.b", "30.c"):
        bench.shell(name, f"echo {name}\n")

    async def go() -> None:
        async with bench.running() as engine:
            await ran(engine)
            (bench.scripts / "10.a").chmod(0o777)
            (bench.scripts / "20.b").unlink()
            (bench.scripts / "30.c").chmod(0o644)
            assert await ran(engine) == ["10.a"]

    run_async(go())


def test_an_agent_that_restarts_goes_on_with_a_directory_at_fault_and_a_daemon_that_starts_refuses(
    bench: Bench,
) -> None:
    web(bench, "web")

    async def first() -> None:
        async with bench.running() as engine:
            assert await ran(engine) == ["web"]

    async def second() -> None:
        async with bench.running() as engine:
            assert await ran(engine) == ["web"]
            assert engine.directory_problem

    run_async(first())
    bench.script("50.web", PYTHON + "def (\n")
    run_async(second())
    forget(str(bench.runtime))
    with pytest.raises(ScriptDirectoryError, match=r"50\.web: Python syntax error in line 2"):
        run_async(second())


def test_a_script_whose_copy_is_lost_fails_instead_of_running_from_an_unsafe_file(bench: Bench) -> None:
    web(bench, "web")

    async def go() -> None:
        async with bench.running():
            pass
        (Path(bench.state) / "last-good" / "50.web").unlink()
        (bench.scripts / "50.web").chmod(0o777)
        async with bench.running() as engine:
            result = await engine.run(Event.MONITOR)
            assert result.failure is not None
            assert "no earlier copy of it could be kept: 50.web: can be written by" in result.failure.output

    run_async(go())


def test_a_repaired_or_removed_script_is_not_shown_as_failed(bench: Bench) -> None:
    bench.shell("10.gone", "exit 0\n")
    web(bench, "web")

    async def go() -> None:
        async with bench.running() as engine:
            bench.shell("10.gone", "exit 3\n")
            assert not (await engine.run(Event.MONITOR)).ok
            (bench.scripts / "10.gone").unlink()
            break_syntax(bench)
            await ran(engine)
            (bench.scripts / "40.py").unlink()
            await ran(engine)
            assert [(one.script, one.outcome.value) for one in engine.status()[Event.MONITOR].scripts] == [
                ("50.web", "ok")
            ]

    run_async(go())


def test_a_script_that_appears_with_its_interpreter_later_runs_without_being_touched(bench: Bench) -> None:
    web(bench, "web")
    interpreter = bench.place / "interpreter"
    bench.script("60.more", f"#!{interpreter}\necho more\n")

    async def go() -> None:
        engine = bench.engine()
        assert await engine.handled()
        assert engine.in_use.refused
        os.symlink("/bin/sh", interpreter)
        await engine.start()
        try:
            assert await ran(engine) == ["web", "more"]
        finally:
            await engine.stop()

    run_async(go())


def test_a_script_that_changed_since_it_was_judged_is_not_kept(bench: Bench) -> None:
    """Another user may have changed it: what was judged good is not what the copy would have."""
    web(bench, "judged")
    scripts = ScriptSet(ScriptDirectory(bench.scripts), runtime=str(bench.runtime), state=str(bench.state))
    survey = scripts._directory.survey

    def judged_and_changed() -> Survey:
        judged = survey()
        web(bench, "changed since")
        return judged

    scripts._directory.survey = judged_and_changed  # type: ignore[method-assign]
    scripts.refresh()
    (kept,) = scripts.without_directory("its file system hangs").scripts
    assert kept.path == ""


def test_a_script_that_was_removed_does_not_come_back_when_the_directory_is_at_fault(bench: Bench) -> None:
    web(bench, "web")
    gone = bench.shell("60.gone", "echo gone\n")
    scripts = ScriptSet(ScriptDirectory(bench.scripts), runtime=str(bench.runtime), state=str(bench.state))
    scripts.refresh()
    gone.unlink()
    scripts.refresh()
    assert [script.name for script in scripts.without_directory("its file system hangs").scripts] == ["50.web"]
