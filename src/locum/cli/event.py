"""``locum event``: the event scripts of a node, with its daemon or without (``--dir``).

Arguments in, calls of :mod:`locum.events` or of the daemon out, results printed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import msgspec

from locum import escape
from locum.api.client import call_raw
from locum.cli import output
from locum.cli.ask import decode
from locum.cli.groups import DefaultGroup
from locum.cli.options import Number, asking_options, socket_option
from locum.cli.output import Cell, Content
from locum.config.tunables import Tunables
from locum.control_socket import NoDaemon
from locum.errors import LocumError, ScriptDirectoryError, UsageError
from locum.events.directory import Listing, ScriptDirectory
from locum.events.model import Event, EventResult, EventStatus, Kind
from locum.events.runner.results import Outcome, ScriptResult

#: Limit of an event's run, in seconds: each script may use its whole time.
_RUN_LIMIT = 24 * 3600.0
#: Width of the column of results in the lines of a run.
_RESULT_WIDTH = 13

_STYLES = {
    Outcome.OK: "green",
    Outcome.FAILED: "red",
    Outcome.TIMEOUT: "red",
    Outcome.CANCELLED: "yellow",
    Outcome.DISABLED: "dim",
    Outcome.NOT_HANDLED: "dim",
}


def dir_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--dir``: no daemon."""
    option = click.option(
        "--dir", "directory", type=click.Path(), metavar="DIR", help="Use this script directory, and no daemon."
    )
    return option(function)


@click.group("event", cls=DefaultGroup)
def event() -> None:
    """List the event scripts (also without a command), run them, show their results."""


@event.command("list")
@dir_option
@asking_options
def list_scripts(directory: str | None, socket_path: str, as_json: bool) -> None:
    """List the scripts in the order in which they run, and the events that each handles."""
    listing = ScriptDirectory(_directory(directory, socket_path)).scan()
    if as_json:
        output.emit_json(listing)
    elif listing.scripts:
        rows: list[list[Content]] = [
            [
                script.name,
                Cell("enabled", "green") if script.enabled else Cell("disabled", "dim"),
                script.kind.value,
                "any" if script.events is None else " ".join(script.events) or "-",
            ]
            for script in listing.scripts
        ]
        output.emit(output.table(["SCRIPT", "STATE", "KIND", "EVENTS"], rows, output.screen()))
    _complain(listing)


@event.command("check")
@dir_option
@socket_option
def check(directory: str | None, socket_path: str) -> None:
    """Report every problem of the script directory; exit status 2 when there is one.

    Files that never run (copies that editors and package managers leave, other names, scripts that are not executable)
    are listed as well; they are not problems.
    """
    found = ScriptDirectory(_directory(directory, socket_path)).scan()
    ignored = [problem for problem in found.problems if problem.ignored]
    for problem in ignored:
        click.echo(output.clean(str(problem)))
    found.check()
    enabled = sum(script.enabled for script in found.scripts)
    never = f", {output.count(len(ignored), 'file')} that never run" if ignored else ""
    count = output.count(len(found.scripts), "script")
    click.echo(f"{found.directory}: {count}, {enabled} enabled{never}, no problem")


@event.command("enable")
@click.argument("script")
@dir_option
@socket_option
def enable(script: str, directory: str | None, socket_path: str) -> None:
    """Enable SCRIPT, from the next event on."""
    _switch(script, True, _directory(directory, socket_path))


@event.command("disable")
@click.argument("script")
@dir_option
@socket_option
def disable(script: str, directory: str | None, socket_path: str) -> None:
    """Disable SCRIPT, from the next event on."""
    _switch(script, False, _directory(directory, socket_path))


