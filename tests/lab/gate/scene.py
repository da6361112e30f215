"""The stage for the tests of the gate: a node, another node and a client on one network.

The client sees everything that the node sends. "Mute" means: neither an answer nor anything else from the address.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from locum.machine.gate.gate import Gate
from tests.lab.namespaces import Client, Namespace, Network, Tap

A4, B4 = "10.77.0.100", "10.77.0.101"
A6, B6 = "fd77::100", "fd77::101"
PUBLIC = (A4, B4, A6, B6)
EVERYTHING = {A4: {"arp", "ping", "tcp"}, A6: {"nd", "ping6", "tcp6"}}
#: How long to wait for answers that must not come. Those that come, come within a millisecond.
SILENCE = 0.3


@dataclass
class Scene:
    """A node, another node, and a client on one network; public addresses A and B."""

    network: Network
    node: Namespace
    other: Namespace
    client_namespace: Namespace
    client: Client
    mac: bytes

    def gate(self) -> Gate:
        with self.node.entered():
            return Gate()

    def install(self, gate: Gate, public: tuple[str, ...] = PUBLIC) -> None:
        with self.node.entered():
            gate.install(public, ["eth0"])

    def configure(self, *addresses: str, at: Namespace | None = None) -> None:
        for address in addresses:
            bits = "64" if ":" in address else "24"
            flags = ("nodad", "preferred_lft", "0") if ":" in address else ()
            (at or self.node).run("ip", "addr", "add", f"{address}/{bits}", "dev", "eth0", *flags)

    def answered(self, address: str, patience: float = 5.0) -> set[str]:
        return self.client.answered(address, self.mac, patience)

    def assert_mute(self, *addresses: str) -> None:
        for address in addresses:
            assert self.answered(address, SILENCE) == set(), address

    def assert_speaks(self, *addresses: str) -> None:
        for address in addresses:
            expected = {"nd", "ping6", "tcp6"} if ":" in address else {"arp", "ping", "tcp"}
            answered = self.answered(address)
            assert answered == expected, f"{address}: no answer to {expected - answered}"


@pytest.fixture(name="scene")
def scene_fixture() -> Iterator[Scene]:
    network = Network()
    try:
        node = network.host("node", "10.77.0.1/24", "fd77::1/64")
        other = network.host("other", "10.77.0.2/24", "fd77::2/64")
        outside = network.host("client", "10.77.0.9/24", "fd77::9/64")
        client = Client(outside, "10.77.0.9", "fd77::9")
        made = Scene(network, node, other, outside, client, node.mac("eth0"))
        yield made
        client.close()
    finally:
        network.delete()


@pytest.fixture(name="gate")
def gate_fixture(scene: Scene) -> Iterator[Gate]:
    made = scene.gate()
    yield made
    made.close()


def opened(gate: Gate, hold: float = 30.0, slot: int = 0) -> None:
    assert gate.confirm(gate.arm(slot, hold))


def load_chain(namespace: Namespace, table: str, hook: str, rule: str) -> None:
    """Load an admin's own nftables chain."""
    namespace.run("nft", "-f", "-", stdin=f"table {table} {{\n chain c {{\n {hook};\n {rule}\n }}\n}}\n")


def last_answer(scene: Scene, address: str, until: float, pause: float = 0.001) -> dict[str, int]:
    """Ask in every way, every ``pause`` seconds, until then (monotonic). When the node last sent an answer, by
    protocol.

    The times are the kernel's, taken where the node's packets leave it.
    """
    tap = Tap(scene.node)
    questions = scene.client.questions(address, scene.mac)
    latest: dict[str, int] = {}
    while time.monotonic() < until:
        for frame, _ in questions.values():
            scene.client.tap.send(frame)
        time.sleep(pause)
        for seen in tap.pending():
            if seen.outgoing:
                for name, (_, matches) in questions.items():
                    if matches(seen.frame):
                        latest[name] = seen.when
    tap.close()
    scene.client.tap.clear()
    return latest


class Puppet:
    """A process in the node's namespace that runs one line of Python at a time, on an object ``gate``."""

    def __init__(self, namespace: Namespace) -> None:
        code = (
            "import sys\n"
            "from locum.machine.gate.gate import Gate\n"
            "gate = Gate()\n"
            "for line in sys.stdin:\n"
            "    try:\n"
            "        exec(line)\n"
            "        print('done', flush=True)\n"
            "    except Exception as problem:\n"
            "        print(repr(problem), flush=True)\n"
        )
        with namespace.entered():
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def do(self, line: str) -> None:
        self.say(line)
        assert self.heard() == "done", line

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stopped(self) -> bool:
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as status:
            return status.read().rsplit(")", 1)[1].split()[0] == "T"

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture(name="puppet")
def puppet_fixture(scene: Scene) -> Iterator[Puppet]:
    made = Puppet(scene.node)
    made.do(f"gate.install({PUBLIC!r}, ['eth0']); gate.allow({(A4, A6)!r})")
    yield made
    made.end()
