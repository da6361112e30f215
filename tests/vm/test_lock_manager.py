"""Linux's lock manager restarted in the wrong order and back to back, without Locum: the two faults because of which
Locum's restart has an order and a pause (docs/nfs.md). One server, one client. Locum's order:
:mod:`tests.vm.test_kernel_nfs`.
"""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from pathlib import Path

import pytest

from locum import rpc
from locum.xdr import Malformed, Packer, Unpacker
from locum_lab import namespaces, nlm
from locum_lab.nlm import LockClient, Status
from locum_lab.vm.lab import VmLab
from tests.vm.conftest import MakeVmLab
from tests.vm.nfs_guests import COMMAND, EXPORT, Client, end_grace, install_share, rival, share
from tests.vm.nfs_wire import described

_RESTARTS = "systemctl restart nfs-server; systemctl restart nfs-server; sleep 15; systemctl restart nfs-server"
_LOCK = 2
#: The server's address on the network of the client.
_ADDRESS = "10.77.0.2"


class Plain:
    """A kernel server at n1, and a client guest with a mount."""

    def __init__(self, lab: VmLab, directory: Path) -> None:
        self.lab, self.server = lab, lab.machine("n1")
        install_share(self.server, share(directory))
        self.serve(f"ip address add {_ADDRESS}/24 dev eth1; systemctl start rpc-statd nfs-server")
        self.client = Client(lab, _ADDRESS)
        self.client.mount(_ADDRESS, "/mnt/1")

    def serve(self, script: str) -> str:
        """Run a shell script at the server."""
        return self.server.sh(script, timeout=COMMAND)

    def notify(self) -> str:
        """Notify the client of a restart from the server's address, as a program does that does not wait."""
        notification = f'nsm.Notification("{_ADDRESS}", "10.77.0.201", "{_ADDRESS}", int(time.time()) | 1)'
        return self.serve(
            f"/opt/locum/bin/python -c 'import time; from locum.nfs import nsm; print(nsm.notify([{notification}]))'"
        )


@pytest.fixture(scope="module")
def plain(make_vm_lab: MakeVmLab, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    lab = make_vm_lab(nodes=1, clients=1, addresses=2, locum=False)
    return Plain(lab, tmp_path_factory.mktemp("nfs"))


def test_a_client_that_is_notified_before_the_lock_manager_is_registered_waits_for_it(plain: Plain) -> None:
    """The first fault does not exist in this kernel's client. Other clients give their locks up, so Locum waits for an
    answer of the lock manager before it notifies."""
    plain.client.hold("/mnt/1/a")
    with plain.client.wire() as wire, rival(plain.lab, "n1", "a") as asking:
        plain.lab.wait_for("the lock", lambda: asking.latest() is Status.DENIED)
        begun = time.monotonic()
        plain.serve("systemctl stop nfs-server")
        print(plain.notify())
        assert [one.source for one in wire.notified][:1] == [_ADDRESS]
        plain.lab.wait_for("the client to miss the lock manager", lambda: _waits(plain.client))
        plain.serve("systemctl start nfs-server")
        plain.lab.wait_for("the reclaim", lambda: wire.granted(_ADDRESS))
        end_grace(plain.server)
        plain.lab.wait_for("the end of the grace period", lambda: asking.latest() in (Status.GRANTED, Status.DENIED))
        print(described(begun, wire, asking), plain.client.complaints())
        assert asking.latest() is Status.DENIED
    assert plain.client.complaints() == ""


def _waits(client: Client) -> bool:
    return "lockd: server" in client.run("dmesg | grep 'not responding, still trying' || true")


def test_a_reclaim_has_one_answer_when_the_lock_manager_is_restarted_back_to_back(plain: Plain) -> None:
    """The second fault does not exist in this kernel."""
    hub, server = plain.lab.layout.hub, plain.lab.layout.private_address("n1")
    locks = LockClient(server, "double", owner=3, timeout=30.0)
    handle = namespaces.inside(hub, lambda: locks.lookup(locks.root(EXPORT), "b"))
    plain.lab.wait_for("the lock", lambda: namespaces.inside(hub, lambda: locks.lock(handle)) is Status.GRANTED)
    answers: dict[int, list[Status]] = defaultdict(list)
    plain.server.agent.start(["sh", "-c", _RESTARTS])
    namespaces.inside(hub, lambda: _reclaim(server, handle, 60.0, answers))
    print({status.name: sum(status in found for found in answers.values()) for status in Status})
    assert any(Status.GRANTED in found for found in answers.values())
    assert any(len(found) > 1 for found in answers.values())
    assert all(len(set(found)) == 1 for found in answers.values())


def _reclaim(server: str, handle: bytes, seconds: float, answers: dict[int, list[Status]]) -> None:
    """Send reclaims over UDP, each twice, as a client that repeats them does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.settimeout(0.1)
        end, port = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            try:
                port = rpc.port_of(server, nlm.PROGRAM, nlm.VERSION, tcp=False, timeout=1.0)
            except rpc.RpcError:
                if not port:
                    continue
            transaction = rpc.new_transaction()
            arguments = Packer().opaque(b"double").boolean(False).boolean(True)
            arguments.string("double").opaque(handle).opaque(b"3@double").sint(3).uhyper(0, 0).boolean(True).uint(1)
            message = rpc.encode_call(transaction, nlm.PROGRAM, nlm.VERSION, _LOCK, arguments.data, system=True)
            for _ in range(2):
                opened.sendto(message, (server, port))
            _receive(opened, answers)


def _receive(opened: socket.socket, answers: dict[int, list[Status]]) -> None:
    while True:
        try:
            data, _ = opened.recvfrom(4096)
            transaction = int.from_bytes(data[:4], "big")
            results = Unpacker(rpc.decode_reply(data, transaction))
            results.opaque(1024)
            answers[transaction].append(Status(results.uint()))
        except (TimeoutError, ConnectionError):
            return
        except (rpc.RpcError, Malformed):
            continue
