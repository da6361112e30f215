"""A lab with NFS, and its client: transfers by libnfs, locks by the lock manager's protocol."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from locum import rpc
from locum_lab import namespaces, nfs_service, nsm_receiver, processes
from locum_lab.lab import Lab
from locum_lab.nlm import LockClient, Status
from tests.lab.conftest import MakeLab

T = TypeVar("T")

CLIENT, OTHER = "10.77.0.1", "10.77.0.201"
FILE = "file.txt"


class Scene:
    """One lab. ``client`` and ``other`` are two clients on one machine, with an address each."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.export = nfs_service.export_directory(lab.directory / "shared")
        (self.export / FILE).write_text("hello\n")
        link = json.loads(lab.run("client", ["ip", "-json", "address"]).stdout)
        name = next(i["ifname"] for i in link for a in i["addr_info"] if a.get("local") == CLIENT)
        lab.run("client", ["ip", "address", "add", f"{OTHER}/24", "dev", name])

    def inside(self, function: Callable[[], T]) -> T:
        """Call a function in the client's namespace."""
        return namespaces.inside(self.lab.layout.client, function)

    def holder(self, address: str) -> str:
        """The node that serves it."""
        return self.lab.served()[address]

    def elsewhere(self, *addresses: str) -> str:
        """A node that serves none of these."""
        used = {self.holder(address) for address in addresses}
        return next(node for node in self.lab.layout.node_names if node not in used)

    def apart(self) -> tuple[str, str]:
        """Two IPv4 addresses that two nodes serve."""
        served = {a: n for a, n in self.lab.served().items() if ":" not in a}
        first = min(served)
        second = next((a for a, n in sorted(served.items()) if n != served[first]), None)
        assert second is not None, served
        return first, second

    def move(self, address: str, node: str) -> None:
        """A planned move."""
        done = self.lab.run(self.lab.layout.node_names[0], [*LOCUM, "ip", "move", address, node])
        assert done.returncode == 0, done.stderr

    def lock_client(self, address: str, name: str = "client", source: str = CLIENT) -> Locks:
        """A client of the lock manager that serves ``address``."""
        return Locks(self, LockClient(address, name, source=source, timeout=2.0))

    def die(self, node: str) -> None:
        """The host is dead: cut off, and nothing in it runs. What only stopped would keep its locks of the files, which
        a cluster's file system takes away from a dead host."""
        self.lab.fault(node, "cut")
        self.lab.fault(node, "service")

    def in_grace(self, address: str) -> bool:
        """Whether a lock that nobody has is refused because of the grace period."""
        return self.lock_client(address, "asker", OTHER).lock(offset=1 << 20) is Status.DENIED_GRACE_PERIOD

    def wait_grace_over(self, address: str) -> None:
        """Wait until new locks are granted."""
        locks = self.lock_client(address, "asker", OTHER)
        self.lab.wait_for("the end of the grace period", lambda: locks.lock(offset=1 << 20) is Status.GRANTED, 60)
        locks.unlock(offset=1 << 20)

    def registered(self, node: str = "n1") -> dict[str, set[str]]:
        """Address → clients that are to be notified when it moves."""
        from locum.api import client  # noqa: PLC0415

        found: dict[str, set[str]] = {}
        for record in client.call(str(self.lab.control_socket(node)), {"op": "statd-clients"}):  # type: ignore[attr-defined]
            found.setdefault(record["address"], set()).add(record["client"])
        return found

    def connected(self, address: str) -> set[str]:
        """The clients whose connections to an address are registered in the cluster."""
        from locum.api import client  # noqa: PLC0415

        request = {"op": "connections-list", "address": address}
        found = client.call(str(self.lab.control_socket(self.holder(address))), request)
        return {one["client"].rpartition(":")[0] for report in found for one in report["connections"]}  # type: ignore[attr-defined]

    def copy(self, url: str, target: Path) -> subprocess.Popen[bytes]:
        """Begin to copy a file by nfs-cp in the client's namespace."""
        argv = self.lab.command("client", ["nfs-cp", url, str(target)])
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ganesha(self, node: str) -> processes.Process:
        """The server of a node."""
        name = self.lab.layout.namespace(node)
        for pid in namespaces.inhabitants([name])[name]:
            if processes.name_of(pid) == "ganesha.nfsd" and (found := processes.find(pid)):
                return found
        raise AssertionError(f"no ganesha.nfsd on {node}")

    def graces(self, node: str) -> int:
        """How often the node's server has begun a grace period."""
        log = (self.lab.node_directory(node) / "nfs" / "ganesha.log").read_text(errors="replace")
        return log.count("NFS Server Now IN GRACE")


