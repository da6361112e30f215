"""Listening TCP sockets: which there are, and the news that one has gone.

Rules of this file: ports only; which service a port belongs to, and what its end means, is for others to say.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from locum.errors import NetlinkError
from locum.netlink import core, filters, sock_diag
from locum.netlink.core import NetlinkSocket
from locum.netlink.subscription import Subscription

if TYPE_CHECKING:
    import asyncio

_WILDCARD6 = "::"


def listening_ports() -> set[tuple[int, int]]:
    """(4 or 6, port) for every listening TCP socket of this network namespace.

    An IPv6 socket on the wildcard address that takes IPv4 as well counts for both. Raises NetlinkError.
    """
    with sock_diag.open_socket() as netlink:
        return _listening_ports(netlink)


def _listening_ports(netlink: NetlinkSocket) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for entry in sock_diag.tcp_sockets(netlink, family, 1 << sock_diag.TCP_LISTEN):
            if family == socket.AF_INET:
                found.add((4, entry.port))
            else:
                found.add((6, entry.port))
                if entry.address == _WILDCARD6 and not entry.only6:
                    found.add((4, entry.port))
    return found


class ListenerWatch:
    """Calls ``on_closed(port)`` when a listening socket of a watched port has gone and nobody listens there any more.

    The kernel tells when the *socket* is destroyed: when the last process that shares it has closed it. Killing the
    master of a service whose workers inherited the socket is therefore not seen, and rightly: clients still connect.
    A port that is watched newly and that nobody listens on is reported at once: its service ended after it was
    declared, and before the watch of it began.
    """

    def __init__(self, on_closed: Callable[[int], None]) -> None:
        self._on_closed = on_closed
        self._ports: frozenset[int] = frozenset()
        self._news: Subscription | None = None
        self._requests: NetlinkSocket | None = None

    def watch(self, ports: Iterable[int]) -> None:
        """From now on watch exactly these ports."""
        before, self._ports = self._ports, frozenset(ports)
        with contextlib.suppress(NetlinkError):  # what cannot be listed now is found by polling
            self._report(self._ports - before)

    def look(self, ports: Iterable[int]) -> None:
        """Report those of ``ports`` that are watched and that nobody listens on now."""
        with contextlib.suppress(NetlinkError):
            self._report(self._ports & frozenset(ports))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, in the present network namespace. Raises NetlinkError, PermissionRequired."""
        groups = (sock_diag.SKNLGRP_INET_TCP_DESTROY, sock_diag.SKNLGRP_INET6_TCP_DESTROY)
        # Ordinary connections that close must not wake us: a busy server closes thousands a second.
        program = filters.listening_inet_sockets()
        what = "cannot watch for closing sockets"
        self._news = Subscription(loop, sock_diag.NETLINK_SOCK_DIAG, groups, self._readable, what, program)
        try:
            self._requests = sock_diag.open_socket()
            self._report(self._ports)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop. Idempotent."""
        for opened in (self._news, self._requests):
            if opened is not None:
                opened.close()
        self._news = self._requests = None

    def _readable(self) -> None:
        assert self._news is not None
        suspects: set[int] = set()
        for data in self._news.news():
            if data is None:
                suspects |= self._ports  # news was lost: it may have been about any of them
                continue
            for message in core.messages(data):
                entry = sock_diag.parse(message.payload)
                if entry is not None and entry.peer_port == 0 and entry.port in self._ports:
                    suspects.add(entry.port)
        self._report(suspects)

    def _report(self, suspects: Collection[int]) -> None:
        """Those of ``suspects`` on which nobody listens."""
        if suspects and self._requests is not None:
            alive = {port for _family, port in _listening_ports(self._requests)}
            for port in sorted(set(suspects) - alive):
                self._on_closed(port)
