"""docs/commands.md: every command, every option and every operation of the control socket has its row there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import click
import pytest

from locum.api.control import ControlServer
from locum.api.history import HistoryOperations
from locum.cli.main import cli
from locum.connections.operations import ConnectionOperations
from locum.nfs.operations import StatdOperations
from locum_lab import faults, service_table, transfers
from locum_lab.services import SERVICES

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "commands.md").read_text()
FIRST_CELLS = [line.split(" | ")[0] for line in PAGE.splitlines() if line.startswith("|")]


def leaves(command: click.Command, context: click.Context, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, with its whole name."""
    if not isinstance(command, click.Group):
        yield " ".join(path), command
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from leaves(child, click.Context(child, info_name=name, parent=context), *path, name)


COMMANDS = dict(leaves(cli, click.Context(cli), "locum"))
#: Options that the page explains once for all, and those of lab commands that lab.md lists.
COMMON = {"--socket", "--json", "--name"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_row_with_its_options(name: str) -> None:
    row = next((cell for cell in FIRST_CELLS if re.search(rf"`{name}\b", cell)), None)
    assert row is not None, f"{name} is missing in docs/commands.md"
    lab = (DOCS / "lab.md").read_text()
    for parameter in COMMANDS[name].params:
        if not isinstance(parameter, click.Option):
            continue
        spelt = {*parameter.opts, *parameter.secondary_opts}
        place = row + lab if name.startswith("locum lab ") else row
        assert spelt & COMMON or any(option in place for option in spelt), f"{name} {parameter.opts}"


def test_every_row_is_a_command() -> None:
    for cell in FIRST_CELLS:
        for word in re.findall(r"`(locum [a-z -]+[a-z])", cell):
            known = any(f"{name} ".startswith(f"{word} ") or f"{word} ".startswith(f"{name} ") for name in COMMANDS)
            assert known, f"{word!r} is in docs/commands.md and does not exist"


def operations() -> dict[str, Any]:
    """The operations of a daemon, by their names."""
    server = ControlServer(*(MagicMock() for _ in range(7)))
    server.add(StatdOperations(MagicMock(), "n1", served=list, known=list).operations())
    server.add(HistoryOperations(MagicMock()).table())
    server.add(ConnectionOperations(MagicMock(), public=list, holder=lambda _: None).table())
    return server._operations


@pytest.mark.parametrize("name", [*operations(), "watch"])
def test_every_operation_has_a_row(name: str) -> None:
    table = PAGE.split("\n## The control socket\n")[1]
    assert any(f"`{name}`" in line.split(" | ")[0] for line in table.splitlines() if line.startswith("|")), name


def test_the_daemon_adds_no_operations_besides_these() -> None:
    source = (Path(__file__).parents[3] / "src/locum/daemon.py").read_text()
    assert re.findall(r"control\.add\((.*)\)", source) == [
        "HistoryOperations(historian).table()",
        "statd.operations()",
        "on_connections.table()",
    ]


def test_the_help_of_the_lab_names_every_service_client_and_fault() -> None:
    up = " ".join(COMMANDS["locum lab up"].get_help(click.Context(COMMANDS["locum lab up"])).split())
    assert f"of: {', '.join(SERVICES)}." in up
    table = " ".join(COMMANDS["locum lab services-table"].get_help(click.Context(cli)).split())
    assert all(client in table for client in transfers.CLIENTS)
    assert all(fault in table for fault in service_table.FAULTS)
    harm = re.findall(r"[a-z-]+", COMMANDS["locum lab fault"].get_help(click.Context(cli)))
    assert set(faults.FAULTS) <= set(harm)
    page = (DOCS / "lab.md").read_text()
    for service in SERVICES:
        assert f"| `{service}` |" in page, f"docs/lab.md has no row for {service}"


def test_every_test_that_the_page_on_security_names_exists() -> None:
    """What stops an attacker is what a test shows."""
    page = (DOCS / "security.md").read_text(encoding="utf-8")
    tests = DOCS.parent / "tests"
    text = "\n".join(path.read_text(encoding="utf-8") for path in tests.rglob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)`", page))
    assert len(names) > 20
    assert {name for name in names if f"def {name}(" not in text} == set()
    files = set(re.findall(r"`((?:unit|lab)/[\w/]+\.py)`", page))
    assert {file for file in files if not (tests / file).is_file()} == set()
