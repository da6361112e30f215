"""``locum connections``: TCP connections to the public addresses."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import click
import msgspec

from locum.api.client import call_raw
from locum.cli import output
from locum.cli.ask import ask, decode
from locum.cli.groups import DefaultGroup
from locum.cli.options import Number, asking_options
from locum.cli.output import Content, Screen
from locum.connections.connection_report import AddressConnections, ConnectionsResult
from locum.errors import UsageError


@click.group("connections", cls=DefaultGroup)
def connections() -> None:
    """TCP connections to public addresses whose clients are notified of moves (without a command: their numbers)."""


@connections.command("list")
@click.argument("address", required=False)
@asking_options
def list_connections(address: str | None, as_json: bool, socket_path: str) -> int:
    """List the number of recorded connections of each public address, or every connection of ADDRESS."""
    reply = ask(socket_path, {"op": "connections-list", "address": address})
    reports = decode(reply.result, list[AddressConnections])
    if as_json:
        output.emit_json(reply.result)
    else:
        output.emit(render_one(reports[0], output.screen()) if address else render(reports, output.screen()))
    return reply.status


def render(reports: Sequence[AddressConnections], on: Screen) -> list[str]:
    """Format the addresses as text."""
    if not reports:
        return ["No node is configured for any public address."]
    rows: list[list[Content]] = [
        [
            report.address,
            report.node or "-",
            str(report.count),
            ", ".join(f"{port}: {count}" for port, count in report.ports.items()),
        ]
        for report in reports
    ]
    return output.table(["ADDRESS", "NODE", "CONNECTIONS", "BY PORT"], rows, on, right=["CONNECTIONS"])


def render_one(report: AddressConnections, on: Screen) -> list[str]:
    """Format the connections of one address as text."""
    where = f"{report.address} is served by {report.node}" if report.node else f"{report.address} is not served"
    head = f"{where}; {output.count(report.count, 'connection')} recorded."
    if not report.connections:
        return [head]
    rows: list[list[Content]] = [[c.client, str(c.port), "added" if c.added else ""] for c in report.connections]
    return [head, *output.table(["CLIENT", "PORT", "NOTE"], rows, on)]


@connections.command("tickle")
@click.argument("address")
@asking_options
def tickle(address: str, as_json: bool, socket_path: str) -> None:
    """Make every recorded client of ADDRESS check whether its connection is alive.

    Run it on the node that serves ADDRESS. Live connections are not affected.
    """
    _do(socket_path, as_json, {"op": "connections-tickle", "address": address})


@connections.command("kill")
@click.argument("address")
@click.option(
    "--port",
    "ports",
    type=Number("a port", 1, 65535, whole=True),
    multiple=True,
    help="Only connections to this port; may be repeated.",
)
@asking_options
def kill(address: str, ports: tuple[int, ...], as_json: bool, socket_path: str) -> None:
    """End every connection to ADDRESS at both ends.

    Run it on the node that serves ADDRESS. Services continue to listen, and clients may connect again.
    """
    _do(socket_path, as_json, {"op": "connections-kill", "address": address, "ports": list(ports) or None})


PAIRS_HELP = (
    "CLIENT and PUBLIC are ADDRESS:PORT, with brackets for IPv6 ([2001:db8::1]:2049). Without arguments, pairs are "
    "read from standard input, one on each line."
)


@connections.command(
    "add", help=f"Record a connection, so that its client is notified when the address moves.\n\n{PAIRS_HELP}"
)
@click.argument("client", required=False)
@click.argument("public", required=False)
@asking_options
def add(client: str | None, public: str | None, as_json: bool, socket_path: str) -> None:
    """Record connections."""
    _do(socket_path, as_json, {"op": "connections-add", "pairs": _pairs(client, public)})


@connections.command("delete", help=f"Remove an added connection.\n\n{PAIRS_HELP}")
@click.argument("client", required=False)
@click.argument("public", required=False)
@asking_options
def delete(client: str | None, public: str | None, as_json: bool, socket_path: str) -> None:
    """Remove added connections."""
    _do(socket_path, as_json, {"op": "connections-delete", "pairs": _pairs(client, public)})


def _pairs(client: str | None, public: str | None) -> list[list[str]]:
    if client is not None:
        if public is None:
            raise UsageError("a connection needs both endpoints: CLIENT PUBLIC")
        return [[client, public]]
    pairs = []
    for number, line in enumerate(sys.stdin, 1):
        words = line.split()
        if words and len(words) != 2:
            raise UsageError(f"line {number} of standard input: found {line.strip()!r}; expected CLIENT PUBLIC")
        if words:
            pairs.append(words)
    return pairs


def _do(socket_path: str, as_json: bool, request: Mapping[str, object]) -> None:
    if request.get("pairs") == []:
        result = msgspec.json.encode(ConnectionsResult("standard input is empty: give pairs CLIENT PUBLIC", 0))
    else:
        result = call_raw(socket_path, request)
    done = decode(result, ConnectionsResult)
    if as_json:
        output.emit_json(result)
    else:
        output.emit([output.clean(done.message)])
