"""Settings, and servers to be asked."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def configure(monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    monkeypatch.setenv("LOCUM_SETTINGS", json.dumps(settings))


@contextmanager
def listener(host: str = "127.0.0.1", answer: bytes | None = None) -> Iterator[int]:
    """A TCP port that is listened on; with ``answer``, every connection gets it and is closed."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        if answer is not None:

            def serve() -> None:
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return
                    with connection:
                        connection.recv(4096)
                        connection.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)  # wakes accept()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
