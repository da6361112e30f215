"""The services that a lab runs on its nodes. They are not part of Locum, which moves the addresses in front of them.

``web``: nginx, which answers with the node's name. ``echo``: answers datagrams with the node's name, for measurements
finer than a TCP connection allows. The lab itself starts these two. Event scripts start the others: ``vsftpd``,
``samba``, ``nginx``, ``nfs`` and ``generic`` (a service without its own script) serve the files of the lab's shared
directory, which represents a cluster's file system. ``nfstickle`` is a script beside ``nfs``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import msgspec

from locum.errors import UsageError
from locum_lab import echo, file_web, generic, nfs_service, samba, vsftpd, web

Settings = Mapping[str, object]


class Site(msgspec.Struct, frozen=True):
    """The place of a node's service: its own ``directory``, the ``node``'s name, and the lab's ``shared`` files."""

    directory: Path
    node: str
    shared: Path


class Service(msgspec.Struct, frozen=True):
    """``check`` raises LocumError when the service cannot run on this machine.

    ``command``, for a service that the lab starts: prepares the directory and returns the command that runs it in the
    foreground. ``script``: the event script that every node gets; ``settings`` prepares the directory and returns the
    script settings. Without ``command`` the script starts the service.
    """

    check: Callable[[], object]
    command: Callable[[Site], list[str]] | None = None
    script: Path | None = None
    settings: Callable[[Site], Settings] | None = None


def shipped(name: str) -> Path:
    """The event script of that name that comes with Locum."""
    return Path(str(resources.files("locum"))) / "scripts" / name


def _example(name: str) -> Path:
    return Path(__file__).with_name("example_events") / name


def _web(site: Site) -> list[str]:
    web.configure(site.directory, site.node)
    return web.command(site.directory)


def _echo(site: Site) -> list[str]:
    return [sys.executable, "-S", "-E", echo.__file__, site.node]


SERVICES: dict[str, Service] = {
    "web": Service(web.program, _web, script=_example("50.web"), settings=lambda _: {"port": web.PORT}),
    "echo": Service(lambda: None, _echo),
    "vsftpd": Service(
        vsftpd.program,
        script=shipped("40.vsftpd"),
        settings=lambda site: vsftpd.settings(site.directory, site.shared),
    ),
    "samba": Service(
        samba.program,
        script=shipped("50.samba"),
        settings=lambda site: samba.settings(site.directory, site.node, site.shared),
    ),
    "nginx": Service(
        web.program,
        script=shipped("41.nginx"),
        settings=lambda site: file_web.settings(site.directory, site.shared),
    ),
    "nfs": Service(
        nfs_service.programs,
        script=shipped("60.nfs"),
        settings=lambda site: nfs_service.settings(site.directory, site.node, site.shared),
    ),
    "nfstickle": Service(lambda: None, script=shipped("61.nfstickle"), settings=lambda _: {}),
    "generic": Service(
        lambda: None,
        script=shipped("70.service"),
        settings=lambda site: generic.settings(site.directory, site.shared),
    ),
}


def named(name: str) -> Service:
    """The service of that name; raises UsageError that lists them."""
    if name not in SERVICES:
        raise UsageError(f"no service {name!r}; a lab can run {', '.join(SERVICES)}")
    return SERVICES[name]
