"""``locum lab`` before there is a lab."""

from __future__ import annotations

import click
import pytest

from locum_lab.command import _asks_for_help, observe, probe


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("--help", True),
        ("up -h", True),
        ("exec --help", True),
        ("up --nodes 3", False),
        # The command on the node is asked, not we.
        ("exec n1 -- ls --help", False),
        ("exec n1 locum -h", False),
    ],
)
def test_whose_help_is_wanted(arguments: str, wanted: bool) -> None:
    assert _asks_for_help(tuple(arguments.split())) is wanted


@pytest.mark.parametrize("command", [probe, observe])
def test_who_asks_without_pause_would_never_look_whether_to_end(command: click.Command) -> None:
    with pytest.raises(click.BadParameter, match="is not a number of milliseconds"):
        command.make_context("x", ["--interval", "0"])
