"""A client of NFS that waits for an answer of a host that died without a word is woken by a tickle, by nothing else."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable

import pytest

from locum import rpc
from locum_lab import nfs4, nfs_service, processes
from tests.lab.conftest import MakeLab
from tests.lab.nfs.scene import CLIENT, FILE, LOCUM, Scene, quiet_scene

pytestmark = [pytest.mark.lab, pytest.mark.long]

PATH = f"{nfs_service.PSEUDO}/{FILE}"


@pytest.fixture
def scene(make_lab: MakeLab) -> Scene:
    return quiet_scene(make_lab)


class Waiting(threading.Thread):
    """Calls ``question`` once; remembers when it ended, and with which error."""

    def __init__(self, question: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._question = question
        self.error: rpc.RpcError | None = None
        self.ended = 0.0
        self.start()

    def run(self) -> None:
        """As the name says."""
        try:
            self._question()
        except rpc.RpcError as error:
            self.error = error
        self.ended = time.monotonic()

    def woken(self, seconds: float) -> bool:
        """Whether it has ended, after that time at most."""
        self.join(seconds)
        return not self.is_alive()


def leave_waiting(scene: Scene, address: str) -> tuple[nfs4.Client, Waiting]:
    """A client whose request has reached its server and was confirmed by its kernel, and whose host is dead then. It
    has nothing to send, so its own kernel will not find out."""
    client = nfs4.Client(address, "waiting", source=CLIENT, timeout=600)
    scene.inside(lambda: client.lookup(PATH))
    scene.lab.wait_for("its connection on the list", lambda: CLIENT in scene.connected(address))
    node = scene.holder(address)
    server = scene.ganesha(node)
    assert processes.send(server, signal.SIGSTOP)
    waiting = Waiting(lambda: client.lookup(PATH))  # on the connection that it has
    filters = ["dst", f"{address}:{nfs_service.PORT}"]
    there = [*["ss", "-Htn", "state", "established", "src"], f"[::ffff:{address}]:{nfs_service.PORT}"]
    scene.lab.wait_for("the request in the server's kernel", lambda: queued(scene, node, there, "receive"))
    here = ["ss", "-Htn", "state", "established", *filters]
    scene.lab.wait_for("its confirmation", lambda: not queued(scene, "client", here, "send"))
    scene.die(node)
    scene.lab.wait_for("the address elsewhere", lambda: scene.lab.served().get(address, node) != node, 60)
    return client, waiting


def queued(scene: Scene, where: str, command: list[str], which: str) -> bool:
    """Whether the kernel has bytes that wait to be read, or to be confirmed, in one of these connections."""
    lines = [line.split() for line in scene.lab.run(where, command).stdout.splitlines()]
    return any(int(line[0 if which == "receive" else 1]) for line in lines)


def test_waiting_client_is_woken_by_a_tickle_and_by_nothing_else(scene: Scene) -> None:
    first, second = scene.apart()
    lab = scene.lab
    tunable = [*LOCUM, "tunable", "set", "TickleCount"]
    assert lab.run("n1", [*tunable, "0"]).returncode == 0

    # Without tickles it sleeps on, although its address is served again.
    one, asleep = leave_waiting(scene, first)
    assert not asleep.woken(8)
    node = scene.holder(first)
    assert lab.run(node, [*tunable, "4"]).returncode == 0
    lab.wait_for("rest", lambda: lab.status(node).progress == "settled", 60)

    # With tickles the daemon of the new holder wakes it.
    other, waiting = leave_waiting(scene, second)
    served = time.monotonic()
    assert waiting.woken(30)
    print(f"awake {waiting.ended - served:+.3f} s after the address was seen to be served")
    assert "reset" in str(waiting.error)
    # Its own repetition, over another connection.
    assert scene.inside(lambda: other.lookup(PATH))
    assert not asleep.woken(0)
    one.close_connection()
    assert asleep.woken(30)
    assert scene.inside(lambda: one.lookup(PATH))
