"""Options that several commands have, so that they are called and behave the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from locum.api.client import DEFAULT_SOCKET

F = TypeVar("F", bound=Callable[..., Any])

#: Where the configuration is unless a command says otherwise.
DEFAULT_CONFIG = "/etc/locum/locum.toml"


def socket_option(function: F) -> F:
    """``--socket``: where the daemon listens."""
    return click.option(
        "--socket",
        "socket_path",
        default=DEFAULT_SOCKET,
        envvar="LOCUM_SOCKET",
        show_default=True,
        show_envvar=True,
        metavar="PATH",
        help="The daemon's control socket.",
    )(function)


def config_option(function: F) -> F:
    """``--config``: this node's configuration."""
    return click.option(
        "--config",
        "config_path",
        default=DEFAULT_CONFIG,
        envvar="LOCUM_CONFIG",
        show_default=True,
        show_envvar=True,
        metavar="FILE",
        help="The configuration of this node.",
    )(function)


def json_option(function: F) -> F:
    """``--json``: for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, as documented in docs/commands.md.")(
        function
    )


def watch_option(function: F) -> F:
    """``--watch``: print anew at every change."""
    return click.option(
        "--watch", is_flag=True, help="Go on showing every change until Ctrl-C; with --json, one line per change."
    )(function)
