"""Click groups: the common behaviour, a group that imports a command only when it is used, a group with a default
command.

This file knows click, but no command.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import click

#: Characters of a command's line of help: no limit.
_WHOLE = 1000


class PlainGroup(click.Group):
    """A group that shows its commands in the order in which they were written, each with its whole first sentence, and
    suggests the nearest command for an unknown name.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order in which they were written."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help's table."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            # Wrapped where it is too long for a line; click would cut it.
            formatter.write_dl([(name, command.get_short_help_str(_WHOLE)) for name, command in commands if command])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, with the nearest name for an unknown command."""
        _complain(ctx, args, self.list_commands(ctx))
        return super().resolve_command(ctx, args)


class LazyGroup(PlainGroup):
    """A group whose commands are imported when they are run, or when their own help is requested.

    ``lazy``: name → (``module:attribute``, the line of help that the group shows). The group's own help and the error
    for a misspelt name import nothing. ``apart``: package → how to install it, for commands that are
    installed separately.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]],
        apart: Mapping[str, str] = MappingProxyType({}),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy
        self._apart = apart

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself, imported now."""
        found = self._lazy.get(cmd_name)
        if found is None:
            return super().get_command(ctx, cmd_name)
        import importlib  # noqa: PLC0415

        module, _, attribute = found[0].partition(":")
        package = module.partition(".")[0]
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name != package or package not in self._apart:
                raise
            raise click.ClickException(
                f"'{ctx.command_path} {cmd_name}' is not installed: install {self._apart[package]}"
            ) from None
        assert isinstance(command, click.Command), f"{found[0]} is not a click command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help's table, from ``lazy``."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


class DefaultGroup(PlainGroup):
    """A group whose default command is ``list``: ``locum ip --json`` is ``locum ip list --json``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, after putting ``list`` where a command's name is missing."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def _complain(ctx: click.Context, args: list[str], known: list[str]) -> None:
    """Raise a usage error when ``args`` begin with a name that is not in ``known``."""
    if ctx.resilient_parsing or not args or args[0] in known or args[0].startswith("-"):
        return
    import difflib  # noqa: PLC0415  (only after an error)

    near = difflib.get_close_matches(args[0], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    raise click.UsageError(f"unknown command {args[0]!r}: {hint}", ctx)
