"""Messages that the kernel sends to multicast groups, read by an event loop.

This file knows bytes and their loss; the subscriber knows their meaning.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from locum.machine.netlink import core, filters

if TYPE_CHECKING:
    import asyncio

#: Bytes of messages that the kernel keeps while the process is busy.
_BUFFER = 4 << 20
_PER_WAKE_UP = 512
_KERNEL = 0


class Subscription:
    """Membership of multicast groups of a netlink family, in the present network namespace, until :meth:`close`.

    ``loop`` calls ``on_readable`` when there are messages, which :meth:`news` then returns. ``what`` names the
    subscription in errors. ``program``: a filter, so that unwanted messages wake no process. Raises NetlinkError.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        family: int,
        groups: Iterable[int],
        on_readable: Callable[[], None],
        what: str,
        program: Sequence[filters.Instruction] = (),
    ) -> None:
        self._loop = loop
        self._socket: socket.socket | None = None
        sock = None
        try:
            sock = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, family
            )
            core.widen(sock, _BUFFER)
            if program:
                filters.attach(sock, program)
            sock.bind((0, 0))  # before joining: bind leaves all groups
            core.join(sock, groups)
        except OSError as problem:
            if sock is not None:
                sock.close()
            raise core.error(problem.errno or errno.EIO, what) from problem
        self._socket = sock
        loop.add_reader(sock.fileno(), on_readable)

    def news(self) -> Iterator[bytes | None]:
        """The messages that have arrived, oldest first, up to a limit; None where the kernel dropped some.

        Ends when the subscription is closed meanwhile.
        """
        for _ in range(_PER_WAKE_UP):
            if self._socket is None:
                return
            try:
                data, sender = self._socket.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError as problem:
                if problem.errno != errno.ENOBUFS:
                    raise
                yield None
                continue
            if sender[0] == _KERNEL:
                yield data

    def close(self) -> None:
        """Leave the groups. Idempotent."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
