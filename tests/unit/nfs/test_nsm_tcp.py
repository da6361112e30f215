"""Notifications to clients whose status monitor, or whose whole machine, is reached by nothing but TCP."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from locum import rpc
from locum.nfs import nsm
from locum.xdr import Packer, Unpacker
from locum_lab import nsm_receiver

HOST = "127.0.0.1"


class TcpClient:
    """A port mapper and a status monitor, both at one port of TCP. At the same port of UDP the port mapper says that
    nothing is registered (``mapper``), or nobody answers. The first ``refused`` notifications are not acknowledged."""

    def __init__(self, *, mapper: bool, refused: int = 0) -> None:
        self.received: list[tuple[str, int, str]] = []
        self._refused = refused
        self._mapper = mapper
        self._ended = False
        self._tcp = socket.create_server((HOST, 0))
        self.port = int(self._tcp.getsockname()[1])
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((HOST, self.port))
        for opened in (self._tcp, self._udp):
            opened.settimeout(0.05)
        self._threads = [threading.Thread(target=serve) for serve in (self._serve_tcp, self._serve_udp)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """No more."""
        self._ended = True
        for thread in self._threads:
            thread.join()
        self._tcp.close()
        self._udp.close()

    def _serve_tcp(self) -> None:
        while not self._ended:
            try:
                connection, sender = self._tcp.accept()
            except TimeoutError:
                continue
            with connection:
                message = rpc.read_record(connection, time.monotonic() + 10)
                answer = self._answer(message, sender[0], self.port)
                if answer is not None:
                    connection.sendall(struct.pack(">I", rpc.LAST_FRAGMENT | len(answer)) + answer)

    def _serve_udp(self) -> None:
        while not self._ended:
            try:
                message, sender = self._udp.recvfrom(65536)
            except TimeoutError:
                continue
            if self._mapper and (answer := self._answer(message, sender[0], 0)) is not None:
                self._udp.sendto(answer, sender)

    def _answer(self, message: bytes, sender: str, port: int) -> bytes | None:
        call = Unpacker(message)
        transaction, _, _, program, _, _ = (call.uint() for _ in range(6))
        call.fixed(16)  # no credentials
        if program == rpc.PORTMAPPER:
            return rpc.encode_reply(transaction, Packer().uint(port).data)
        name, state = nsm_receiver.decode_notify(call.rest)
        if self._refused:
            self._refused -= 1
            return None
        self.received.append((name, state, sender))
        return rpc.encode_reply(transaction)


@contextmanager
def client(*, mapper: bool, refused: int = 0) -> Iterator[TcpClient]:
    made = TcpClient(mapper=mapper, refused=refused)
    try:
        yield made
    finally:
        made.end()


def notify(to: TcpClient, timeout: float = 60.0) -> list[nsm.Outcome]:
    names = ("10.0.0.7", "nfs.example")
    return nsm.notify([nsm.Notification("127.0.0.9", HOST, name, 5) for name in names], timeout, mapper_port=to.port)


def test_status_monitor_without_udp() -> None:
    with client(mapper=True) as receiver:
        outcomes = notify(receiver)
    assert [one.problem for one in outcomes] == ["", ""]
    assert sorted(receiver.received) == [("10.0.0.7", 5, "127.0.0.9"), ("nfs.example", 5, "127.0.0.9")]


def test_machine_without_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall drops it, for instance."""
    monkeypatch.setattr(nsm, "TCP_AFTER", 0.2)
    with client(mapper=False) as receiver:
        outcomes = notify(receiver)
    assert [one.problem for one in outcomes] == ["", ""]
    assert {sender for _, _, sender in receiver.received} == {"127.0.0.9"}
    assert len(receiver.received) == 2


def test_repeated_until_acknowledged() -> None:
    with client(mapper=True, refused=3) as receiver:
        outcomes = notify(receiver)
    assert [one.problem for one in outcomes] == ["", ""]
    assert len(receiver.received) == 2


def test_given_up_in_the_end() -> None:
    with client(mapper=True, refused=1000) as receiver:
        begun = time.monotonic()
        outcomes = notify(receiver, timeout=1.0)
        took = time.monotonic() - begun
    assert all("closed without an answer" in one.problem for one in outcomes), outcomes
    assert took >= 1.0
