"""Guests whose kernels serve NFS, and a guest that is their client. No cluster software: :mod:`tests.vm.nfs_clusters`.

There is no cluster file system: each node mounts a *copy* of one small file system, so that file handles are the same
on all nodes, as they are in a cluster's. What is written through one node is not on the other, and a lock that one
kernel granted is unknown to the other. So these tests show what servers, clients and Locum say to each other, and in
which order; they cannot show that data moves, nor that a cluster file system refuses a lock after the grace period.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
from pathlib import Path

from locum.errors import LocumError
from locum_lab.vm.lab import VmLab
from locum_lab.vm.machine import Machine
from tests.vm.nfs_wire import Rival, Wire

#: The name under which the client mounts one of the addresses; on the nodes it is no name of a host.
NAME = "nfs.test"
EXPORT = "/srv/share"
#: The client's address.
CLIENT = "10.77.0.201"
#: The port of the client's rpc.statd, so that a test can close it.
STATD_PORT = 32765

#: Limit for one command in a guest, and the pause between two questions that take a guest's time; seconds.
COMMAND, PAUSE = 240.0, 2.0

# Holds a lock, and writes and syncs numbered records. Says what changes, and how long a write was blocked; the second
# file gets the number of records that are on the server's disk.
_HOLD = """
import fcntl, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(descriptor, fcntl.LOCK_EX)
print("locked", flush=True)
progress = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
said, number = "", 0
while True:
    begun = time.monotonic()
    try:
        os.pwrite(descriptor, b"%08d\\n" % number, number * 9)
        os.fsync(descriptor)
        number += 1
        os.pwrite(progress, b"%d" % number, 0)
        now = "written"
    except OSError as error:
        now = f"failed: {error}"
    took = time.monotonic() - begun
    if took > 2:
        print(f"blocked for {took:.1f} s", flush=True)
    if now != said:
        print(now, flush=True)
    said = now
    time.sleep(0.5)
"""


class Client:
    """A guest that mounts the export. Its mounts are hard: a command that touches one may wait for a server."""

    def __init__(self, lab: VmLab, named: str) -> None:
        """``named``: the address that :data:`NAME` stands for."""
        self.lab, self.machine = lab, lab.machine("c1")
        self.machine.write("/etc/nfs.conf.d/port.conf", f"[statd]\nport = {STATD_PORT}\n")
        self.machine.write("/root/hold.py", _HOLD)
        self.run(
            f"grep -q {NAME} /etc/hosts || echo '{named} {NAME}' >>/etc/hosts; mkdir -p /mnt/1 /mnt/2 /mnt/4;"
            "systemctl start rpc-statd"
        )

    def run(self, script: str) -> str:
        """Run a shell script."""
        return self.machine.sh(script, timeout=COMMAND)

    def mount(self, server: str, place: str, *, version: str = "3") -> None:
        """Mount the export, by an address or a name."""
        self.run(f"mount -t nfs -o vers={version},hard,retry=2 {server}:{EXPORT} {place}")

    def hold(self, file: str) -> str:
        """Lock a file and keep writing to it; returns the name of the log."""
        log = f"/tmp/hold{file.replace('/', '-')}.log"
        self.machine.agent.start(["sh", "-c", f"exec python3 /root/hold.py {file} {log}.done >{log} 2>&1"])
        self.lab.wait_for(f"a lock of {file}", lambda: "written" in self.run(f"cat {log} || true"), pause=PAUSE)
        return log

    def keep_open(self, file: str) -> None:
        """Open a file for reading, until :meth:`forget`: an NFSv4 server may delegate it to the client."""
        self.machine.agent.start(["python3", "-c", f"import time; hold = open({file!r}); time.sleep(1e6)"])

    def forget(self) -> None:
        """End what holds locks, and unmount without waiting for servers."""
        self.run(
            "for p in $(pgrep -x python3); do ! grep -q hold /proc/$p/cmdline || kill -9 $p; done; sleep 1;"
            "for m in 1 2 4; do timeout 60 umount -f /mnt/$m || umount -l /mnt/$m || true; done"
        )

    def blocked(self, log: str) -> list[float]:
        """How long the writes of :meth:`hold` took that were blocked, in seconds of the guest's clock."""
        return [float(text) for text in re.findall(r"blocked for (\S+) s", self.machine.read(log))]

    def failed(self, log: str) -> str:
        """The first error of a write of :meth:`hold`."""
        return next(iter(re.findall(r"failed: (.*)", self.machine.read(log))), "")

    def synced(self, log: str) -> int:
        """How many records are synced."""
        return int(self.machine.read(f"{log}.done") or 0)

    def complaints(self) -> str:
        """What the kernel says about locks that it could not reclaim."""
        return self.run("dmesg | grep -E 'lost [0-9]+ locks|failed to reclaim|lock reclaim' || true")

    def wire(self) -> Wire:
        """What it hears and says about locks."""
        return Wire(self.lab.layout.hub, self.machine.hardware.interfaces[0].tap)


def rival(lab: VmLab, node: str, file: str) -> Rival:
    """One that asks the lock manager of a node for a lock of ``file`` all the time, by the private network."""
    return Rival(lab.layout.hub, lab.layout.private_address(node), EXPORT, file)


def missing(lab: VmLab, client: Client, file: str, log: str) -> list[int]:
    """The records that the client had synced, and that no node has."""
    synced = client.synced(log)
    assert synced
    found = [lab.machine(node).read(f"{EXPORT}/{file}") for node in lab.layout.node_names]
    return [n for n in range(synced) if not any(text[n * 9 : n * 9 + 9] == f"{n:08d}\n" for text in found)]


def states(machine: Machine) -> str:
    """What NFSv4 clients have at a server: opens, locks, delegations (``/proc/fs/nfsd/clients``)."""
    return machine.sh("cat /proc/fs/nfsd/clients/*/states 2>/dev/null || true", timeout=COMMAND)


def end_grace(machine: Machine) -> None:
    """End the grace periods of nfsd and lockd now, as they end by themselves when their time is over (nfsd(7)).

    A period that has ended refuses that.
    """
    for file in ("nfsd/v4_end_grace", "lockd/nlm_end_grace"):
        machine.run(["sh", "-c", f"echo Y >/proc/fs/{file}"], timeout=COMMAND)
    ended = machine.read("/proc/fs/lockd/nlm_end_grace")
    assert ended.startswith("Y"), ended


def install_share(machine: Machine, image: bytes) -> None:
    """Mount the file system of :func:`share` in a guest, also after a loss of power, and export it."""
    machine.write("/srv/share.img.gz", image)
    machine.write("/etc/exports", f"{EXPORT} *(rw,insecure,no_root_squash,no_subtree_check,fsid=77)\n")
    machine.sh(
        f"cd /srv; gunzip share.img.gz; mkdir {EXPORT}; modprobe loop; echo loop >/etc/modules-load.d/share.conf;"
        f"echo '/srv/share.img {EXPORT} ext2 loop 0 0' >>/etc/fstab; mount {EXPORT}",
        timeout=COMMAND,
    )


def share(directory: Path) -> bytes:
    """A small file system with files a to l, compressed."""
    tree = directory / "tree"
    tree.mkdir()
    for name in "abcdefghijkl":
        (tree / name).write_text("0\n")
    os.chmod(tree, 0o777)
    image = directory / "share.img"
    done = subprocess.run(["mke2fs", "-q", "-t", "ext2", "-d", str(tree), str(image), "2M"], check=False)
    if done.returncode:
        raise LocumError("mke2fs cannot make a file system")
    return gzip.compress(image.read_bytes())
