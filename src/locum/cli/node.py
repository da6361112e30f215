"""``locum node``: the nodes, and administrators' decisions about them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from locum.cli import admin, output
from locum.cli.ask import ask_status, decode_status, old_lines
from locum.cli.groups import DefaultGroup
from locum.cli.options import Number, asking_options
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
@asking_options
def list_nodes(socket_path: str, as_json: bool) -> int:
    """List every node, its state and the reason."""
    reply = ask_status(socket_path, as_json=as_json)
    if as_json:
        output.emit_json(output.pick(reply.result, FIELDS))
    else:
        report, on, wall = decode_status(reply.result), output.screen(), time.time()
        output.emit([*old_lines(report, on, wall), *node_table(report.nodes, on, wall)])
    return reply.status


def _add(name: str, text: str, *, moves: bool, options: Callable[[F], F] = lambda function: function) -> None:
    """Add the command ``name``, which changes the state of a node. ``moves``: addresses may move, so it can wait."""

    def change(node_name: str, as_json: bool, socket_path: str, wait: float = 0.0, **given: object) -> int:
        return admin.run(socket_path, as_json, wait, command=name, node=node_name, **given)

    waiting: Callable[[Any], Any] = admin.wait_options if moves else lambda function: function
    node.command(name, help=text)(_node_argument(options(waiting(asking_options(change)))))


_add("disable", "Let NODE serve no addresses; it continues to monitor and to run the other events.", moves=True)
_add("enable", "Let NODE serve addresses again, after 'disable'.", moves=False)
_add("stop", "Let NODE take part in nothing: no addresses, no monitoring, no events.", moves=True)
_add("continue", "Let NODE take part again, after 'stop'.", moves=False)
_add(
    "ban",
    "Let NODE take part in nothing for a limited time.",
    moves=True,
    options=click.option(
        "--seconds",
        type=Number("a number of seconds"),
        help="Duration of the ban; default: the tunable RecoveryBanPeriod.",
    ),
)
_add("unban", "End a ban of NODE early.", moves=False)


@node.command("remove")
@click.argument("node_name", metavar="NODE")
@asking_options
def remove(node_name: str, as_json: bool, socket_path: str) -> int:
    """Remove NODE, which must be DISCONNECTED: its number, addresses and state."""
    return admin.run(socket_path, as_json, command="remove", node=node_name)
