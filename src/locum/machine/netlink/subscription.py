"""News that the kernel sends to multicast groups, read by an event loop.

Rules of this file: bytes and the loss of them; what they mean is for the subscriber.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from locum.machine.netlink import core, filters

if TYPE_CHECKING:
    import asyncio

#: Bytes of news that the kernel keeps for us while we are busy with something else.
_BUFFER = 4 << 20
_PER_WAKE_UP = 512
_KERNEL = 0


class Subscription:
    """Membership of multicast groups of a netlink family, in the present network namespace, until :meth:`close`.

    ``on_readable`` is called by ``loop`` when there is news, and then takes it with :meth:`news`. ``what`` is done with
    it is for messages. ``program``: a socket filter, so that what nobody wants wakes nobody. Raises NetlinkError.
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
        """What has come, oldest first, up to some number of messages; None where the kernel had to drop some.

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
        """Leave. Idempotent."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
