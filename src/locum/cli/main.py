"""``locum``: the entry point. It finds the command, and turns every error into one clear message and a status.

This file imports no command (each is imported when it is run, so that all answer quickly) and knows nothing about their
work.
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
    "status": (
        "locum.cli.status:status",
        "The state of the cluster and its reasons: nodes, plan, addresses, warnings.",
    ),
    "history": ("locum.cli.history:history", "What has happened in the cluster, and why: moves, states, commands."),
    "ip": ("locum.cli.ip:ip", "Public addresses and the nodes that serve them: list, move, auto."),
    "node": ("locum.cli.node:node", "Nodes: list, enable, disable, stop, continue, ban, unban, remove."),
    "event": ("locum.cli.event:event", "Event scripts: list, run, status, enable, disable, check."),
    "tunable": ("locum.cli.tunable:tunable", "Tunables of the cluster: list, get, set, reset."),
    "connections": (
        "locum.cli.connections:connections",
        "TCP connections to public addresses: list, tickle, kill, add, delete.",
    ),
    "reload": ("locum.cli.reload:reload", "Make this node's daemon read its configuration again."),
    "daemon": ("locum.cli.daemon:daemon", "Run this node."),
    "shutdown": ("locum.cli.daemon:shutdown", "Stop this node's daemon, after other nodes serve its addresses."),
    "doctor": ("locum.cli.doctor:doctor", "Examine this node and its store; recommend changes."),
    "debug": ("locum.cli.debug:debug", "Write the whole state of this node to a file for a bug report: dump."),
    "check-config": ("locum.cli.daemon:check_config", "Check a configuration file; starts nothing."),
    "store": ("locum.cli.store:store", "Serve the embedded store to several nodes of this machine."),
    "statd-callout": ("locum.cli.statd:statd_callout", "Record a holder of NFS locks; rpc.statd runs it."),
    "lab": ("locum_lab.command:lab", "A cluster in network namespaces on this machine, for trials and tests."),
}

#: Packages of commands that are installed separately, and how. No server needs them.
APART = {"locum_lab": "locum-lab of the same version ('pip install ./lab' in the checkout of Locum)"}

#: Exit status after Ctrl-C: 128 plus SIGINT's number, as in shells.
INTERRUPTED = 130


@click.group(
    "locum", cls=LazyGroup, lazy=COMMANDS, apart=APART, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, "-V", "--version", message="locum %(version)s")
def cli() -> None:
    """Keeps clustered services reachable: public addresses that move to a healthy node."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``locum`` with ``arguments`` (the process's own when None); returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal's encoding lacks must not be an error.
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
    """Print one error."""
    from locum.cli.output import clean  # noqa: PLC0415  (not needed when all is well)

    print(f"locum: {clean(message)}", file=sys.stderr)


def _sentence(message: str) -> str:
    """Convert Click's message to our form: no capital at the start, no full stop at the end."""
    text = message.rstrip().removesuffix(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


if __name__ == "__main__":
    sys.exit(main())
