"""``locum ip``: the public addresses."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import click

from locum.api.model import AddressReport, StatusReport
from locum.cli import admin, output
from locum.cli.ask import ask_status, decode_status, old_lines, watch_status
from locum.cli.groups import DefaultGroup
from locum.cli.options import asking_options, json_option, socket_option, watch_option
from locum.cli.output import Cell, Content, Screen

#: The fields of the status in the JSON of ``locum ip``.
FIELDS = ("node", "leader", "epoch", "progress", "stale", "age", "addresses")

STATE_STYLES = {"served": "green", "moving": "yellow", "unserved": "red"}


@click.group("ip", cls=DefaultGroup)
def ip() -> None:
    """List the public addresses and the nodes that serve them (also without a command); move them."""


@ip.command("list")
@json_option
@watch_option
@socket_option
def list_addresses(socket_path: str, as_json: bool, watch: bool) -> int:
    """List every public address: the node that serves it, or the reason why none does."""
    on = output.screen()
    if watch:
        changes = _changes(watch_status(socket_path))
        if as_json:
            for result, _ in changes:
                output.emit_json(output.pick(result, FIELDS), compact=True)
        else:
            output.show_changes((_picture(report, on) for _, report in changes), on)
        return 0
    reply = ask_status(socket_path, as_json=as_json)
    if as_json:
        output.emit_json(output.pick(reply.result, FIELDS))
    else:
        output.emit(_picture(decode_status(reply.result), on))
    return reply.status


def _picture(report: StatusReport, on: Screen) -> list[str]:
    return [*old_lines(report, on, time.time()), *render(report.addresses, on)]


def _changes(results: Iterable[bytes]) -> Iterator[tuple[bytes, StatusReport]]:
    """Yield those of ``results`` in which addresses changed: not every change of the cluster concerns addresses."""
    last: object = None
    for result in results:
        report = decode_status(result)
        now = [getattr(report, name) for name in FIELDS if name != "age"]
        if now != last:
            last = now
            yield result, report


def render(addresses: Sequence[AddressReport], on: Screen) -> list[str]:
    """Format the addresses as text."""
    if not addresses:
        return ["No node is configured for any public address."]
    rows = [_row(address) for address in addresses]
    return output.table(["ADDRESS", "NODE", "INTERFACE", "STATE", "NOTE"], rows, on)


def _row(address: AddressReport) -> list[Content]:
    style = STATE_STYLES[address.state] if address.serving else "red"
    note = address.reason
    if not note and address.preferred is not None:
        note = "moved there by an admin"
    return [
        f"{address.address}/{address.bits}",
        Cell(address.node or "-", "bold" if address.serving else "red"),
        address.interface or "-",
        Cell(address.state, style),
        note,
    ]


@ip.command("move")
@click.argument("address")
@click.argument("node")
@admin.wait_options
@asking_options
def move(address: str, node: str, wait: float, as_json: bool, socket_path: str) -> int:
    """Move ADDRESS to NODE; it stays there whenever NODE can serve it."""
    return admin.run(socket_path, as_json, wait, command="move", address=address, node=node)


@ip.command("auto")
@click.argument("address")
@asking_options
def auto(address: str, as_json: bool, socket_path: str) -> int:
    """Let the cluster choose the node of ADDRESS again, after 'move'."""
    return admin.run(socket_path, as_json, command="auto", address=address)
