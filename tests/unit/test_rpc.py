"""RPC messages, the port mapper's answers, and servers that misbehave."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from locum import rpc
from locum.xdr import Malformed, Packer, Unpacker


@contextmanager
def udp_server(answer: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """Answers datagrams on loopback; the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.05)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    data, sender = server.recvfrom(65536)
                except TimeoutError:
                    continue
                if (reply := answer(data)) is not None:
                    server.sendto(reply, sender)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join()


@contextmanager
def tcp_server(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """Takes one connection, reads once and answers with what ``answer`` makes of the message; the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer(connection.recv(65536)[4:]))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join()


def transaction_of(message: bytes) -> int:
    return int.from_bytes(message[:4], "big")


def record(data: bytes, *, last: bool = True) -> bytes:
    return struct.pack(">I", (rpc.LAST_FRAGMENT if last else 0) | len(data)) + data


def test_call_is_encoded_as_the_rfc_has_it() -> None:
    message = rpc.encode_call(7, 100003, 3, 1, b"abcd")
    assert message == struct.pack(">10I", 7, 0, 2, 100003, 3, 1, 0, 0, 0, 0) + b"abcd"


def test_credentials_of_root_are_those_of_auth_sys() -> None:
    message = Unpacker(rpc.encode_call(7, 100003, 3, 1, system=True))
    for _ in range(6):
        message.uint()
    assert message.uint() == 1
    body = Unpacker(message.opaque())
    body.uint()
    assert body.string() == socket.gethostname()
    assert [body.uint(), body.uint(), body.uint()] == [0, 0, 0]


def test_answer_over_udp() -> None:
    with udp_server(lambda data: rpc.encode_reply(transaction_of(data), b"good")) as port:
        assert rpc.call("127.0.0.1", port, 1, 1, 0, tcp=False) == b"good"


def test_lost_datagram_is_sent_again() -> None:
    seen: list[bytes] = []

    def answer(data: bytes) -> bytes | None:
        seen.append(data)
        return rpc.encode_reply(transaction_of(data)) if len(seen) > 1 else None

    with udp_server(answer) as port:
        assert rpc.call("127.0.0.1", port, 1, 1, 0, tcp=False, timeout=20) == b""
    assert seen[0] == seen[1]


def test_answer_over_tcp_in_fragments() -> None:
    def answer(data: bytes) -> bytes:
        reply = rpc.encode_reply(transaction_of(data), b"good")
        return record(reply[:5], last=False) + record(reply[5:])

    with tcp_server(answer) as port:
        assert rpc.call("127.0.0.1", port, 1, 1, 0) == b"good"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3, "not RPC"),
        (lambda _: b"", "closed"),
        (lambda _: record(b"\0" * 8)[:6], "closed"),
        (lambda data: record(rpc.encode_reply(transaction_of(data) ^ 1)), "not RPC"),
        (lambda data: record(rpc.encode_reply(transaction_of(data), accepted=2)), "version not supported"),
        (lambda data: record(struct.pack(">5I", transaction_of(data), 1, 1, 1, 1)), "denied"),
    ],
)
def test_bad_answers_are_errors_that_say_why(answer: Callable[[bytes], bytes], says: str) -> None:
    with tcp_server(answer) as port, pytest.raises(rpc.RpcError, match=says) as failure:
        rpc.call("127.0.0.1", port, 1, 1, 0, timeout=10)
    assert not isinstance(failure.value, rpc.RpcTimeout)


def test_silence_is_a_timeout_and_refusal_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(rpc.RpcTimeout):
            rpc.call("127.0.0.1", port, 1, 1, 0, timeout=0.2)
    with pytest.raises(rpc.RpcError, match="refused") as failure:
        rpc.call("127.0.0.1", port, 1, 1, 0, timeout=5)
    assert not isinstance(failure.value, rpc.RpcTimeout)


@pytest.mark.parametrize(("address", "port"), [("::.8.1", 2049), ("fd77::2.0.111", 111), ("", 0)])
def test_port_in_a_universal_address(address: str, port: int) -> None:
    assert rpc.decode_getport(Packer().string(address).data, v6=True) == port


def test_packed_values_are_found_again() -> None:
    data = Packer().uint(1, 2).sint(-3).uhyper(1 << 40).boolean(True).opaque(b"abcde").string("host").fixed(b"xyz").data
    values = Unpacker(data)
    assert [values.uint(), values.uint(), values.sint(), values.uhyper()] == [1, 2, -3, 1 << 40]
    assert values.boolean()
    assert values.opaque() == b"abcde"
    assert values.string() == "host"
    assert values.fixed(3) == b"xyz"
    assert values.rest == b""


def test_more_than_there_is_cannot_be_unpacked() -> None:
    with pytest.raises(Malformed):
        Unpacker(b"\0\0\0\x08abc").opaque()
    with pytest.raises(Malformed):
        Unpacker(b"\xff\xff\xff\xff").opaque(100)
