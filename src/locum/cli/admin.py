"""The common parts of admin commands: request, wait, report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from locum.api.client import call_raw
from locum.api.model import AdminResult
from locum.cli import output
from locum.cli.ask import decode
from locum.cli.options import Number

F = TypeVar("F", bound=Callable[..., Any])

#: How long a command waits for its effect, and how much longer for the daemon's answer, in seconds.
WAIT, ANSWER = 20.0, 15.0

#: Exit status when a change was accepted and its effect was not reached in time.
INCOMPLETE = 1


def wait_options(function: F) -> F:
    """``--wait`` and ``--no-wait`` of a command that moves addresses."""
    waiting = click.option(
        "--wait",
        type=Number("a number of seconds", 0, 600),
        default=WAIT,
        show_default=True,
        metavar="SECONDS",
        help="Longest wait for the addresses to move.",
    )
    return click.option("--no-wait", "wait", flag_value=0.0, type=float, help="Do not wait for the addresses to move.")(
        waiting(function)
    )


def run(socket_path: str, as_json: bool, wait: float = 0.0, **request: object) -> int:
    """Carry out an admin command and report the result; return the exit status."""
    message = {"op": "admin", "wait": wait, **{name: value for name, value in request.items() if value is not None}}
    result = call_raw(socket_path, message, wait + ANSWER)
    done = decode(result, AdminResult)
    if as_json:
        output.emit_json(result)
    else:
        for warning in done.warnings:
            print(f"locum: note: {output.clean(warning)}", file=sys.stderr)
        if done.complete:
            output.emit([output.clean(done.message)])
        else:
            print(f"locum: accepted; {output.clean(done.pending)}", file=sys.stderr)
    return 0 if done.complete else INCOMPLETE
