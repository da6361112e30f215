"""locum.script: what scripts ask the daemon."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from locum import script
from locum.script import Fail

pytestmark = pytest.mark.usefixtures("environment")


@contextmanager
def daemon(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                requests.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        thread.join()


def test_tunables_without_a_daemon(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.apply_tunables() == "no daemon"
    monkeypatch.setenv("LOCUM_SOCKET", str(environment / "socket"))
    assert script.apply_tunables() == "no daemon"


def test_tunables(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = environment / "socket"
    monkeypatch.setenv("LOCUM_SOCKET", str(path))
    with daemon(path, b'{"ok": true, "result": {"message": "2 tunables set"}}\n') as requests:
        assert script.apply_tunables() == "2 tunables set"
    assert requests == [b'{"op": "tunable-defaults"}\n']


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"ok": false, "error": "no store"}\n', "the tunables were not applied: no store"),
        (b"", "the tunables were not applied: .* closed the connection without an answer"),
        (b"HTTP/1.1 400\r\n", "answer is not JSON"),
        (b"[1]\n", "answer is not JSON"),
    ],
)
def test_a_daemon_that_refuses(environment: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, reason: str) -> None:
    path = environment / "socket"
    monkeypatch.setenv("LOCUM_SOCKET", str(path))
    with daemon(path, answer), pytest.raises(Fail, match=reason):
        script.apply_tunables()
