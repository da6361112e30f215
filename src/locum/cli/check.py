"""``locum status --check``: the cluster in one line and an exit status, for monitoring systems.

The statuses are those of monitoring plugins (Nagios, Icinga, Sensu and others agree on them); ``docs/commands.md``
defines them. The line ends with performance data (``| name=value``) as these systems read it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import click

from locum.api.model import AddressReport, NodeReport, StatusReport
from locum.cli import output
from locum.cli.ask import ask_status, decode_status
from locum.errors import LocumError

#: The most addresses, nodes or warnings named in the line.
NAMED = 6


class Verdict(enum.IntEnum):
    """The exit statuses; their names begin the line."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


class Checked(NamedTuple):
    """The result of a check, and its line."""

    verdict: Verdict
    line: str


class WrongCheck(click.UsageError):
    """A check with wrong options: its result is unknown, not critical."""

    exit_code = Verdict.UNKNOWN


class CheckCommand(click.Command):
    """A command with ``--check``."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """See :meth:`click.Command.make_context`."""
        checking = "--check" in args
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            if checking:
                raise WrongCheck(error.message, error.ctx) from None
            raise


def run_check(socket_path: str, *, as_json: bool, warnings: bool) -> int:
    """Ask the daemon, print the line (or the whole status as JSON), return the exit status."""
    try:
        reply = ask_status(socket_path, as_json=as_json)
        found = check(decode_status(reply.result), warnings)
    except LocumError as error:
        output.emit([f"LOCUM {Verdict.UNKNOWN.name} - {output.clean(str(error))}"])
        return Verdict.UNKNOWN
    if as_json:
        output.emit_json(reply.result)
    else:
        output.emit([output.clean(found.line)])
    return found.verdict


def check(report: StatusReport, warnings: bool) -> Checked:
    """Judge ``report``. A moving address counts as unserved unless a node answers for it meanwhile."""
    unserved = [one for one in report.addresses if not one.serving]
    moving = [one for one in report.addresses if one.serving and one.state != "served"]
    total = output.count(len(report.addresses), "public address", "public addresses")
    bad_nodes = [node for node in report.nodes if node.state != "OK"]
    if report.stale:
        verdict, text = Verdict.UNKNOWN, f"{report.node} is cut off: {'; '.join(report.warnings[:NAMED])}"
    elif unserved:
        verdict, text = Verdict.CRITICAL, f"{len(unserved)} of {total} not served: {_addresses(unserved)}"
    elif warnings and (bad_nodes or report.warnings):
        verdict = Verdict.WARNING
        text = "; ".join([f"{total}, all served", *_nodes(bad_nodes), *_some(report.warnings)])
    else:
        verdict, text = Verdict.OK, f"{total}, all served"
    data = {
        "served": len(report.addresses) - len(unserved),
        "unserved": len(unserved),
        "moving": len(moving),
        "nodes_ok": len(report.nodes) - len(bad_nodes),
        "nodes": len(report.nodes),
    }
    # A bar would begin the performance data.
    text = text.replace("|", "/")
    # Outdated figures would appear in graphs as if they were measured now.
    figures = "" if report.stale else " | " + " ".join(f"{name}={value}" for name, value in data.items())
    return Checked(verdict, f"LOCUM {verdict.name} - {text}{figures}")


def _addresses(unserved: list[AddressReport]) -> str:
    reasons: dict[str, list[str]] = {}
    for one in unserved:
        reasons.setdefault(one.reason, []).append(one.address)
    return "; ".join(_some([f"{', '.join(_some(which))} ({why})" for why, which in reasons.items()]))


def _nodes(nodes: list[NodeReport]) -> list[str]:
    return _some([f"{node.name} is {node.state}" + (f" ({node.reason})" if node.reason else "") for node in nodes])


def _some(texts: list[str] | tuple[str, ...]) -> list[str]:
    left = len(texts) - NAMED
    return [*texts[:NAMED], *([f"{left} more"] if left > 0 else [])]
