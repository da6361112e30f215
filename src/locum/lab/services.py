"""The services that a lab runs on its nodes. They are no part of Locum; it moves the addresses in front of them.

``web``: nginx, which answers with the node's name. ``echo``: answers datagrams with the node's name, for measurements
that are finer than a TCP connection.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from locum.errors import UsageError
from locum.lab import echo, web


class Service(msgspec.Struct, frozen=True):
    """``check`` raises LocumError when the service cannot run on this machine; ``command`` gets the service's directory
    and the node's name, prepares the directory and returns the command that runs it in the foreground.
    """

    check: Callable[[], object]
    command: Callable[[Path, str], list[str]]


def _web(directory: Path, node: str) -> list[str]:
    web.configure(directory, node)
    return web.command(directory)


def _echo(_directory: Path, node: str) -> list[str]:
    return [sys.executable, "-S", "-E", echo.__file__, node]


SERVICES: dict[str, Service] = {
    "web": Service(web.program, _web),
    "echo": Service(lambda: None, _echo),
}


def named(name: str) -> Service:
    """The service of that name; raises UsageError that lists them."""
    if name not in SERVICES:
        raise UsageError(f"no service {name!r}; a lab can run {', '.join(SERVICES)}")
    return SERVICES[name]
