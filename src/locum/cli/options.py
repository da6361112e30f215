"""Options that several commands share, with the same names and behaviour everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from locum.control_socket import DEFAULT_SOCKET

F = TypeVar("F", bound=Callable[..., Any])

#: The default path of the configuration.
DEFAULT_CONFIG = "/etc/locum/locum.toml"


if TYPE_CHECKING:
    _NumberType = click.ParamType[float]
else:  # a class without parameters in earlier versions of click
    _NumberType = click.ParamType


class Number(_NumberType):
    """A number from ``least`` to ``most``, both included; None: without a limit.

    "nan" and "inf" are refused: JSON has no such numbers, and no comparison catches the first.
    """

    name = "number"

    def __init__(
        self, what: str, least: float | None = None, most: float | None = None, *, whole: bool = False
    ) -> None:
        self._least = -math.inf if least is None else least
        self._most = math.inf if most is None else most
        self._whole = whole
        self._expected = what
        if most is not None:
            self._expected += f" from {self._least:.12g} to {most:.12g}"
        elif least is not None:
            self._expected += f" of {least:.12g} or more"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Convert ``value`` to a number."""
        try:
            number: float = int(str(value)) if self._whole else float(str(value))
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and self._least <= number <= self._most):
            self.fail(f"{value!r} is not {self._expected}", param, ctx)
        return number


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
    """``--json``: JSON for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, as documented in docs/commands.md.")(
        function
    )


def asking_options(function: F) -> F:
    """``--json`` and ``--socket``, for a command that asks the daemon."""
    return json_option(socket_option(function))


def watch_option(function: F) -> F:
    """``--watch``: print again at every change."""
    return click.option(
        "--watch", is_flag=True, help="Show every change until Ctrl-C; with --json, one line per change."
    )(function)
