"""locum.script: RPC services, with a port mapper that misbehaves."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from locum import rpc, script
from locum.script import Fail
from tests.unit.script.scene import free_port

pytestmark = pytest.mark.usefixtures("environment")


class FakeRpc:
    """A port mapper and one service (program 100003, version 3), in one; behaves as told."""

    def __init__(self, how: str = "well") -> None:
        self.how = how
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.tcp.getsockname()[1]
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", self.port))
        self.calls: list[tuple[int, int, int]] = []
        for target in (self._serve_tcp, self._serve_udp):
            threading.Thread(target=target, daemon=True).start()

    def _answer(self, request: bytes) -> bytes:
        xid, kind, version, program, program_version, procedure = struct.unpack_from(">6I", request)
        assert (kind, version) == (0, 2)
        self.calls.append((program, program_version, procedure))
        accepted = struct.pack(">6I", xid, 1, 0, 0, 0, 0)
        if program == 100000:
            wanted = struct.unpack_from(">4I", request, 40)
            registered = wanted[:2] == (100003, 3) and wanted[2] in (6, 17)
            return accepted + struct.pack(">I", self.port if registered else 0)
        if self.how == "denied":
            return struct.pack(">5I", xid, 1, 1, 1, 5)
        if self.how == "version":
            return struct.pack(">8I", xid, 1, 0, 0, 0, 2, 2, 4)
        if self.how == "verifier":
            return struct.pack(">5I", xid, 1, 0, 1, 3) + b"abc\0" + struct.pack(">I", 0)
        return accepted

    def _serve_tcp(self) -> None:
        while True:
            try:
                connection, _ = self.tcp.accept()
            except OSError:
                return
            with connection:
                length = struct.unpack(">I", connection.recv(4, socket.MSG_WAITALL))[0] & 0x7FFFFFFF
                answer = self._answer(connection.recv(length, socket.MSG_WAITALL))
                if self.how == "silent" and len(self.calls) > 1:
                    time.sleep(5)
                # In two fragments, as is allowed.
                first, second = answer[:5], answer[5:]
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(struct.pack(">I", len(first)) + first)
                    connection.sendall(struct.pack(">I", 0x80000000 | len(second)) + second)

    def _serve_udp(self) -> None:
        dropped = False
        while True:
            try:
                request, peer = self.udp.recvfrom(65536)
            except OSError:
                return
            answer = self._answer(request)
            if self.how == "lossy" and not dropped:
                dropped = True
                continue
            self.udp.sendto(b"stray datagram", peer)
            self.udp.sendto(answer, peer)

    def close(self) -> None:
        self.tcp.close()
        self.udp.close()


@pytest.fixture
def fake_rpc(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], FakeRpc]]:
    made: list[FakeRpc] = []

    def make(how: str) -> FakeRpc:
        made.append(FakeRpc(how))
        monkeypatch.setattr(rpc, "PORTMAPPER_PORT", made[-1].port)
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("tcp", [True, False])
@pytest.mark.parametrize("how", ["well", "verifier", "lossy"])
def test_rpc(fake_rpc: Callable[[str], FakeRpc], how: str, tcp: bool) -> None:
    server = fake_rpc(how)
    script.check_rpc("nfs", 3, tcp=tcp, timeout=30)
    script.check_rpc(100003, 3, tcp=tcp, timeout=30)
    assert (100003, 3, 0) in server.calls


@pytest.mark.parametrize(
    ("how", "program", "reason"),
    [
        (
            "well",
            "mountd",
            "RPC service mountd: program 100005 version 3/tcp is not registered with the port mapper of 127.0.0.1",
        ),
        ("denied", "nfs", "the call was denied"),
        ("version", "nfs", "version not supported"),
        ("silent", "nfs", "no answer within 0.3 s"),
        ("well", "nosuch", "unknown RPC program 'nosuch'"),
    ],
)
def test_rpc_that_is_not_well(fake_rpc: Callable[[str], FakeRpc], how: str, program: str, reason: str) -> None:
    fake_rpc(how)
    with pytest.raises(Fail) as caught:
        script.check_rpc(program, 3, timeout=0.3 if how == "silent" else 30)
    assert reason in str(caught.value)


def test_rpc_without_a_port_mapper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "PORTMAPPER_PORT", free_port())
    with pytest.raises(
        Fail, match=r"RPC service nfs: program 100000 version 2 on 127.0.0.1 port \d+/tcp: Connection refused"
    ):
        script.check_rpc("nfs", 3)
