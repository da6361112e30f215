"""Prints what a client of kernel NFS servers sees of each fault, with Locum or with CTDB: the table of docs/nfs.md.

``python -m tests.vm.compare_nfs locum|ctdb [FAULT…]``, as root. The guests are emulated: seconds are only comparable
with each other. As in :mod:`tests.vm.nfs_guests`, the nodes do not share their locks.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from locum_lab import lab as labs
from locum_lab import processes
from locum_lab.layout import Layout
from locum_lab.nlm import Status
from locum_lab.vm import faults
from locum_lab.vm.lab import VmLab
from tests.vm.nfs_clusters import SETTINGS, Cluster, Ctdb, Locum
from tests.vm.nfs_guests import CLIENT, COMMAND, PAUSE, Client, end_grace, rival, share
from tests.vm.nfs_wire import described

#: Seconds in which a client that goes on notices what became of its locks, and in which it comes on record: with CTDB,
#: monitor records it.
_NOTICES, _RECORDED_WITHIN = 60.0, 90.0

#: NFS version → where it is mounted.
_MOUNTS = {"3": "/mnt/1", "4.2": "/mnt/4"}


def _stop(cluster: Cluster, node: str) -> None:
    cluster.lab.machine(node).agent.start(["systemctl", "stop", cluster.unit])


def _restart(cluster: Cluster, node: str) -> None:
    cluster.lab.machine(node).sh("systemctl restart nfs-server", timeout=COMMAND)


def _move(cluster: Cluster, node: str) -> None:
    address = cluster.lab.layout.public_addresses[0].address
    cluster.move(address, cluster.other(node))


#: What happens to the holder of the address, and whether the address leaves it.
FAULTS: dict[str, tuple[Callable[[Cluster, str], object], bool]] = {
    "move": (_move, True),
    "power-cut": (lambda cluster, node: faults.apply(cluster.lab, node, "power-cut"), True),
    "restart": (_restart, False),
    "stop": (_stop, True),
    "cut": (lambda cluster, node: faults.apply(cluster.lab, node, "cut"), True),
}


def measure(cluster: Cluster, client: Client, fault: str) -> None:
    """Do one fault to the holder of the first address, and print what was seen."""
    apply, leaves = FAULTS[fault]
    lab, address = cluster.lab, cluster.lab.layout.public_addresses[0].address
    old = cluster.holder(address)
    target = cluster.other(old) if leaves else old
    # Files of its own for each fault: a server may still have the locks of an earlier one.
    number = 2 * list(FAULTS).index(fault)
    files = dict(zip(_MOUNTS, "abcdefghijkl"[number:], strict=False))
    for version, place in _MOUNTS.items():
        client.mount(address, place, version=version)
    logs = {version: client.hold(f"{_MOUNTS[version]}/{file}") for version, file in files.items()}
    client.run("dmesg -C")
    recorded = _recorded(cluster, old)
    with client.wire() as wire, rival(lab, target, files["3"]) as v3, rival(lab, target, files["4.2"]) as v4:
        lab.wait_for("no grace period", lambda: v3.latest() in (Status.GRANTED, Status.DENIED))
        begun, before = time.monotonic(), {version: client.synced(log) for version, log in logs.items()}
        apply(cluster, old)
        lab.wait_for("the move", lambda: not leaves or cluster.served().get(address) == target, pause=PAUSE)
        moved = time.monotonic()
        for version, log in logs.items():
            lab.wait_for(
                f"NFSv{version} goes on",
                lambda f=version, n=log: client.synced(n) > before[f] or client.failed(n),  # type: ignore[misc]
                pause=PAUSE,
            )
        time.sleep(_NOTICES)
        end_grace(lab.machine(target))
        for asking in (v3, v4):
            lab.wait_for(
                "no grace period",
                lambda one=asking: one.latest() in (Status.GRANTED, Status.DENIED),  # type: ignore[misc]
            )
        print(
            f"== {cluster.unit}, {fault}: address moved after {moved - begun:.0f} s; client {recorded} record",
            flush=True,
        )
        for version, asking in (("3", v3), ("4.2", v4)):
            kept = "kept" if asking.latest() is Status.DENIED else "LOST"
            writes = f"longest write {max(client.blocked(logs[version]), default=0):.1f} s"
            print(f"  NFSv{version}: lock {kept}, {writes}, error: {client.failed(logs[version]) or 'none'}")
        print(described(begun, wire, v3, v4))
        print(f"  the client's kernel: {client.complaints() or 'nothing'}", flush=True)
    client.forget()
    cluster.heal()
    lab.machine(old).sh(f"systemctl start {cluster.unit}", timeout=COMMAND)
    cluster.wait_settled()


def _recorded(cluster: Cluster, node: str) -> str:
    deadline = time.monotonic() + _RECORDED_WITHIN
    while time.monotonic() < deadline:
        if CLIENT in cluster.recorded(node):
            return "on"
        time.sleep(PAUSE)
    return "NOT on"


def main(product: str, chosen: list[str]) -> None:
    """Boot a lab, measure, take it down."""
    layout = Layout(name="nfs", nodes=2, clients=1, addresses=2, hold=20.0)
    lab = VmLab.up(layout, settings=SETTINGS, locum=False, owner=processes.find(os.getpid()))
    try:
        cluster = {"locum": Locum, "ctdb": Ctdb}[product](lab)
        with tempfile.TemporaryDirectory() as directory:
            cluster.install(share(Path(directory)))
        cluster.start()
        for node in layout.node_names:
            end_grace(lab.machine(node))
        client = Client(lab, layout.public_addresses[0].address)
        for fault in chosen or FAULTS:
            measure(cluster, client, fault)
    finally:
        labs.down(layout.name)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