@event.command("run")
@click.argument("name", metavar="EVENT")
@click.argument("arguments", nargs=-1, metavar="[ARGUMENT]...")
@dir_option
@click.option(
    "--timeout",
    type=Number("a number of seconds", 0.1, 86400),
    metavar="SECONDS",
    help="With --dir: limit of each script, in place of MonitorTimeout and EventTimeout.",
)
@click.option("--config", type=click.Path(), metavar="FILE", help="With --dir: settings, tunables, the node's name.")
@click.option("--set", "assignments", multiple=True, metavar="SCRIPT:KEY=VALUE", help="With --dir: a script's setting.")
@click.option("--runtime", type=click.Path(), metavar="DIR", help="With --dir: LOCUM_RUNTIME; state is below it.")
@click.option("-v", "--verbose", is_flag=True, help="Print the whole output of every script.")
@asking_options
@click.pass_context
def run(
    ctx: click.Context,
    *,
    name: str,
    arguments: tuple[str, ...],
    directory: str | None,
    timeout: float | None,
    config: str | None,
    assignments: tuple[str, ...],
    runtime: str | None,
    verbose: bool,
    as_json: bool,
    socket_path: str,
) -> None:
    """Run the scripts for EVENT, one after the other, until one fails.

    Print one line per script: its result, its duration, the first line of its output; after a failure, print its whole
    output on standard error. The exit status is the failing script's.

    A running daemon accepts monitor, ipreallocated, recovered, startrecovery and startipreallocate, and runs the others
    by itself. With --dir, any event.
    """
    from locum.events.decisions import parse_event  # noqa: PLC0415

    wanted = parse_event(name, arguments)
    show: Callable[[ScriptResult], None] = (lambda _: None) if as_json else _Lines(verbose).show
    if directory is not None:
        result = _run_here(directory, wanted, arguments, timeout, config, assignments, runtime, show)
    else:
        if timeout or config or assignments or runtime:
            raise UsageError("--timeout, --config, --set and --runtime go with --dir: the daemon has its own")
        result = _run_there(socket_path, wanted, arguments)
        for one in result.scripts:
            show(one)
    if as_json:
        output.emit_json(result)
    failure = result.failure
    if failure is not None:
        if not as_json and not verbose:
            _explain(failure)
        ctx.exit(failure.status or 1)


@event.command("status")
@click.argument("name", metavar="[EVENT]", required=False)
@dir_option
@click.option("--runtime", type=click.Path(), metavar="DIR", help="With --dir: the --runtime of 'event run'.")
@click.option("-v", "--verbose", is_flag=True, help="Print the whole output of every script.")
@asking_options
def status(
    *, name: str | None, directory: str | None, runtime: str | None, verbose: bool, as_json: bool, socket_path: str
) -> None:
    """Show the last result of each script of each event, or of EVENT, with the output of failed scripts."""
    if name is not None and name not in list(Event):
        raise UsageError(f"unknown event {name!r}; the events are {', '.join(Event)}")
    if directory is not None:
        from locum.events.local import default_runtime  # noqa: PLC0415
        from locum.events.status import StatusBook  # noqa: PLC0415

        book = StatusBook(runtime or default_runtime(directory))
        book.read()
        known: Mapping[Event, EventStatus] = book.snapshot()
    else:
        known = _ask(socket_path, {"op": "event-status"}, dict[Event, EventStatus])
    shown = [known[one] for one in Event if one in known and (name is None or one == name)]
    if as_json:
        output.emit_json(shown)
        return
    if not shown:
        click.echo("never run" if name else "no event has run yet")
        return
    rows = [_status_row(one.event, result) for one in shown for result in one.scripts if name or _is_news(result)]
    heads = ["EVENT", "SCRIPT", "RESULT", "SECONDS", "STARTED", "OUTPUT"]
    output.emit(output.table(heads, rows, output.screen(), right=["SECONDS"]))
    for one in shown:
        for result in one.scripts:
            if result.output.strip() and (verbose or result.outcome in (Outcome.FAILED, Outcome.TIMEOUT)):
                output.emit(["", f"{one.event} {result.script}:", *_indented(result.output)])


# -- the daemon ----------------------------------------------------------------------------------------------


class _EventList(msgspec.Struct):
    directory: str


def _ask(socket_path: str, request: Mapping[str, object], kind: type, timeout: float = 30.0) -> Any:
    try:
        answer = call_raw(socket_path, request, timeout)
    except NoDaemon as error:
        raise LocumError(f"{error}; without a daemon, give --dir DIR") from None
    return decode(answer, kind)


def _directory(directory: str | None, socket_path: str) -> str:
    """The directory that was given, or the daemon's."""
    if directory is not None:
        return os.path.abspath(directory)
    answer: _EventList = _ask(socket_path, {"op": "event-list"}, _EventList)
    return answer.directory


def _run_there(socket_path: str, wanted: Event, arguments: Sequence[str]) -> EventResult:
    request = {"op": "event-run", "event": wanted.value, "arguments": list(arguments)}
    result: EventResult = _ask(socket_path, request, EventResult, _RUN_LIMIT)
    return result


# -- without a daemon ----------------------------------------------------------------------------------------


