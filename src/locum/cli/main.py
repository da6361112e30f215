"""``locum``: the entry point. It finds the command, and turns every error into one clear message and a status.

Rules of this file: it imports no command (each is imported when it is run, so that all answer quickly) and knows
nothing about what they do.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from locum import __version__
from locum.cli.groups import LazyGroup
from locum.errors import LocumError, ProblemsError

COMMANDS = {
    "status": ("locum.cli.status:status", "What the cluster does and why: nodes, plan, addresses, warnings."),
    "ip": ("locum.cli.ip:ip", "The public addresses: who serves them; move them."),
    "node": ("locum.cli.node:node", "The nodes: list, enable, disable, stop, continue, ban, unban, remove."),
    "event": ("locum.cli.event:event", "Event scripts: list, run, status, enable, disable, check."),
    "tunable": ("locum.cli.tunable:tunable", "The cluster's tunables: list, get, set, reset."),
    "connections": (
        "locum.cli.connections:connections",
        "TCP connections to public addresses: list, tickle, kill, add, delete.",
    ),
    "reload": ("locum.cli.reload:reload", "Have this node's daemon read its configuration again."),
    "daemon": ("locum.cli.daemon:daemon", "Run this node."),
    "shutdown": ("locum.cli.daemon:shutdown", "Stop this node's daemon, after its addresses were served elsewhere."),
    "doctor": ("locum.cli.doctor:doctor", "Examine this node and its store; say what to change."),
    "debug": ("locum.cli.debug:debug", "Collect the whole state of this node for a bug report: dump."),
    "check-config": ("locum.cli.daemon:check_config", "Check a configuration file; starts nothing."),
    "store": ("locum.cli.store:store", "Serve the embedded store to several nodes of this machine."),
    "statd-callout": ("locum.cli.statd:statd_callout", "Record a holder of NFS locks; rpc.statd runs it."),
    "lab": ("locum.cli.lab:lab", "A cluster of network namespaces on this machine, to try out and to break."),
}

#: Exit status after Ctrl-C: 128 and SIGINT's number, as a shell says it.
INTERRUPTED = 130


@click.group("locum", cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="locum %(version)s")
def cli() -> None:
    """Keeps clustered services reachable: public addresses that move to a healthy node."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``locum`` with ``arguments`` (the process's own when None); returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal's encoding lacks is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        result = cli.main(arguments if arguments is None else list(arguments), prog_name="locum", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        _complain(_sentence(error.format_message()))
        if isinstance(error, click.UsageError) and error.ctx is not None:
            print(f"       '{error.ctx.command_path} --help' shows how it is used", file=sys.stderr)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ProblemsError as error:
        for problem in error.problems:
            _complain(problem)
        return error.exit_status
    except LocumError as error:
        _complain(str(error))
        return error.exit_status
    except Exception as error:
        if os.environ.get("LOCUM_DEBUG"):
            raise
        _complain(f"unexpected {type(error).__name__}: {error}; LOCUM_DEBUG=1 in the environment shows where")
        return 1
    # A command ends with a status by ctx.exit(status) or by returning it.
    return result if isinstance(result, int) else 0


def _complain(message: str) -> None:
    """One error for people."""
    from locum.cli.output import clean  # noqa: PLC0415  (not needed when all is well)

    print(f"locum: {clean(message)}", file=sys.stderr)


def _sentence(message: str) -> str:
    """Click's message in the shape of ours: no capital at the start, no stop at the end."""
    text = message.rstrip().removesuffix(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


if __name__ == "__main__":
    sys.exit(main())
