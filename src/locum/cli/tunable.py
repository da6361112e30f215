"""``locum tunable``: settings of the whole cluster."""

from __future__ import annotations

import click
import msgspec

from locum.api.model import TunableReport
from locum.cli import admin, output
from locum.cli.ask import Reply, ask, decode
from locum.cli.groups import DefaultGroup
from locum.cli.options import asking_options
from locum.cli.output import Cell, Content
from locum.errors import UsageError


@click.group("tunable", cls=DefaultGroup)
def tunable() -> None:
    """List the cluster's tunables (also without a command), or change them on all nodes."""


def _ask(socket_path: str) -> tuple[Reply, tuple[TunableReport, ...]]:
    reply = ask(socket_path, {"op": "tunables"})
    return reply, decode(reply.result, tuple[TunableReport, ...])


@tunable.command("list")
@asking_options
def list_tunables(socket_path: str, as_json: bool) -> int:
    """List every tunable with its value, its default and its meaning."""
    reply, rows = _ask(socket_path)
    if as_json:
        output.emit_json({"tunables": rows, **reply.marks()})
        return reply.status
    cells: list[list[Content]] = [
        [
            row.name,
            Cell(f"{row.value:g}", "bold" if row.value != row.default else ""),
            f"{row.default:g}",
            row.unit or "-",
            row.meaning,
        ]
        for row in rows
    ]
    heads = ["NAME", "VALUE", "DEFAULT", "UNIT", "MEANING"]
    output.emit(output.table(heads, cells, output.screen(), right=["VALUE", "DEFAULT"]))
    return reply.status


@tunable.command("get")
@click.argument("name")
@asking_options
def get(name: str, socket_path: str, as_json: bool) -> int:
    """Print the value of NAME."""
    reply, rows = _ask(socket_path)
    for row in rows:
        if row.name.lower() == name.lower():
            if as_json:
                output.emit_json({**msgspec.to_builtins(row), **reply.marks()})
            else:
                output.emit([f"{row.value:g}"])
            return reply.status
    from locum.config.tunables import nearest  # noqa: PLC0415

    raise UsageError(f"unknown tunable {name!r}{nearest(name)}; 'locum tunable list' shows all")


# A negative number is a wrong value, not an unknown option.
@tunable.command("set", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("value")
@asking_options
def set_(name: str, value: str, socket_path: str, as_json: bool) -> int:
    """Set NAME to VALUE, on all nodes at once, permanently."""
    return admin.run(socket_path, as_json, command="tunable-set", name=name, value=value)


@tunable.command("reset")
@click.argument("name")
@asking_options
def reset(name: str, socket_path: str, as_json: bool) -> int:
    """Restore the default of NAME, on all nodes.

    A node whose configuration has a value sets it again when its daemon starts.
    """
    return admin.run(socket_path, as_json, command="tunable-reset", name=name)
