"""``locum event``: run as a user does, without a daemon and against a fake one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from locum.api.answers import success
from locum.events.local import default_runtime
from tests.unit.api.fake_daemon import fake_daemon
from tests.unit.bench import SHELL, Bench, alive, until


class Locum:
    """Runs ``locum event`` as a program, with its files below the bench."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("LOCUM")},
            "LOCUM_SOCKET": str(bench.file("no.sock")),
        }
        self.err = ""

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "locum.cli.main", "event", *arguments]

    def __call__(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, check=False
        )
        self.err = done.stderr
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr or "said:" in done.stderr
        return done.stdout

    def here(self, command: str, *arguments: str, status: int = 0) -> str:
        """Without a daemon."""
        options = ["--dir", str(self.bench.scripts)]
        if command in ("run", "status"):
            options += ["--runtime", str(self.bench.runtime)]
        return self(command, *options, *arguments, status=status)


@pytest.fixture
def locum(bench: Bench) -> Locum:
    return Locum(bench)


def without_times(text: str) -> list[str]:
    return re.sub(r" +\d+\.\d{3} s", "T", text).splitlines()


# -- run -----------------------------------------------------------------------------------------------------


def test_one_line_per_script_and_the_failing_scripts_status(locum: Locum, bench: Bench) -> None:
    bench.shell("10.good", "echo; echo '  first line'; echo second\n")
    bench.script("20.off", SHELL, mode=0o644)
    bench.python("30.other", "def startup(): pass\n")
    bench.shell("40.bad", "echo why; echo details; exit 17\n")
    bench.shell("50.never", "exit 0\n")
    assert without_times(locum.here("run", "monitor", status=17)) == [
        "10.good              okT  first line",
        "20.off               disabled",
        "30.other             not-handled",
        "40.bad               failed (17)T  why",
    ]
    assert locum.err == "40.bad said:\n    why\n    details\n"


