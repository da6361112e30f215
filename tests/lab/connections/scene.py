"""The stage for tests of connections: two nodes and a client on one network, and real TCP connections between them.

Who is connected to what is asked of ``ss``, never of the code under test.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.lab.namespaces import Namespace, Network

P4, Q4 = "10.78.0.100", "10.78.0.101"
P6 = "fd78::100"
CLIENT = {4: "10.78.0.9", 6: "fd78::9"}
PORT = 4450


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@dataclass
class Talk:
    """One connection: both ends' sockets."""

    address: str
    client: socket.socket
    server: socket.socket
    client_port: int

    def works(self) -> bool:
        try:
            self.client.sendall(b"?")
            return self.server.recv(1) == b"?"
        except OSError:
            return False


class BlockedReader:
    """A client that waits in ``recv`` on a thread of its own; remembers what came and when."""

    def __init__(self, sock: socket.socket) -> None:
        self.error: OSError | None = None
        self.data: bytes | None = None
        self.woken_at: float | None = None
        self._socket = sock
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            self.data = self._socket.recv(1)
        except OSError as error:
            self.error = error
        self.woken_at = time.monotonic()

    def wait(self, seconds: float) -> bool:
        """Whether it was woken within that time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


@dataclass
class Stage:
    """The old node has the public addresses; the new one and the client do not."""

    network: Network
    old: Namespace
    new: Namespace
    client: Namespace
    opened: list[socket.socket] = field(default_factory=list)

    def configure(self, node: Namespace, *addresses: str) -> None:
        for address in addresses:
            bits, flags = ("64", ("nodad", "preferred_lft", "0")) if ":" in address else ("24", ())
            node.run("ip", "addr", "add", f"{address}/{bits}", "dev", "eth0", *flags)

    def listen(self, node: Namespace, address: str, port: int = PORT) -> socket.socket:
        """A listening socket; "" listens on everything, IPv4 by way of IPv6."""
        with node.entered():
            made = socket.socket(family_of(address) if address else socket.AF_INET6)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address or "::", port))
            made.listen(64)
        self.opened.append(made)
        return made

    def connect(self, listener: socket.socket, address: str, port: int = PORT) -> Talk:
        with self.client.entered():
            client = socket.create_connection((address, port), timeout=20)
        client.settimeout(20)
        server, _ = listener.accept()
        server.settimeout(20)
        self.opened += [client, server]
        talk = Talk(address, client, server, client.getsockname()[1])
        assert talk.works()
        return talk

    def die(self, node: Namespace) -> None:
        """The node is cut off: nobody sees its carrier go, and nothing passes any more."""
        name = node.run("ip", "-o", "link", "show", "eth0")
        port = re.search(r"eth0@if(\d+)", name)
        assert port is not None
        links = self.network.switch.run("ip", "-o", "link")
        peer = re.search(rf"^{port.group(1)}: ([^@:]+)", links, re.M)
        assert peer is not None
        self.network.switch.run("ip", "link", "set", peer.group(1), "nomaster")

    def announce(self, node: Namespace, address: str) -> None:
        """What the daemon does after taking an address."""
        from locum.machine.announcements import Announcer  # noqa: PLC0415

        with node.entered():
            announcer = Announcer()
        announcer.announce("eth0", address)
        announcer.close()

    def close(self) -> None:
        for made in self.opened:
            made.close()


def sockets(node: Namespace, address: str, states: str = "all") -> list[str]:
    """What ``ss`` lists with that local address, listeners left out."""
    wanted = f"[{address}]" if ":" in address else address
    lines = node.run("ss", "-Htan", "state", states, "src", wanted).splitlines()
    return [line for line in lines if "LISTEN" not in line]


@pytest.fixture(name="stage")
def stage_fixture() -> Iterator[Stage]:
    network = Network()
    try:
        old = network.host("old", "10.78.0.1/24", "fd78::1/64")
        new = network.host("new", "10.78.0.2/24", "fd78::2/64")
        client = network.host("client", "10.78.0.9/24", "fd78::9/64")
        made = Stage(network, old, new, client)
        made.configure(old, P4, Q4, P6)
        yield made
        made.close()
    finally:
        network.delete()
