"""locum.script: services that answer, or do not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from locum import script
from locum.script import Fail
from tests.unit.script.scene import listener

pytestmark = pytest.mark.usefixtures("environment")


def test_http() -> None:
    with listener(answer=b"HTTP/1.1 204 No Content\r\n\r\n") as port:
        assert script.check_http(port) == 204
    with pytest.raises(Fail, match=f"http://127.0.0.1:{port}/x: Connection refused"):
        script.check_http(port, "/x")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 503 Busy\r\n\r\n", "answered 503"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP"),
        (b"", "the answer is not HTTP"),
        (b"x" * 100000, "the answer is not HTTP"),
        (b"\xff\xfe\r\n\r\n", "the answer is not HTTP"),
    ],
)
def test_http_that_is_not_well(answer: bytes, reason: str) -> None:
    with listener(answer=answer) as port, pytest.raises(Fail, match=reason):
        script.check_http(port)


def test_http_that_hangs() -> None:
    with listener() as port, pytest.raises(Fail, match=r"no answer within 0\.2 s"):
        script.check_http(port, timeout=0.2)


def test_unix_sockets(environment: Path) -> None:
    path = str(environment / "socket")
    with pytest.raises(Fail, match="No such file"):
        script.check_unix_socket(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        with pytest.raises(Fail, match="Connection refused"):
            script.check_unix_socket(path)
        server.listen()
        script.check_unix_socket(path)
