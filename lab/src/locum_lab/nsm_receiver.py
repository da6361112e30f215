"""The client's side of the status monitor protocol, to test the notifications of :mod:`locum.nfs.nsm`."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable

import msgspec

from locum import rpc
from locum.nfs import nsm
from locum.xdr import Malformed, Packer, Unpacker


def decode_notify(arguments: bytes) -> tuple[str, int]:
    """Name and state in the arguments of SM_NOTIFY. Raises Malformed."""
    values = Unpacker(arguments)
    return values.string(), values.sint()


class Received(msgspec.Struct, frozen=True):
    """A received notification, ``at`` seconds of the monotonic clock."""

    sender: str
    name: str
    state: int
    at: float


class Receiver:
    """Answers the port mapper's questions about the status monitor, and receives SM_NOTIFY, where these ports are free.

    ``acknowledge`` decides whether the n-th notification (from 0) is answered; ``mapper`` False leaves
    the port mapper to a real one.
    """

    def __init__(
        self,
        address: str,
        *,
        mapper_port: int = rpc.PORTMAPPER_PORT,
        mapper: bool = True,
        port: int = 0,
        acknowledge: Callable[[int], bool] = lambda _: True,
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.received: list[Received] = []
        self._acknowledge = acknowledge
        self._monitor = socket.socket(family, socket.SOCK_DGRAM)
        self._monitor.bind((address, port))
        self.port: int = self._monitor.getsockname()[1]
        self._sockets = [self._monitor]
        if mapper:
            self._mapper = socket.socket(family, socket.SOCK_DGRAM)
            self._mapper.bind((address, mapper_port))
            self._sockets.append(self._mapper)
        #: The port mapper's port, when it was given port 0.
        self.mapper_port: int = self._sockets[-1].getsockname()[1]

    def serve(self, until: Callable[[], bool], limit: float = 30.0) -> bool:
        """Answer until ``until`` holds (asked after every message and twenty times a second); False after ``limit``."""
        end = time.monotonic() + limit
        with selectors.DefaultSelector() as selector:
            for opened in self._sockets:
                selector.register(opened, selectors.EVENT_READ)
            while not until():
                if time.monotonic() > end:
                    return False
                for key, _ in selector.select(0.05):
                    self._answer(key.fileobj)  # type: ignore[arg-type]
        return True

    def close(self) -> None:
        """Release the ports."""
        for opened in self._sockets:
            opened.close()

    def _answer(self, opened: socket.socket) -> None:
        data, sender = opened.recvfrom(65536)
        call = Unpacker(data)
        try:
            transaction, _, _, program, version, procedure = (call.uint() for _ in range(6))
            for _ in range(2):
                call.uint()
                call.opaque(400)
        except Malformed:
            return
        if program == rpc.PORTMAPPER:
            result = self._port(version, call)
        elif program == nsm.PROGRAM and procedure == nsm.SM_NOTIFY:
            name, state = decode_notify(call.rest)
            count = len(self.received)
            self.received.append(Received(sender[0], name, state, time.monotonic()))
            if not self._acknowledge(count):
                return
            result = b""
        else:
            result = b""
        opened.sendto(rpc.encode_reply(transaction, result), sender)

    def _port(self, version: int, call: Unpacker) -> bytes:
        asked = call.uint()
        port = self.port if asked == nsm.PROGRAM else 0
        if version == 2:
            call.uint()
            return Packer().uint(port if call.uint() == socket.IPPROTO_UDP else 0).data
        call.uint()
        known = port and call.string() == "udp6"
        return Packer().string(f"::.{port >> 8}.{port & 255}" if known else "").data