def test_lines_appear_as_scripts_end(locum: Locum, bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")
    bench.shell("20.b", f"while [ ! -e {bench.file('gate')} ]; do sleep 0.01; done\n")
    arguments = ["run", "--dir", str(bench.scripts), "--runtime", str(bench.runtime), "monitor"]
    with subprocess.Popen(locum.command(*arguments), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("10.a")
        bench.file("gate").touch()
        assert process.stdout.readline().startswith("20.b")


def test_output_cannot_command_the_terminal(locum: Locum, bench: Bench) -> None:
    bench.shell("10.evil", "printf 'a\\033[31m\\007b\\r\\n'\n")
    assert "\x1b" not in locum.here("run", "monitor")
    assert "a\\x1b[31m\\x07b" in locum.here("run", "-v", "monitor")


def test_settings_arguments_and_environment(locum: Locum, bench: Bench) -> None:
    bench.shell("50.web", 'echo "$* $LOCUM_SETTING_PORT $LOCUM_SETTING_NAME $LOCUM_INTERFACES ${LOCUM_SOCKET-none}"\n')
    locum.environment["LOCUM_INTERFACES"] = "eth7"
    out = locum.here("run", "--set", "50.web:port=[1, 2]", "--set", "50.web:name=a b", "takeip", "eth0", "::1", "64")
    assert "takeip eth0 ::1 64 1 2 a b eth7 none" in out


def test_settings_of_a_configuration(locum: Locum, bench: Bench) -> None:
    bench.shell("50.web", 'echo "$LOCUM_NODE $LOCUM_SETTING_PORT $LOCUM_INTERFACES $LOCUM_CONFIG"\n')
    config = bench.file("locum.toml")
    config.write_text(
        '[node]\nname = "n7"\n[cluster]\nstore = "memory:"\n[scripts."50.web"]\nport = 81\n'
        '[[address]]\naddress = "10.0.0.1/24"\ninterfaces = ["eth0", "eth1"]\n'
    )
    assert f"n7 81 eth0,eth1 {config}" in locum.here("run", "--config", str(config), "monitor")
    config.write_text('[nod]\nname = "n7"\n')
    locum.here("run", "--config", str(config), "monitor", status=2)
    assert "nod" in locum.err


def test_state_is_kept_from_run_to_run(locum: Locum, bench: Bench) -> None:
    bench.python(
        "50.web",
        "from locum.script import state_dir, log\nimport os\n"
        "def takeip(*a): open(state_dir() + '/taken', 'w').close()\n"
        "def recovered(): log(os.listdir(state_dir()))\n",
    )
    locum.here("run", "takeip", "eth0", "10.0.0.1", "24")
    assert "['taken']" in locum.here("run", "recovered")


def test_json(locum: Locum, bench: Bench) -> None:
    bench.shell("10.a", "echo out; exit 3\n")
    result: Any = json.loads(locum.here("run", "--json", "monitor", status=3))
    assert result["event"] == "monitor"
    assert result["scripts"][0] | {"started": 0, "seconds": 0} == {
        "script": "10.a",
        "outcome": "failed",
        "status": 3,
        "started": 0,
        "seconds": 0,
        "output": "out\n",
        "reason": "out",
    }


def test_a_time_out(locum: Locum, bench: Bench) -> None:
    bench.shell("10.a", "sleep 1000\n")
    out = locum.here("run", "--timeout", "0.3", "monitor", status=124)
    assert "timeout (124)" in out
    assert "sleep 1000" in locum.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_kills_the_script_not_the_report(locum: Locum, bench: Bench, number: int) -> None:
    bench.shell("10.a", f"trap '' INT TERM; echo $$ >{bench.file('pid')}; sleep 1000\n")
    arguments = ["run", "--dir", str(bench.scripts), "--runtime", str(bench.runtime), "monitor"]
    with subprocess.Popen(locum.command(*arguments), stdout=subprocess.PIPE, text=True) as process:
        (pid,) = until(lambda: bench.lines("pid"))
        process.send_signal(number)
        out, _ = process.communicate()
    assert "cancelled" in out
    assert process.returncode == 137
    assert not alive(int(pid))


def test_i5_two_runs_over_one_directory_do_not_overlap(locum: Locum, bench: Bench) -> None:
    bench.shell("10.a", f"echo $$ >{bench.file('pid')}; exec sleep 1000\n")
    arguments = ["run", "--dir", str(bench.scripts), "--runtime", str(bench.runtime), "monitor"]
    with subprocess.Popen(locum.command(*arguments), stdout=subprocess.DEVNULL) as first:
        until(lambda: bench.lines("pid"))
        locum.here("run", "monitor", status=1)
        assert f"in use by process {first.pid}, which runs event scripts" in locum.err
        first.kill()
    # Nobody saw the end of its script: the next run ends it first.
    (pid,) = bench.lines("pid")
    assert alive(int(pid))
    bench.shell("10.a", "exit 0\n")
    locum.here("run", "monitor")
    assert not alive(int(pid))


def test_wrong_calls_are_one_clear_message(locum: Locum, bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")
    for arguments, message in [
        (("monitr",), "unknown event 'monitr'; the events are init, setup, startup, shutdown, monitor"),
        (("takeip", "eth0"), "event takeip takes INTERFACE ADDRESS MASKBITS; 1 given"),
        (("monitor", "x"), "event monitor takes no arguments; 1 given"),
        (("--set", "port=80", "monitor"), "--set 'port=80': write SCRIPT:KEY=VALUE"),
        (("--timeout", "0", "monitor"), "timeout"),
    ]:
        locum.here("run", *arguments, status=2)
        assert message in locum.err, locum.err
        assert locum.err.startswith("locum: ")
    locum("run", "--timeout", "5", "monitor", status=2)
    assert "--timeout, --config, --set and --runtime go with --dir" in locum.err


def test_bad_directories_are_named(locum: Locum, bench: Bench) -> None:
    locum.here("run", "monitor", status=2)
    assert locum.err == f"locum: {bench.scripts}: holds no event script (NN.name)\n"
    bench.shell("10.a", "exit 0\n")
    bench.script("10.b", "x", mode=0o777)
    for command in (("run", "monitor"), ("check",), ("list",)):
        locum.here(*command, status=2)
        assert len(locum.err.splitlines()) == 3
        assert "10.a and 10.b: have the same number" in locum.err
    locum("run", "--dir", "/no/such", "monitor", status=2)
    assert locum.err == "locum: /no/such: there is no such script directory\n"


def test_the_default_place_is_private(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(bench.place))
    with pytest.raises(Exception, match=r"belongs to user .*; give --runtime DIR"):
        default_runtime(str(bench.scripts))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(bench.place))
    if os.geteuid() != 0:
        assert default_runtime("/a/b-c").endswith("/locum-event/a-b--c")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_root_runs_no_event_with_directories_of_another_user(locum: Locum, bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")
    theirs = bench.place / "theirs"
    theirs.mkdir()
    os.chown(theirs, 64123, 64123)
    locum("run", "--dir", str(bench.scripts), "--runtime", str(theirs / "deep"), "monitor", status=2)
    assert f"{theirs} belongs to user 64123" in locum.err
    assert list(theirs.iterdir()) == []


# -- list, check, enable, disable ----------------------------------------------------------------------------


def test_list(locum: Locum, bench: Bench) -> None:
    bench.shell("10.text", "case $1 in monitor) ;; esac\n")
    bench.script("20.off", SHELL + "# startup\n", mode=0o644)
    bench.python("30.python", "def takeip(i, a, m): pass\n")
    bench.shell("40.any", 'exec something "$@"\n')
    bench.script("README", "hello", mode=0o644)
    assert locum.here("list").splitlines() == [
        "SCRIPT     STATE     KIND    EVENTS",
        "10.text    enabled   script  monitor",
        "20.off     disabled  script  startup",
        "30.python  enabled   python  takeip",
        "40.any     enabled   script  any",
    ]
    assert locum.err.startswith("locum: README: is not named NN.name")
    shown: Any = json.loads(locum.here("list", "--json"))
    assert [script["events"] for script in shown["scripts"]] == [["monitor"], ["startup"], ["takeip"], None]
    assert [(one["place"], one["fault"], one["ignored"]) for one in shown["problems"]] == [
        ("20.off", False, True),
        ("README", False, True),
    ]
    # As with ip, node and the others, "list" is what the group does by itself.
    assert locum("--dir", str(bench.scripts)) == locum.here("list")


def test_check(locum: Locum, bench: Bench) -> None:
    bench.shell("10.a", "exit 0\n")
    bench.script("20.b", SHELL, mode=0o644)
    bench.script("README", "hello", mode=0o644)
    bench.shell("10.a.dpkg-dist", "exit 1\n")
    assert locum.here("check").splitlines() == [
        "10.a.dpkg-dist: is a copy of the kind that a package manager leaves (.dpkg-dist), so it never runs",
        "20.b: is not executable, so it never runs",
        "README: is not named NN.name or NN.name.script, so it never runs",
        f"{bench.scripts}: 2 scripts, 1 enabled, 3 files that never run, no problem",
    ]
    bench.python("30.c", "def takeip(x): pass\n")
    bench.shell("backup", "exit 0\n")
    locum.here("check", status=2)
    assert len(locum.err.splitlines()) == 2


def test_enable_and_disable(locum: Locum, bench: Bench) -> None:
    path = bench.script("50.web", SHELL, mode=0o644)
    assert locum.here("enable", "web") == "50.web is enabled\n"
    assert os.access(path, os.X_OK)
    assert locum.here("enable", "50.web") == "50.web is enabled already\n"
    assert locum.here("disable", "50.web") == "50.web is disabled\n"
    assert path.stat().st_mode & 0o777 == 0o644
    locum.here("enable", "nfs", status=2)
    assert "unknown script 'nfs'" in locum.err
    bench.script("60.bad", "no shebang\n", mode=0o644)
    locum.here("enable", "60.bad", status=2)
    assert locum.err.startswith("locum: 60.bad: starts with neither")


# -- status --------------------------------------------------------------------------------------------------


def test_status(locum: Locum, bench: Bench) -> None:
    assert locum.here("status") == "no event has run yet\n"
    bench.shell("10.a", "echo hello\n")
    bench.shell("20.b", "echo bad; echo worse; exit 4\n")
    bench.python("30.c", "def startup(): pass\n")
    locum.here("run", "monitor", status=4)
    locum.here("run", "recovered", status=4)
    lines = re.sub(r"\d+\.\d{3}  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "T", locum.here("status")).splitlines()
    assert lines == [
        "EVENT      SCRIPT  RESULT      SECONDS  STARTED              OUTPUT",
        "monitor    10.a    ok            T  hello",
        "monitor    20.b    failed (4)    T  bad",
        "recovered  10.a    ok            T  hello",
        "recovered  20.b    failed (4)    T  bad",
        "",
        "monitor 20.b:",
        "    bad",
        "    worse",
        "",
        "recovered 20.b:",
        "    bad",
        "    worse",
    ]
    shown: Any = json.loads(locum.here("status", "--json", "recovered"))
    assert [one["event"] for one in shown] == ["recovered"]
    assert shown[0]["scripts"][1]["output"] == "bad\nworse\n"
    assert locum.here("status", "init") == "never run\n"
    locum.here("status", "nosuch", status=2)


# -- with a daemon -------------------------------------------------------------------------------------------

RESULT = {
    "event": "monitor",
    "arguments": [],
    "started": 1.0,
    "seconds": 0.5,
    "scripts": [
        {"script": "10.a", "outcome": "ok", "status": 0, "started": 1.0, "seconds": 0.25, "output": "fine\n"},
        {"script": "20.b", "outcome": "failed", "status": 9, "started": 1.0, "seconds": 0.25, "output": "bad\n"},
    ],
}


def test_the_daemon_runs_and_tells(locum: Locum, bench: Bench, tmp_path: Path) -> None:
    bench.script("10.a", SHELL, mode=0o644)

    def answer(request: dict[str, Any]) -> object:
        return success(
            {
                "event-list": {"directory": str(bench.scripts), "scripts": []},
                "event-run": RESULT,
                "event-status": {"monitor": {"event": "monitor", "last": RESULT, "scripts": RESULT["scripts"]}},
            }[request["op"]]
        )

    with fake_daemon(tmp_path / "control.sock", answer) as daemon:
        locum.environment["LOCUM_SOCKET"] = daemon.path
        assert without_times(locum("run", "monitor", status=9)) == [
            "10.a                 okT  fine",
            "20.b                 failed (9)T  bad",
        ]
        assert daemon.requests[-1] == {"op": "event-run", "event": "monitor", "arguments": []}
        assert "20.b    failed (9)    0.250" in locum("status")
        assert "10.a    disabled" in locum("list")
        assert locum("enable", "10.a") == "10.a is enabled\n"
        assert "1 script, 1 enabled, no problem" in locum("check")


def test_without_a_daemon_the_message_says_what_to_do(locum: Locum, bench: Bench) -> None:
    for command in (("list",), ("status",), ("check",), ("run", "monitor"), ("enable", "x"), ("disable", "x")):
        locum(*command, status=1)
        assert f"no Locum daemon at {bench.file('no.sock')}" in locum.err
        assert "give --dir DIR" in locum.err


def test_a_daemon_of_another_version(locum: Locum, tmp_path: Path) -> None:
    with fake_daemon(tmp_path / "control.sock", lambda _: success({"something": "else"})) as daemon:
        locum.environment["LOCUM_SOCKET"] = daemon.path
        for command in (("list",), ("status",), ("run", "monitor")):
            locum(*command, status=1)
            assert "update 'locum' and the daemon to the same version" in locum.err
