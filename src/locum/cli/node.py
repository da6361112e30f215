"""``locum node``: the nodes, and administrators' decisions about them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from locum.cli import admin, output
from locum.cli.ask import ask_status, decode_status, old_lines
from locum.cli.groups import DefaultGroup
from locum.cli.options import Number, json_option, socket_option
from locum.cli.status import node_table

F = TypeVar("F", bound=Callable[..., Any])

#: The fields of the status in the JSON of ``locum node``.
FIELDS = ("node", "leader", "stale", "age", "nodes")


@click.group("node", cls=DefaultGroup)
def node() -> None:
    """List the nodes and their states (also without a command), or change a state.

    NODE is a node's name or number; default: the node whose daemon answers.
    """


def _node_argument(function: F) -> F:
    return click.argument("node_name", metavar="[NODE]", default="")(function)


@node.command("list")
@json_option
@socket_option
@click.pass_context
def list_nodes(ctx: click.Context, socket_path: str, as_json: bool) -> None:
    """List every node, its state and the reason."""
    reply = ask_status(socket_path, as_json=as_json)
    if as_json:
        output.emit_json(output.pick(reply.result, FIELDS))
    else:
        report, on, wall = decode_status(reply.result), output.screen(), time.time()
        output.emit([*old_lines(report, on, wall), *node_table(report.nodes, on, wall)])
    ctx.exit(reply.status)


@node.command("disable")
@_node_argument
@admin.wait_options
@json_option
@socket_option
@click.pass_context
def disable(ctx: click.Context, node_name: str, wait: float, as_json: bool, socket_path: str) -> None:
    """Let NODE serve no addresses; it continues to monitor and to run the other events."""
    ctx.exit(admin.run(socket_path, as_json, wait, command="disable", node=node_name))


@node.command("enable")
@_node_argument
@json_option
@socket_option
@click.pass_context
def enable(ctx: click.Context, node_name: str, as_json: bool, socket_path: str) -> None:
    """Let NODE serve addresses again, after 'disable'."""
    ctx.exit(admin.run(socket_path, as_json, command="enable", node=node_name))


@node.command("stop")
@_node_argument
@admin.wait_options
@json_option
@socket_option
@click.pass_context
def stop(ctx: click.Context, node_name: str, wait: float, as_json: bool, socket_path: str) -> None:
    """Let NODE take part in nothing: no addresses, no monitoring, no events."""
    ctx.exit(admin.run(socket_path, as_json, wait, command="stop", node=node_name))


@node.command("continue")
@_node_argument
@json_option
@socket_option
@click.pass_context
def continue_(ctx: click.Context, node_name: str, as_json: bool, socket_path: str) -> None:
    """Let NODE take part again, after 'stop'."""
    ctx.exit(admin.run(socket_path, as_json, command="continue", node=node_name))


@node.command("ban")
@_node_argument
@click.option(
    "--seconds",
    type=Number("a number of seconds"),
    help="Duration of the ban; default: the tunable RecoveryBanPeriod.",
)
@admin.wait_options
@json_option
@socket_option
@click.pass_context
def ban(
    ctx: click.Context, node_name: str, seconds: float | None, wait: float, as_json: bool, socket_path: str
) -> None:
    """Let NODE take part in nothing for a limited time."""
    ctx.exit(admin.run(socket_path, as_json, wait, command="ban", node=node_name, seconds=seconds))


@node.command("unban")
@_node_argument
@json_option
@socket_option
@click.pass_context
def unban(ctx: click.Context, node_name: str, as_json: bool, socket_path: str) -> None:
    """End a ban of NODE early."""
    ctx.exit(admin.run(socket_path, as_json, command="unban", node=node_name))


@node.command("remove")
@click.argument("node_name", metavar="NODE")
@json_option
@socket_option
@click.pass_context
def remove(ctx: click.Context, node_name: str, as_json: bool, socket_path: str) -> None:
    """Remove NODE, which must be DISCONNECTED: its number, addresses and state."""
    ctx.exit(admin.run(socket_path, as_json, command="remove", node=node_name))
