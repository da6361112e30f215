"""Listening TCP sockets: their list, and notifications when one closes.

This file knows ports only; the caller knows the service of a port and the meaning of its end.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from locum import tasks
from locum.errors import LocumError
from locum.machine.netlink import core, filters, sock_diag
from locum.machine.netlink.core import NetlinkSocket
from locum.machine.netlink.subscription import Subscription
from locum.threads import Worker

if TYPE_CHECKING:
    import asyncio

_WILDCARD6 = "::"
#: Limit for the kernel to list the listening sockets, in seconds.
PATIENCE = 5.0


def listening_ports(netlink: NetlinkSocket) -> set[tuple[int, int]]:
    """(4 or 6, port) for every listening TCP socket of the network namespace of ``netlink``.

    An IPv6 socket on the wildcard address that also accepts IPv4 counts for both. Raises NetlinkError.
    """
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
    """Calls ``on_closed(port)`` when a listening socket of a watched port has gone and no other listens there.

    The kernel notifies when the *socket* is destroyed, after the last process that shares it has closed it. Killing the
    master of a service whose workers inherited the socket is therefore not reported: clients can still connect. A newly
    watched port without a listener is reported at once: its service ended between its declaration and the watch.
    """

    def __init__(self, on_closed: Callable[[int], None]) -> None:
        self._on_closed = on_closed
        self._ports: frozenset[int] = frozenset()
        self._news: Subscription | None = None
        self._requests: NetlinkSocket | None = None
        self._worker = Worker("listeners")
        # Ports that may have lost their last listener; and the task that checks.
        self._suspects: set[int] = set()
        self._looking: asyncio.Task[None] | None = None

    def watch(self, ports: Iterable[int]) -> None:
        """Watch exactly these ports from now on."""
        before, self._ports = self._ports, frozenset(ports)
        self._suspect(self._ports - before)

    def look(self, ports: Iterable[int]) -> None:
        """Report those of ``ports`` that are watched and have no listener now."""
        self._suspect(self._ports & frozenset(ports))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, in the present network namespace. Raises NetlinkError, PermissionRequired."""
        groups = (sock_diag.SKNLGRP_INET_TCP_DESTROY, sock_diag.SKNLGRP_INET6_TCP_DESTROY)
        # Closing ordinary connections must not wake this process: a busy server closes thousands per second.
        program = filters.listening_inet_sockets()
        what = "cannot watch for closing sockets"
        self._news = Subscription(loop, sock_diag.NETLINK_SOCK_DIAG, groups, self._readable, what, program)
        try:
            self._requests = sock_diag.open_socket()
            self._suspect(self._ports)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop. Idempotent."""
        if self._looking is not None:
            self._looking.cancel()
        self._worker.close()
        if self._news is not None:
            self._news.close()
        # A thread that hangs still uses its socket, which ends with the process.
        if self._requests is not None and not self._worker.busy():
            self._requests.close()
        self._news = self._requests = None

    def _readable(self) -> None:
        self._suspect(self._heard())

    def _heard(self) -> set[int]:
        """Watched ports whose listening socket was destroyed since the last call."""
        assert self._news is not None
        suspects: set[int] = set()
        for data in self._news.news():
            if data is None:
                suspects |= self._ports  # notifications were lost: any port may be concerned
                continue
            for message in core.messages(data):
                entry = sock_diag.parse(message.payload)
                if entry is not None and entry.peer_port == 0 and entry.port in self._ports:
                    suspects.add(entry.port)
        return suspects

    def _suspect(self, ports: Collection[int]) -> None:
        """Report those of ``ports`` without a listener.

        The kernel lists every listening socket of the machine for that, so a thread asks it.
        """
        self._suspects.update(ports)
        if self._suspects and self._requests is not None and (self._looking is None or self._looking.done()):
            self._looking = tasks.start(self._report(), "listing listening sockets")

    async def _report(self) -> None:
        while self._suspects and self._requests is not None:
            suspects, self._suspects = self._suspects, set()
            # Ports that cannot be listed now are found by polling.
            with contextlib.suppress(LocumError):
                found = await self._worker.run("listing sockets", PATIENCE, listening_ports, self._requests)
                gone = (suspects & self._ports) - {port for _family, port in found}
                # The list already covers the notifications that have arrived by now.
                self._suspects |= self._heard()
                self._suspects -= gone
                for port in sorted(gone):
                    self._on_closed(port)
