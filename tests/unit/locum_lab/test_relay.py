"""The relay that stands for a node's path to the store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum_lab import relay


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Path]:
    """A server that sends back what it gets; its socket."""
    path = tmp_path / "target.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve(connection: socket.socket) -> None:
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relayed(echo: Path, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A relay in front of it; its socket and pid."""
    path = tmp_path / "relay.sock"
    with subprocess.Popen([sys.executable, "-S", "-E", relay.__file__, str(path), str(echo)]) as child:
        yield path, child.pid
        child.kill()


def connect(path: Path) -> socket.socket:
    """Connect as soon as somebody listens."""
    deadline = time.monotonic() + 30
    while True:
        result = socket.socket(socket.AF_UNIX)
        result.settimeout(30)
        try:
            result.connect(str(path))
        except OSError:
            result.close()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        else:
            return result


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly that many bytes."""
    data = b""
    while len(data) < count:
        data += connection.recv(65536)
    return data


def test_both_ways(relayed: tuple[Path, int]) -> None:
    with connect(relayed[0]) as one, connect(relayed[0]) as other:
        one.sendall(b"first")
        other.sendall(b"second")
        assert receive(one, 5) == b"first"
        assert receive(other, 6) == b"second"


def test_much_data_and_a_slow_reader(relayed: tuple[Path, int]) -> None:
    data = os.urandom(1 << 22)
    with connect(relayed[0]) as one:
        sender = threading.Thread(target=one.sendall, args=(data,))
        sender.start()
        time.sleep(0.05)  # every buffer on the way is full by now; nothing depends on it
        assert receive(one, len(data)) == data
        sender.join()


def test_stopped_it_passes_nothing_and_closes_nothing(relayed: tuple[Path, int]) -> None:
    path, pid = relayed
    with connect(path) as one:
        one.sendall(b"before")
        assert receive(one, 6) == b"before"
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        one.sendall(b"during")
        one.settimeout(0.1)
        with pytest.raises(TimeoutError):
            one.recv(100)
        os.kill(pid, signal.SIGCONT)
        one.settimeout(30)
        assert receive(one, 6) == b"during"


def test_an_end_is_passed_on(relayed: tuple[Path, int], echo: Path) -> None:
    with connect(relayed[0]) as one:
        one.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""
    echo.unlink()
    with connect(relayed[0]) as another:
        assert another.recv(1) == b""  # nobody there
