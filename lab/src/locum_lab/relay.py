"""A node's path to the store: forwards one Unix socket to another, byte by byte.

It represents the node's private network where the store is a Unix socket. Stopped (SIGSTOP) it passes nothing and
closes nothing, like a network that drops every packet. Continued, it delivers what was sent meanwhile, as TCP's
retransmission does.

It is started by its file name with ``python -S -E``, so that it is up in 15 ms, and imports nothing of Locum.

    python -S -E relay.py LISTEN TARGET
"""

from __future__ import annotations

import os
import select
import socket
import sys

_CHUNK = 1 << 16


class Relay:
    """Accepts on ``listen``, connects each connection to ``target``, copies both ways."""

    def __init__(self, listen: str, target: str) -> None:
        self._target = target
        self._poll = select.epoll()
        self._peers: dict[int, tuple[socket.socket, socket.socket]] = {}
        self._pending: dict[int, bytearray] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.unlink(listen)
        except FileNotFoundError:
            pass
        self._listener.bind(listen)
        self._listener.listen(64)
        self._poll.register(self._listener, select.EPOLLIN)

    def run(self) -> None:
        """Forward for ever."""
        while True:
            for descriptor, events in self._poll.poll():
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor in self._peers:
                    self._serve(descriptor, events)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            far.connect(self._target)
        except OSError:
            near.close()
            far.close()
            return
        for one, other in ((near, far), (far, near)):
            one.setblocking(False)
            self._peers[one.fileno()] = (one, other)
            self._pending[one.fileno()] = bytearray()
            self._poll.register(one, select.EPOLLIN)

    def _serve(self, descriptor: int, events: int) -> None:
        one, other = self._peers[descriptor]
        try:
            if events & select.EPOLLOUT:
                self._flush(one)
            # EPOLLHUP may come with the last bytes to read.
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                data = one.recv(_CHUNK)
                if not data:
                    self._close(one, other)
                    return
                self._pending[other.fileno()] += data
                self._flush(other)
        except BlockingIOError:
            pass
        except OSError:
            self._close(one, other)

    def _flush(self, to: socket.socket) -> None:
        pending = self._pending[to.fileno()]
        try:
            while pending:
                del pending[: to.send(pending)]
        except BlockingIOError:
            pass
        # While the far side does not read, read no more from the near side: memory stays bounded.
        _, source = self._peers[to.fileno()]
        self._poll.modify(to, (select.EPOLLOUT if pending else 0) | self._reading(to))
        self._poll.modify(source, (0 if pending else select.EPOLLIN) | self._writing(source))

    def _reading(self, end: socket.socket) -> int:
        _, other = self._peers[end.fileno()]
        return 0 if self._pending[other.fileno()] else select.EPOLLIN

    def _writing(self, end: socket.socket) -> int:
        return select.EPOLLOUT if self._pending[end.fileno()] else 0

    def _close(self, one: socket.socket, other: socket.socket) -> None:
        for end in (one, other):
            self._peers.pop(end.fileno(), None)
            self._pending.pop(end.fileno(), None)
            end.close()


if __name__ == "__main__":
    Relay(sys.argv[1], sys.argv[2]).run()
