"""The entry point: what is imported, and that every ending is one message and a status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from locum import __version__
from locum.api.answers import success
from locum.cli import main as entry
from locum.cli.groups import LazyGroup
from locum.cli.main import APART, COMMANDS, main
from tests.unit.api.fake_daemon import fake_daemon
from tests.unit.cli.conftest import Command, Scene, status_of


def locum(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``locum`` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "locum.cli.main", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def imported(*arguments: str, **environment: str) -> set[str]:
    """The modules that a run imports."""
    code = "import sys\nfrom locum.cli.main import main\nmain(sys.argv[1:])\nprint(*sys.modules, file=sys.stderr)"
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(run.stderr.splitlines()[-1].split())


def test_help_shows_every_command_and_imports_none() -> None:
    modules = imported("--help")
    assert not {name for name in modules if name.startswith("locum.cli.")} - {"locum.cli.main", "locum.cli.groups"}
    text = locum("--help").stdout
    assert all(f"\n  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("command", [["status"], ["ip"], ["node", "enable"], ["tunable"]])
def test_common_commands_import_little(tmp_path: Path, command: list[str]) -> None:
    """They answer in 0.15 s because of what they do not import; this is what can be tested on any machine."""
    scene = Scene()
    with fake_daemon(tmp_path / "s", scene.answer) as daemon:
        modules = imported(*command, LOCUM_SOCKET=daemon.path)
    heavy = {"asyncio", "rich", "json", "subprocess", "ipaddress", "ctypes", "difflib", "logging"}
    heavy |= {"locum.rules", "locum.store"}
    assert not heavy & modules


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_imported_and_explains_itself(name: str) -> None:
    group = entry.cli
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_version() -> None:
    assert locum("--version").stdout == f"locum {__version__}\n"


def test_no_arguments_show_the_help() -> None:
    run = locum()
    assert run.returncode == 2
    assert "Commands:" in run.stdout + run.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["statsu"], "unknown command 'statsu': did you mean 'status'?"),
        (["node", "disbale"], "did you mean 'disable'?"),
        (["node", "x"], "there are list, disable"),
        (["status", "--jsno"], "no such option"),
        (["ip", "move"], "missing argument 'ADDRESS'"),
        (["node", "ban", "--seconds", "soon"], "'soon' is not a number of seconds"),
        (["event", "lits"], "did you mean 'list'?"),
        (["lab", "stauts"], "did you mean 'status'?"),
        (["shutdown", "--timeout", "-1"], "'-1' is not a number of seconds from 0.1 to 86400"),
    ],
)
def test_wrong_usage(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("locum: ")
    assert text in error
    assert "--help' shows how it is used" in error


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999", "", "5s"])
@pytest.mark.parametrize(
    "command",
    [
        "node ban n1 --seconds",
        "node disable n1 --wait",
        "ip move 10.0.0.1 n1 --wait",
        "shutdown --timeout",
        "event run monitor --dir / --timeout",
        "connections kill 10.0.0.1 --port",
        "lab probe --seconds",
    ],
)
def test_a_number_that_is_none_is_refused_before_anything_is_asked(command: str, number: str, locum: Command) -> None:
    """JSON makes null of "not a number": the daemon would take its default."""
    locum(*command.split(), number, status=2)
    assert f"{number!r} is not a " in locum.err
    assert locum.daemon.requests == []


@pytest.mark.parametrize("name", ["ip", "node", "event", "tunable", "connections", "lab"])
def test_the_help_of_a_group_cuts_no_sentence(name: str) -> None:
    group = entry.cli.get_command(click.Context(entry.cli), name)
    assert group is not None
    table = group.get_help(click.Context(group, max_content_width=80)).split("Commands:")[1]
    assert "..." not in table
    assert table.count(".\n") + table.endswith(".") >= 3


def test_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--socket", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith(f"locum: no Locum daemon at {tmp_path}/none: is it running")


def test_a_defect_is_one_line_and_a_traceback_only_on_request(locum: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("cannot happen")

    monkeypatch.setattr("locum.cli.status.ask_status", broken)
    locum("status", status=1)
    assert locum.err == "locum: unexpected ValueError: cannot happen; LOCUM_DEBUG=1 in the environment shows where\n"
    monkeypatch.setenv("LOCUM_DEBUG", "1")
    with pytest.raises(ValueError, match="cannot happen"):
        main(["status"])


def test_an_encoding_that_lacks_a_character_is_no_failure(tmp_path: Path) -> None:
    scene = Scene()
    status = {**status_of(scene.view), "cause": "größer\x1b[2J…"}
    with fake_daemon(tmp_path / "s", lambda _: success(status)) as daemon:
        run = locum("status", LOCUM_SOCKET=daemon.path, PYTHONIOENCODING="ascii")
    assert run.returncode == 0
    assert r"gr\xf6\xdfer\x1b[2J\u2026" in run.stdout


def test_a_command_may_end_with_a_status_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("own")
    @click.pass_context
    def own(ctx: click.Context) -> None:
        ctx.exit(42)

    monkeypatch.setattr(entry.cli, "get_command", lambda *_: own)
    monkeypatch.setattr(entry.cli, "list_commands", lambda _: ["own"])
    assert main(["own"]) == 42


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Whoever runs the tests in the background has SIGINT ignored, and commands would inherit that."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_watch_quietly(tmp_path: Path) -> None:
    scene = Scene()

    pause = threading.Event()

    def answer(_: object) -> object:
        yield success(status_of(scene.view))
        pause.wait(60)

    with fake_daemon(tmp_path / "s", answer) as daemon:
        process = subprocess.Popen(
            [sys.executable, "-m", "locum.cli.main", "status", "--watch", "--socket", daemon.path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Seen by")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
        pause.set()
    assert process.returncode == 130
    assert error.strip() == ""


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    scene = Scene()
    status = status_of(scene.view)
    status["warnings"] = ["x" * 1000] * 1000
    with fake_daemon(tmp_path / "s", lambda _: success(status)) as daemon:
        run = subprocess.run(
            ["sh", "-c", f'{{ {sys.executable} -m locum.cli.main status; echo "$?" >&2; }} | head -n 1'],
            # An unbuffered Python does not notice that only a part was written.
            env={**os.environ, "LOCUM_SOCKET": daemon.path, "PYTHONUNBUFFERED": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert run.stdout == "Seen by  n2\n"
    assert run.stderr == "141\n"


def test_check_config_lists_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "locum.toml"
    config.write_text('[node]\nname = 5\n[cluster]\nstore = "what"\n')
    assert main(["check-config", str(config)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith(f"locum: {config}") for line in lines)


def test_a_command_of_a_distribution_that_is_not_installed_says_how_to_install_it() -> None:
    group = LazyGroup("tool", lazy={"try": ("not_installed.here:command", "Tries.")}, apart={"not_installed": "extra"})
    with pytest.raises(click.ClickException, match=r"'tool try' is not installed: install extra$"):
        group.main(["try", "--help"], prog_name="tool", standalone_mode=False)
    # The lab is in the checkout. A package index may have another program of that name, or none.
    assert "pip install ./lab" in APART["locum_lab"]


def test_a_defect_in_such_a_distribution_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("import a_library_that_is_missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    group = LazyGroup("tool", lazy={"try": ("broken_package:command", "Tries.")}, apart={"broken_package": "extra"})
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_missing"):
        group.main(["try"], prog_name="tool", standalone_mode=False)
