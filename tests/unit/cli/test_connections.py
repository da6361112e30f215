"""``locum connections`` against a fake daemon: what it asks, what it prints."""

from __future__ import annotations

import io
import json
import sys

import pytest

from locum.api.answers import success
from tests.unit.cli.conftest import Command, locum  # noqa: F401

REPORT = {
    "address": "10.0.0.1",
    "node": "n1",
    "count": 2,
    "ports": {"445": 1, "2049": 1},
    "connections": [
        {"client": "10.9.9.9:50123", "port": 445, "added": False},
        {"client": "10.9.9.9:1023", "port": 2049, "added": True},
    ],
}


@pytest.fixture(name="command")
def command_fixture(locum: Command) -> Command:  # noqa: F811
    def did(request: dict[str, object]) -> object:
        return success({"message": f"did {request['op']}", "count": 1, "left": 0})

    locum.scene.answers |= {f"connections-{name}": did for name in ("tickle", "kill", "add", "delete")}
    return locum


def test_totals(command: Command) -> None:
    command.scene.answers["connections-list"] = lambda _: success(
        [{**REPORT, "connections": []}, {"address": "fd00::1", "node": None, "count": 0}]
    )
    for arguments in ((), ("list",)):
        assert command("connections", *arguments).splitlines() == [
            "ADDRESS   NODE  CONNECTIONS  BY PORT",
            "10.0.0.1  n1              2  445: 1, 2049: 1",
            "fd00::1   -               0",
        ]
        assert command.request == {"op": "connections-list", "address": None}
    assert json.loads(command("connections", "--json"))[1] == {"address": "fd00::1", "node": None, "count": 0}


def test_no_address_at_all(command: Command) -> None:
    command.scene.answers["connections-list"] = lambda _: success([])
    assert command("connections") == "No node is configured for any public address.\n"


def test_one_address(command: Command) -> None:
    command.scene.answers["connections-list"] = lambda _: success([REPORT])
    assert command("connections", "list", "10.0.0.1").splitlines() == [
        "10.0.0.1 is served by n1; 2 connections recorded.",
        "CLIENT          PORT  NOTE",
        "10.9.9.9:50123  445",
        "10.9.9.9:1023   2049  added",
    ]
    assert command.request == {"op": "connections-list", "address": "10.0.0.1"}
    command.scene.answers["connections-list"] = lambda _: success([{"address": "fd00::1", "node": None, "count": 0}])
    assert command("connections", "list", "fd00::1") == "fd00::1 is not served; 0 connections recorded.\n"


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (["tickle", "10.0.0.1"], {"op": "connections-tickle", "address": "10.0.0.1"}),
        (["kill", "10.0.0.1"], {"op": "connections-kill", "address": "10.0.0.1", "ports": None}),
        (
            ["kill", "10.0.0.1", "--port", "445", "--port", "139"],
            {"op": "connections-kill", "address": "10.0.0.1", "ports": [445, 139]},
        ),
        (["add", "[fd00::9]:1", "[fd00::1]:2"], {"op": "connections-add", "pairs": [["[fd00::9]:1", "[fd00::1]:2"]]}),
        (["delete", "10.9.9.9:1", "10.0.0.1:2"], {"op": "connections-delete", "pairs": [["10.9.9.9:1", "10.0.0.1:2"]]}),
    ],
)
def test_what_is_asked(command: Command, arguments: list[str], request_: dict[str, object]) -> None:
    assert command("connections", *arguments) == f"did {request_['op']}\n"
    assert command.request == request_
    assert json.loads(command("connections", *arguments, "--json"))["count"] == 1


def test_pairs_from_standard_input(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("10.9.9.9:1 10.0.0.1:2\n\n10.9.9.9:3   10.0.0.1:4\n"))
    command("connections", "add")
    assert command.request["pairs"] == [["10.9.9.9:1", "10.0.0.1:2"], ["10.9.9.9:3", "10.0.0.1:4"]]
    asked = len(command.daemon.requests)
    # A script that has found nothing need not know.
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert command("connections", "delete") == "standard input is empty: give pairs CLIENT PUBLIC\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("10.9.9.9:1 10.0.0.1:2\nnonsense\n"))
    command("connections", "add", status=2)
    assert "line 2 of standard input: found 'nonsense'; expected CLIENT PUBLIC" in command.err
    assert len(command.daemon.requests) == asked


def test_half_a_connection(command: Command) -> None:
    command("connections", "add", "10.9.9.9:1", status=2)
    assert "a connection needs both endpoints: CLIENT PUBLIC" in command.err
