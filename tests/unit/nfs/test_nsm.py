"""Notifications of the status monitor, on loopback, against the receiver and against silence."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from locum import rpc
from locum.nfs import nsm
from locum.xdr import Packer, Unpacker
from locum_lab import nsm_receiver
from locum_lab.nsm_receiver import Receiver


@contextmanager
def client(address: str = "127.0.0.1", acknowledge: Callable[[int], bool] = lambda _: True) -> Iterator[Receiver]:
    receiver = Receiver(address, mapper_port=0, acknowledge=acknowledge)
    ended = threading.Event()
    thread = threading.Thread(target=lambda: receiver.serve(ended.is_set, 60))
    thread.start()
    try:
        yield receiver
    finally:
        ended.set()
        thread.join()
        receiver.close()


def to(address: str, *names: str, state: int = 5, source: str = "127.0.0.1") -> list[nsm.Notification]:
    return [nsm.Notification(source, address, name, state) for name in names]


def test_notification_arrives_with_name_and_state_from_its_address() -> None:
    with client() as receiver:
        outcomes = nsm.notify(
            to("127.0.0.1", "10.0.0.7", "nfs.example", source="127.0.0.9"), 10, mapper_port=receiver.mapper_port
        )
    assert [one.problem for one in outcomes] == ["", ""]
    assert {(one.sender, one.name, one.state) for one in receiver.received} == {
        ("127.0.0.9", "10.0.0.7", 5),
        ("127.0.0.9", "nfs.example", 5),
    }


def test_ipv6() -> None:
    with client("::1") as receiver:
        outcomes = nsm.notify(to("::1", "fd77::2", source="::1"), 10, mapper_port=receiver.mapper_port)
    assert [one.problem for one in outcomes] == [""]
    assert receiver.received[0].name == "fd77::2"


def test_unacknowledged_one_is_repeated() -> None:
    with client(acknowledge=lambda count: count >= 2) as receiver:
        outcomes = nsm.notify(to("127.0.0.1", "a"), 30, mapper_port=receiver.mapper_port)
    assert outcomes[0].problem == ""
    assert len(receiver.received) == 3


def test_one_that_never_acknowledges_is_given_up_and_holds_up_nobody() -> None:
    with client(acknowledge=lambda _: False) as deaf:
        outcomes = nsm.notify(to("127.0.0.1", "a"), 0.5, mapper_port=deaf.mapper_port)
    assert "does not acknowledge" in outcomes[0].problem


class Starting:
    """A client whose status monitor is being started. Port mapper and monitor are at one port of UDP; each answers
    ``errors`` times that there is no such program. The port mapper names ``wrong`` first, where nobody answers."""

    def __init__(self, *, errors: int = 0, wrong: int = 0) -> None:
        self._errors = {rpc.PORTMAPPER: errors, nsm.PROGRAM: errors}
        self._wrong = wrong
        self.asked = self.acknowledged = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.05)
        self.port: int = self._socket.getsockname()[1]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Starting:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                message, sender = self._socket.recvfrom(65536)
            except TimeoutError:
                continue
            self._socket.sendto(self._answer(Unpacker(message)), sender)

    def _answer(self, call: Unpacker) -> bytes:
        transaction, _, _, program = (call.uint() for _ in range(4))
        if self._errors[program]:
            self._errors[program] -= 1
            return rpc.encode_reply(transaction, accepted=1)
        if program == rpc.PORTMAPPER:
            self.asked += 1
            port = self._wrong if self._wrong and self.asked == 1 else self.port
            return rpc.encode_reply(transaction, Packer().uint(port).data)
        self.acknowledged += 1
        return rpc.encode_reply(transaction)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repetitions that a test need not wait for; nothing over TCP."""
    monkeypatch.setattr(nsm, "FIRST_REPEAT", 0.05)
    monkeypatch.setattr(nsm, "TCP_AFTER", 1000.0)


@pytest.mark.usefixtures("hasty")
def test_an_error_is_no_acknowledgement() -> None:
    """Neither of its port mapper nor of its status monitor: both are asked again."""
    with Starting(errors=2) as starting:
        outcomes = nsm.notify(to("127.0.0.1", "a"), 30, mapper_port=starting.port)
    assert [one.problem for one in outcomes] == [""]
    assert (starting.acknowledged, starting.asked) == (1, 3)


@pytest.mark.usefixtures("hasty")
def test_status_monitor_that_has_another_port_by_now() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        with Starting(wrong=deaf.getsockname()[1]) as starting:
            outcomes = nsm.notify(to("127.0.0.1", "a"), 30, mapper_port=starting.port)
    assert [one.problem for one in outcomes] == [""]
    assert (starting.acknowledged, starting.asked) == (1, 2)


def test_client_that_is_gone() -> None:
    receiver = Receiver("127.0.0.1", mapper_port=0)
    receiver.close()
    outcomes = nsm.notify(to("127.0.0.1", "a"), 0.5, mapper_port=receiver.mapper_port)
    assert outcomes[0].problem


def test_address_that_is_not_here() -> None:
    outcomes = nsm.notify(to("127.0.0.1", "a", source="192.0.2.1"), 5)
    assert "cannot send from 192.0.2.1" in outcomes[0].problem


def test_many_clients_at_once() -> None:
    addresses = [f"127.0.1.{number}" for number in range(1, 101)]
    receivers = [Receiver(address, mapper_port=20111) for address in addresses]
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            for receiver in receivers:
                for opened in receiver._sockets:
                    opened.setblocking(False)
                    try:
                        receiver._answer(opened)
                    except BlockingIOError:
                        continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        wanted = [one for address in addresses for one in to(address, "a", "b")]
        outcomes = nsm.notify(wanted, 60, mapper_port=20111)
    finally:
        ended.set()
        thread.join()
        for receiver in receivers:
            receiver.close()
    assert [one.problem for one in outcomes] == [""] * 200


def test_state_number_has_31_bits() -> None:
    assert nsm_receiver.decode_notify(nsm.encode_notify("a", 0x7FFFFFFF)) == ("a", 0x7FFFFFFF)
    assert nsm_receiver.decode_notify(nsm.encode_notify("a", 0x80000001)) == ("a", 1)
