"""Listening TCP sockets: which there are, and the news that one has gone.

Rules of this file: ports only; which service a port belongs to, and what its end means, is for others to say.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from locum.netlink import core, filters, sock_diag
from locum.netlink.core import NetlinkSocket

if TYPE_CHECKING:
    import asyncio

_WILDCARD6 = "::"
_BUFFER = 1 << 20
_PER_WAKE_UP = 256


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
    A service that stopped listening before the watch began is not reported either; polling finds that.
    """

    def __init__(self, on_closed: Callable[[int], None]) -> None:
        self._on_closed = on_closed
        self._ports: frozenset[int] = frozenset()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._requests: NetlinkSocket | None = None

    def watch(self, ports: Iterable[int]) -> None:
        """From now on watch exactly these ports."""
        self._ports = frozenset(ports)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, in the present network namespace. Raises NetlinkError, PermissionRequired."""
        sock = None
        try:
            sock = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                sock_diag.NETLINK_SOCK_DIAG,
            )
            core.widen(sock, _BUFFER)
            # Ordinary connections that close must not wake us: a busy server closes thousands a second.
            filters.attach(sock, filters.listening_inet_sockets())
            sock.bind((0, 0))  # before joining: bind leaves all groups
            core.join(sock, (sock_diag.SKNLGRP_INET_TCP_DESTROY, sock_diag.SKNLGRP_INET6_TCP_DESTROY))
        except OSError as problem:
            if sock is not None:
                sock.close()
            raise core.error(problem.errno or errno.EIO, "cannot watch for closing sockets") from problem
        self._socket, self._loop, self._requests = sock, loop, sock_diag.open_socket()
        loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """Stop. Idempotent."""
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        if self._requests is not None:
            self._requests.close()
        self._socket = self._loop = self._requests = None

    def _readable(self) -> None:
        assert self._socket is not None
        assert self._requests is not None
        suspects: set[int] = set()
        for _ in range(_PER_WAKE_UP):
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError as problem:
                if problem.errno != errno.ENOBUFS:
                    raise
                suspects |= self._ports  # news was lost: it may have been about any of them
                continue
            for message in core.messages(data):
                entry = sock_diag.parse(message.payload)
                if entry is not None and entry.peer_port == 0 and entry.port in self._ports:
                    suspects.add(entry.port)
        if suspects:
            alive = {port for _family, port in _listening_ports(self._requests)}
            for port in sorted(suspects - alive):
                self._on_closed(port)