class Locks:
    """Locks of one client on the scene's file; each call is made in the client's namespace."""

    def __init__(self, scene: Scene, client: LockClient) -> None:
        self._scene = scene
        self.client = client
        self._handle = b""

    def lock(self, *, reclaim: bool = False, offset: int = 0, length: int = 100) -> Status | None:
        """None when the server cannot be asked at present."""
        return self._ask(lambda: self.client.lock(self._file(), reclaim=reclaim, offset=offset, length=length))

    def unlock(self, *, offset: int = 0, length: int = 100) -> Status | None:
        """None when the server cannot be asked at present."""
        return self._ask(lambda: self.client.unlock(self._file(), offset=offset, length=length))

    def _file(self) -> bytes:
        # Handles stay valid over a move: all nodes export the same file system.
        if not self._handle:
            self._handle = self.client.lookup(self.client.root(str(self._scene.export)), FILE)
        return self._handle

    def _ask(self, question: Callable[[], Status]) -> Status | None:
        try:
            return self._scene.inside(question)
        except rpc.RpcError:
            return None


@contextlib.contextmanager
def receiving(scene: Scene, address: str = CLIENT, **options: object) -> Iterator[list[nsm_receiver.Received]]:
    """What a receiver of SM_NOTIFY at the client's address gets meanwhile."""
    receiver = scene.inside(lambda: nsm_receiver.Receiver(address, **options))  # type: ignore[arg-type]
    ended = threading.Event()
    thread = threading.Thread(target=lambda: receiver.serve(ended.is_set, 600))
    thread.start()
    try:
        yield receiver.received
    finally:
        ended.set()
        thread.join()
        receiver.close()


class Rival(threading.Thread):
    """Asks for a lock again and again until it gets it, and remembers every answer that differs from the one before."""

    def __init__(self, locks: Locks) -> None:
        super().__init__()
        self.locks = locks
        self._ended = threading.Event()
        self.answers: list[tuple[float, Status | None]] = []

    def run(self) -> None:
        """Until the lock is granted or :meth:`end`."""
        while not self._ended.is_set():
            status = self.locks.lock()
            if not self.answers or self.answers[-1][1] is not status:
                self.answers.append((time.monotonic(), status))
            if status is Status.GRANTED:
                return
            time.sleep(0.02)

    def end(self) -> None:
        """No more."""
        self._ended.set()
        self.join()

    def said(self, status: Status) -> bool:
        """Whether that was among the answers."""
        return any(answer is status for _, answer in self.answers)


def bin_directory() -> Path:
    """Where this installation's commands are."""
    import sys  # noqa: PLC0415

    return Path(sys.executable).parent


LOCUM = (str(bin_directory() / "locum"),)


def same(one: Path, other: Path) -> bool:
    """Whether two files have the same contents."""
    return subprocess.run(["cmp", "-s", str(one), str(other)], check=False).returncode == 0


def fill(path: Path, megabytes: int) -> None:
    """A file of random contents."""
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1 << 20))


def quiet_scene(make_lab: MakeLab) -> Scene:
    """Three nodes in which nothing has moved for a grace period."""
    lab = make_lab(nodes=3, addresses=4, hold=1.0, services=["nfs", "nfstickle"])
    lab.wait_served()
    scene = Scene(lab)
    for address in scene.apart():
        scene.wait_grace_over(address)
    return scene
