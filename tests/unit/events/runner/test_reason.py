"""The one line that says why a script failed: what people see as REASON."""

from __future__ import annotations

import pytest

from locum.events.model import Event
from locum.events.runner.reason import reason_of_output
from locum.events.runner.results import ScriptResult
from tests.unit.bench import PYTHON, Bench, run_async


def failure(bench: Bench, timeout: float = 60.0) -> ScriptResult:
    found = bench.run(Event.MONITOR, timeout=timeout).failure
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def monitor():\n    int('x')\n", "ValueError: invalid literal for int() with base 10: 'x' (50.web line 3)"),
        (
            "def help():\n    raise RuntimeError('a\\nb')\n\ndef monitor():\n    print('checking')\n    help()\n",
            "RuntimeError: a (50.web line 3)",
        ),
        (
            "import no_such_module\ndef monitor(): pass\n",
            "ModuleNotFoundError: No module named 'no_such_module' (50.web line 2)",
        ),
        (
            "from locum.script import nothing\ndef monitor(): pass\n",
            "ImportError: cannot import name 'nothing' from 'locum.script'",
        ),
        (
            "def monitor():\n    try:\n        {}['port']\n    except KeyError as error:\n"
            "        raise OSError(5, 'no configuration') from error\n",
            "OSError: [Errno 5] no configuration (50.web line 6)",
        ),
        ("import json\ndef monitor():\n    json.loads('{')\n", "json.decoder.JSONDecodeError: Expecting property name"),
        ("class Bad(Exception):\n    pass\ndef monitor():\n    raise Bad\n", "Bad (50.web line 5)"),
        ("def monitor():\n    raise Exception('\\n  \\n second')\n", "Exception: second (50.web line 3)"),
        ("def monitor():\n    exec('x = (')\n", "SyntaxError: '(' was never closed (<string> line 1)"),
        ("def monitor():\n    assert 1 == 2\n", "AssertionError (50.web line 3)"),
        ("def monitor(x): pass\n", "TypeError: monitor() missing 1 required positional argument: 'x'"),
        (
            "from locum.script import Fail, log\ndef monitor():\n    log('looking')\n"
            "    raise Fail('no answer\\ndetails', 3)\n",
            "no answer",
        ),
        ("import sys\ndef monitor():\n    print('looking')\n    sys.exit('the disk is full')\n", "the disk is full"),
        ("def monitor():\n    return False\n", "monitor() returned False, which is neither"),
        ("import os, signal\ndef monitor():\n    os.kill(os.getpid(), signal.SIGKILL)\n", "ended by SIGKILL"),
        (
            "import os\ndef monitor():\n    os.closerange(3, 100)\n    1 / 0\n",
            "ZeroDivisionError: division by zero (50.web line 5)",
        ),
        ("def monitor():\n    print('nothing else', flush=True)\n    import os\n    os._exit(4)\n", "nothing else"),
        ("import sys\ndef monitor():\n    sys.exit(5)\n", ""),
    ],
)
def test_a_python_script_that_fails(bench: Bench, text: str, reason: str) -> None:
    bench.python("50.web.script", text)
    found = failure(bench)
    assert found.reason.startswith(reason), found
    if reason.endswith(")") or not reason:
        assert found.reason == reason


def test_a_python_script_that_hangs(bench: Bench) -> None:
    bench.python("50.web", "import time\ndef monitor():\n    print('begun', flush=True)\n    time.sleep(1000)\n")
    assert failure(bench, timeout=1.0).reason == "did not end within 1 s"


def test_a_python_script_with_a_syntax_error_that_no_look_has_seen(bench: Bench) -> None:
    path = bench.python("50.web", "def monitor(): pass\n")

    async def go() -> str:
        async with bench.running() as engine:
            scan = engine._set.refresh

            def refresh() -> object:
                found = scan()
                path.write_text(PYTHON + "def monitor(:\n")
                return found

            engine._set.refresh = refresh  # type: ignore[method-assign, assignment]
            found = (await engine.run(Event.MONITOR)).failure
            assert found is not None
            return found.reason

    assert run_async(go()).startswith("SyntaxError: invalid syntax (50.web line 2)")


def test_the_reason_of_one_run_is_not_that_of_the_next(bench: Bench) -> None:
    bench.python("50.web", "import os\ndef monitor():\n    1 / 0\n")
    bench.python("40.web", "import os\ndef recovered():\n    os._exit(3)\n")

    async def go() -> list[str]:
        async with bench.running() as engine:
            events = (Event.MONITOR, Event.RECOVERED)
            results = [await engine.run(event) for event in events]
            return [one.failure.reason for one in results if one.failure is not None]

    assert run_async(go()) == ["ZeroDivisionError: division by zero (50.web line 4)", ""]


TRACEBACK = """\
starting
Traceback (most recent call last):
  File "/usr/local/bin/probe", line 7, in <module>
    main()
  File "/usr/local/bin/probe", line 3, in main
    raise ValueError("bad\\nworse")
ValueError: bad
worse
"""


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", ""),
        ("\n\nno answer on port 80\nstarting it again\n", "no answer on port 80"),
        ("checking\nERROR: the disk is full\ndetails\n", "ERROR: the disk is full"),
        ("checking\nError, no disk\n", "Error, no disk"),
        ("errors: 0\nno disk\n", "errors: 0"),
        (TRACEBACK, "ValueError: bad (probe line 3)"),
        ("Traceback (most recent call last):\n  File", "Traceback (most recent call last):"),
    ],
)
def test_the_reason_in_the_output_of_any_other_script(output: str, reason: str) -> None:
    assert reason_of_output(output) == reason


def test_a_shell_script_that_fails(bench: Bench) -> None:
    bench.shell("50.web", "echo checking; echo 'error: no disk' >&2; exit 1\n")
    assert failure(bench).reason == "error: no disk"
