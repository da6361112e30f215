"""Scripts of Python functions: by hand through their first line, and forked by the runner, with the same outcome."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from locum.events.model import Event
from tests.unit.bench import PYTHON, Bench

#: body of the script, exit status of monitor, output of monitor ({path} is the script's)
CASES = {
    "success": ("def monitor(): print('fine')", 0, "fine\n"),
    "nothing to do": ("def startup(): pass", 0, ""),
    "fail": ("from locum.script import Fail\ndef monitor(): raise Fail('no disk')", 1, "no disk\n"),
    "fail with a status": ("from locum.script import Fail\ndef monitor(): raise Fail('no disk', 7)", 7, "no disk\n"),
    "a number": ("def monitor(): return 3", 3, ""),
    "zero": ("def monitor(): return 0", 0, ""),
    "a number too large": ("def monitor(): return 256", 1, ""),
    "a negative number": ("def monitor(): return -1", 1, ""),
    "exit": ("import sys\ndef monitor(): sys.exit(4)", 4, ""),
    "exit with a message": ("import sys\ndef monitor(): sys.exit('gone')", 1, "gone\n"),
    "output, then a failure": (
        "from locum.script import Fail\ndef monitor():\n    print('one', end=' ')\n    raise Fail('two')",
        1,
        "one two\n",
    ),
    "an exception": (
        "def monitor():\n    check()\ndef check():\n    return 1 // 0",
        1,
        "Traceback (most recent call last):\n"
        '  File "{path}", line 3, in monitor\n    check()\n'
        '  File "{path}", line 5, in check\n    return 1 // 0\n           ~~^^~~\n'
        "ZeroDivisionError: integer division or modulo by zero\n",
    ),
    "an exception at the top": (
        "def monitor(): pass\nraise RuntimeError('oh')",
        1,
        "Traceback (most recent call last):\n  File \"{path}\", line 3, in <module>\n    raise RuntimeError('oh')\n"
        "RuntimeError: oh\n",
    ),
    "wrong parameters": (
        "def monitor(x): pass",
        1,
        "Traceback (most recent call last):\nTypeError: monitor() missing 1 required positional argument: 'x'\n",
    ),
    "what is not text": ("def monitor(): print('\\udcff\\u00e9')", 0, "\\udcffé\n"),
    "exit handlers": ("import atexit\ndef monitor(): atexit.register(print, 'bye')", 0, "bye\n"),
    "dataclasses and a name": (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: 'int' = 1\ndef monitor(): print(A(), __name__)",
        0,
        "A(x=1) locum_event_script\n",
    ),
    "a function that is none": ("monitor = 3", 1, None),
    "true": ("def monitor(): return True", 1, None),
    "a word": ("def monitor(): return 'broken'", 1, None),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand_and_forked(bench: Bench, name: str) -> None:
    body, status, expected = CASES[name]
    path = bench.script("50.web", f"{PYTHON}{body}\n")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    by_hand = subprocess.run(
        [str(path), "monitor"], env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL
    )
    output = (by_hand.stdout + by_hand.stderr).decode()
    assert by_hand.returncode == status, output
    (forked,) = bench.run(Event.MONITOR).scripts
    assert forked.status == status
    if name != "nothing to do":
        assert forked.output == output
    if expected is not None:
        lines = [line for line in output.splitlines() if not (name == "wrong parameters" and line.startswith(" "))]
        assert "\n".join([*lines, ""]) == expected.format(path=path) or (output, expected) == ("", "")


def test_what_is_neither_success_nor_failure_is_explained(bench: Bench) -> None:
    bench.python("50.web", "def monitor(): return True\n")
    (result,) = bench.run(Event.MONITOR).scripts
    assert result.output == (
        "monitor() returned True, which is neither success nor failure: return nothing (or 0) for success,"
        " raise locum.script.Fail(reason) for failure\n"
    )


def test_arguments(bench: Bench) -> None:
    bench.python("50.web", "def updateip(old_interface, new_interface, address, maskbits=0):\n    print(locals())\n")
    (result,) = bench.run(Event.UPDATEIP, "eth0", "eth1", "10.0.0.1", "24").scripts
    assert result.output == str(
        {"old_interface": "eth0", "new_interface": "eth1", "address": "10.0.0.1", "maskbits": "24"}
    ) + "\n"  # fmt: skip


def test_output_until_a_hard_end_is_kept(bench: Bench) -> None:
    bench.python("50.web", "import os\ndef monitor():\n    print('almost')\n    os.kill(os.getpid(), 9)\n")
    (result,) = bench.run(Event.MONITOR).scripts
    assert result.output == "almost\n[ended by SIGKILL]\n"


def test_a_crash_of_the_interpreter_shows_where(bench: Bench) -> None:
    bench.python("50.web", "import os, signal\ndef monitor():\n    os.kill(os.getpid(), signal.SIGSEGV)\n")
    (result,) = bench.run(Event.MONITOR).scripts
    assert "Fatal Python error: Segmentation fault" in result.output
    assert "line 4 in monitor" in result.output
    assert result.output.endswith("[ended by SIGSEGV]\n")


def test_scripts_do_not_see_what_others_did(bench: Bench) -> None:
    text = "import os, sys, locum.script\ndef monitor():\n    print(hasattr(sys, 'mark'), 'MARK' in os.environ)\n"
    text += "    sys.mark = 1\n    os.environ['MARK'] = '1'\n    os.chdir('/tmp')\n"
    for name in ("10.a", "20.b"):
        bench.python(name, text)
    result = bench.run(Event.MONITOR)
    assert [one.output for one in result.scripts] == ["False False\n", "False False\n"]


def test_modules_of_the_daemon_are_there(bench: Bench) -> None:
    bench.python("50.web", "def monitor():\n    import msgspec, subprocess\n    print(subprocess.call(['true']))\n")
    (result,) = bench.run(Event.MONITOR).scripts
    assert result.output == "0\n"


def locum_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "locum.events.script_main", *arguments], capture_output=True, text=True, check=False
    )


def test_called_wrongly(bench: Bench) -> None:
    assert locum_script().returncode == 2
    assert locum_script("--help").stdout.startswith("usage: SCRIPT EVENT")
    path = str(bench.python("50.web", "def monitor(): pass\ndef startup(): pass\n"))
    done = locum_script(path)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"{path} handles: startup, monitor")
    done = locum_script("/no/such/script", "monitor")
    assert (done.returncode, done.stderr) == (2, "cannot read /no/such/script: No such file or directory\n")
    done = locum_script(str(bench.python("60.bad", "def (\n")), "monitor")
    assert done.returncode == 2
    assert "60.bad, line 2: invalid syntax" in done.stderr


def test_started_by_hand_it_knows_its_name(bench: Bench) -> None:
    path = bench.python("50.web.script", "from locum.script import script_name\ndef monitor(): print(script_name())\n")
    assert locum_script(str(path), "monitor").stdout == "50.web\n"