def _run_here(
    directory: str,
    wanted: Event,
    arguments: Sequence[str],
    timeout: float | None,
    config: str | None,
    assignments: Sequence[str],
    runtime: str | None,
    show: Callable[[ScriptResult], None],
) -> EventResult:
    from locum.events import local  # noqa: PLC0415

    settings: dict[str, dict[str, object]] = {}
    tunables = Tunables()
    environment = {"LOCUM_NODE": os.uname().nodename}
    if config is not None:
        from locum.config.load import load  # noqa: PLC0415

        loaded = load(config)
        settings = {script: dict(table) for script, table in loaded.scripts.items()}
        tunables = Tunables.from_values(loaded.tunables)
        interfaces = dict.fromkeys(name for address in loaded.addresses for name in address.interfaces)
        environment = {
            "LOCUM_NODE": loaded.node.name,
            "LOCUM_CONFIG": os.path.abspath(config),
            "LOCUM_INTERFACES": ",".join(interfaces),
        }
    for assignment in assignments:
        script, key, value = _setting(assignment)
        settings.setdefault(script, {})[key] = value
    if timeout is not None:
        tunables = Tunables(monitor_timeout=timeout, event_timeout=timeout)
    environment |= {name: os.environ[name] for name in local.PASSED_ON if name in os.environ}
    directory = os.path.abspath(directory)
    place = os.path.abspath(runtime) if runtime is not None else local.default_runtime(directory)
    return local.run_directory(
        directory,
        wanted,
        arguments,
        tunables=tunables,
        runtime=place,
        state=os.path.join(place, "state"),
        settings=settings,
        environment=environment,
        on_result=show,
    )


def _setting(assignment: str) -> tuple[str, str, object]:
    """``50.web:port=8080``; the value as in TOML, or else as text."""
    import tomllib  # noqa: PLC0415

    place, equals, text = assignment.partition("=")
    script, colon, key = place.rpartition(":")
    if not (equals and colon and script and key):
        raise UsageError(f"--set {assignment!r}: write SCRIPT:KEY=VALUE, for example 50.web:port=8080")
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    return script, key, value


# -- files ---------------------------------------------------------------------------------------------------


def _switch(name: str, enabled: bool, directory: str) -> None:
    scripts = ScriptDirectory(directory)
    script = scripts.find(name)
    word = "enabled" if enabled else "disabled"
    changed = scripts.set_enabled(script, enabled)
    click.echo(f"{script.name} is {word}{'' if changed else ' already'}")
    if enabled and script.kind is Kind.PYTHON and script.events == ():
        print(f"locum: note: {script.name} defines no function for any event", file=sys.stderr)


def _complain(listing: Listing) -> None:
    """Report problems. A fault that keeps a daemon from starting is an error, even for a command that only lists."""
    faults = [str(problem) for problem in listing.faults]
    listed = {os.path.basename(script.path) for script in listing.scripts}
    for problem in listing.problems:
        if not problem.fault and not (problem.ignored and problem.place in listed):
            print(f"locum: {output.clean(str(problem))}", file=sys.stderr)
    if faults:
        raise ScriptDirectoryError(listing.directory, faults)


# -- lines ---------------------------------------------------------------------------------------------------


class _Lines:
    """Prints a line for each script as soon as it has ended."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._screen = output.screen()

    def show(self, result: ScriptResult) -> None:
        word = self._screen.paint(_word(result).ljust(_RESULT_WIDTH), _STYLES[result.outcome])
        started = result.outcome not in (Outcome.DISABLED, Outcome.NOT_HANDLED)
        seconds = f"{result.seconds:8.3f} s" if started else " " * 10
        said = "" if self._verbose else _said(result)
        output.emit([f"{result.script:<20} {word} {seconds}  {said}".rstrip()])
        if self._verbose and result.output.strip():
            output.emit(_indented(result.output))


def _word(result: ScriptResult) -> str:
    if result.outcome in (Outcome.FAILED, Outcome.TIMEOUT):
        return f"{result.outcome} ({result.status})"
    return result.outcome.value


def _said(result: ScriptResult) -> str:
    """The important line: why the script failed, otherwise the first line of its output."""
    return output.clean(result.reason) if result.reason else _first_line(result.output)


def _first_line(text: str) -> str:
    for line in text.splitlines():
        if line.strip():
            return output.clean(line.strip())
    return ""


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in escape.lines(text.rstrip("\n"))]


def _explain(failure: ScriptResult) -> None:
    lines = _indented(failure.output)
    if len(lines) > 1:
        print(f"{failure.script} said:", *lines, sep="\n", file=sys.stderr)


def _is_news(result: ScriptResult) -> bool:
    """Whether to show a result in the list of all events."""
    return result.outcome not in (Outcome.NOT_HANDLED, Outcome.DISABLED)


def _status_row(name: Event, result: ScriptResult) -> list[Content]:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(result.started)) if result.started else "-"
    seconds = f"{result.seconds:.3f}" if result.started else "-"
    return [
        name.value,
        result.script,
        Cell(_word(result), _STYLES[result.outcome]),
        seconds,
        started,
        _said(result) or "-",
    ]
