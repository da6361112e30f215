"""``locum ip``: the public addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import click

from locum.api.model import AddressReport
from locum.cli import admin, output
from locum.cli.ask import ask_status, decode_status, watch_status
from locum.cli.groups import DefaultGroup
from locum.cli.options import json_option, socket_option, watch_option
from locum.cli.output import Cell, Content, Screen

#: The fields of the status that the JSON of ``locum ip`` has.
FIELDS = ("node", "leader", "epoch", "progress", "addresses")

STATE_STYLES = {"served": "green", "moving": "yellow", "unserved": "red"}


@click.group("ip", cls=DefaultGroup)
def ip() -> None:
    """The public addresses: who serves them (also without a command); move them."""


@ip.command("list")
@json_option
@watch_option
@socket_option
def list_addresses(socket_path: str, as_json: bool, watch: bool) -> None:
    """Every public address: who serves it, and why if nobody does."""
    if not watch:
        result = ask_status(socket_path)
        if as_json:
            output.emit_json(output.pick(result, FIELDS))
        else:
            output.emit(render(decode_status(result).addresses, output.screen()))
    elif as_json:
        for part in _changes(output.pick(result, FIELDS) for result in watch_status(socket_path)):
            output.emit_json(part, compact=True)
    else:
        on = output.screen()
        reports = _changes(decode_status(result).addresses for result in watch_status(socket_path))
        output.show_changes((render(addresses, on) for addresses in reports), on)


T = TypeVar("T")


def _changes(items: Iterable[T]) -> Iterator[T]:
    """``items`` without those that equal the one before: not every change of the cluster concerns addresses."""
    last: T | None = None
    for item in items:
        if item != last:
            last = item
            yield item


def render(addresses: Sequence[AddressReport], on: Screen) -> list[str]:
    """The addresses for people."""
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
@json_option
@socket_option
@click.pass_context
def move(ctx: click.Context, address: str, node: str, wait: float, as_json: bool, socket_path: str) -> None:
    """Move ADDRESS to NODE, where it stays whenever NODE can serve it."""
    ctx.exit(admin.run(socket_path, as_json, wait, command="move", address=address, node=node))


@ip.command("auto")
@click.argument("address")
@json_option
@socket_option
@click.pass_context
def auto(ctx: click.Context, address: str, as_json: bool, socket_path: str) -> None:
    """Let the cluster place ADDRESS by itself again, after 'move'."""
    ctx.exit(admin.run(socket_path, as_json, command="auto", address=address))
