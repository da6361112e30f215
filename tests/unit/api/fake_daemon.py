"""A control server for tests: a thread that answers at a real Unix socket as it is told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: A request in, what to send back out: an answer (a mapping), raw bytes, or several of them; None closes.
Handler = Callable[[dict[str, Any]], Any]


class FakeDaemon:
    """See the module; ``requests`` is what was asked."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self.path = str(path)
        self.requests: list[dict[str, Any]] = []
        self.disconnected = threading.Event()
        self._handler = handler
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self.path)
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection:
            line = connection.makefile("rb").readline()
            if not line:
                return
            request = json.loads(line)
            self.requests.append(request)
            try:
                self._send(connection, self._handler(request))
            except OSError:
                self.disconnected.set()

    def _send(self, connection: socket.socket, answer: Any) -> None:
        if answer is None:
            return
        if isinstance(answer, bytes):
            connection.sendall(answer)
        elif isinstance(answer, Mapping):
            connection.sendall(json.dumps(answer).encode() + b"\n")
        else:
            for part in answer:
                self._send(connection, part)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@contextmanager
def fake_daemon(path: Path, handler: Handler) -> Iterator[FakeDaemon]:
    """A running :class:`FakeDaemon` at ``path``."""
    daemon = FakeDaemon(path, handler)
    try:
        yield daemon
    finally:
        daemon.close()
