"""The kernel's NFS server: nfsd and lockd, with rpc.mountd and nfsdcld.

Only the kernel's specifics, through services and files of /proc (the setting ``proc`` replaces /proc, for tests).
Sources: ``fs/nfsd/nfsctl.c``, ``fs/nfsd/nfs4state.c`` and ``fs/lockd/svc.c`` of Linux, nfsd(7), and what
Linux 6.1 did in a guest.

lockd begins a grace period only when it starts, and drops all locks then. So every client of the node must be notified.
Between the moment when the first node drops its locks and the moment when the last node is in its grace period, a lock
can be stolen (``docs/nfs.md``). nfsd has a grace period of its own for NFSv4, in which those clients may reclaim that
were on record when it *started*: the records of other nodes are therefore added between its end and its start.

lockd serves the machine's own NFSv3 mounts as well, and outlives nfsd while there is one: locks stay, and no grace
period begins. Linux before 6.6 then drops the locks and begins a grace period when lockd gets SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Collection, Sequence

from locum import hosts, rpc
from locum.nfs import cld_records
from locum.nfs.backends.base import Backend
from locum.nfs.services import Daemon
from locum.script import Fail, log, node_name, run, settings, wait_for

#: Seconds that nfsd's threads may take to end, and lockd to follow a signal.
_STOP_LIMIT, _SIGNAL_LIMIT = 10.0, 2.0

_OWN_MOUNTS = (
    "lockd continues, because this machine mounts NFSv3 file systems itself, and this kernel does not restart it: its "
    "locks stay, and no grace period begins. Unmount them, or mount them with NFSv4 or with nolock"
)


class Kernel(Backend):
    """Settings: ``nfs_…`` (unit ``nfs-server``, which starts nfsd and, as needed, mountd and lockd), ``lock_…`` (a
    separate unit for the lock manager, on systems with one), ``mountd_…`` (rpc.mountd, where it can be restarted
    without the server), ``threads`` (how many nfsd needs), ``recovery`` (a directory of the cluster's file system with
    the ``storagedir`` of nfsdcld of each node, under the node's name), ``proc``."""

    def __init__(self) -> None:
        super().__init__()
        self._server = Daemon("nfs", "nfs-server")
        self._locks = Daemon("lock")
        self._mountd = Daemon("mountd")
        if self._mountd.managed:
            self.parts["mountd"] = self._mountd
        self._proc = str(settings().get("proc", "/proc"))
        self._recovery = str(settings().get("recovery") or "")

    def directories(self) -> list[str]:
        """Includes the directory of the records."""
        return [*super().directories(), *filter(None, [self._recovery])]

    def start(self) -> None:
        """See :class:`Backend`."""
        if self._recovery:
            try:
                cld_records.prepare(cld_records.directory(self._recovery, node_name()))
            except OSError as error:
                raise Fail(f"{self._recovery}: {error.strerror}") from None
        self._locks.start()
        self._server.start()
        self._mountd.start()
        # Locks of NFSv3 need the whole grace period: sm-notify must not end it (sm-notify(8), lift-grace).
        if os.path.exists(self._path("fs/lockd/nlm_end_grace")) and self._lifts_grace():
            log("sm-notify may end the grace period early: set lift-grace=n in the section sm-notify of nfs.conf")

    def stop(self) -> None:
        """End the threads first: a server that hangs on its disks is not stopped by its unit."""
        try:
            self._write("fs/nfsd/threads", "0")
        except Fail as failure:
            log(failure)
        self._mountd.stop()
        self._server.stop()
        self._locks.stop()
        wait_for("the end of nfsd", lambda: self._threads() == 0, _STOP_LIMIT)
        self._signal_lockd()

    def tend(self) -> None:
        """Correct the number of threads: with fewer, a server answers slowly, without any other sign."""
        wanted, present = settings().get("threads"), self._threads()
        if wanted and present and present != int(str(wanted)):
            log(f"nfsd has {present} threads: setting {wanted}")
            self._write("fs/nfsd/threads", str(wanted))

    def running(self) -> bool:
        """Whether nfsd has threads."""
        return self._threads() > 0

    def begin_grace(self, nodes: Sequence[str] = ()) -> bool:
        """Restart the server, or the lock manager alone where that is enough; see the module."""
        timeout = float(str(settings().get("timeout", 20)))
        if self._recovery:
            self.stop_and_start(self.stop, lambda: self._start_with(nodes), timeout)
        else:
            self.restart(timeout)
        if self.grace_ended():
            # lockd has outlived nfsd, and whatever it did when that ended is over.
            self._signal_lockd()
            with contextlib.suppress(Fail):
                wait_for("the grace period of lockd", lambda: not self.grace_ended(), _SIGNAL_LIMIT)
            if self.grace_ended():
                log(_OWN_MOUNTS)
        return True

    def grace_ended(self) -> bool:
        """As lockd says. nfsd has its own period, and lockd accepts reclaims in either (``fs/lockd/svclock.c``). But
        nfsd ends it as soon as all NFSv4 clients have reclaimed, so NFSv3 clients need lockd's."""
        try:
            with open(self._path("fs/lockd/nlm_end_grace"), encoding="ascii") as file:
                return file.read(1) == "Y"
        except OSError:
            return False

    def restart(self, timeout: float) -> None:
        """Only the lock manager where it has a separate unit, else the whole server."""
        if self._locks.managed:
            self.stop_and_start(self._locks.stop, self._locks.start, timeout)
        else:
            super().restart(timeout)

    def life(self) -> str:
        """lockd's process number and start: an administrator may restart nfs-server, and clients are not told then."""
        for number in self._lockds():
            with contextlib.suppress(OSError), open(self._path(f"{number}/stat"), encoding="ascii") as file:
                # proc(5): the 22nd value; the second, in parentheses, is the name.
                return f"{number} {file.read().rpartition(')')[2].split()[19]}"
        return ""

    def changing(self) -> bool:
        """See :class:`Backend`."""
        return self._server.changing()

    def release(self, address: str, clients: Collection[str] = ()) -> None:
        """Locks of NFSv3 clients that used the address (nfsd(7), ``unlock_ip``); of NFSv4 clients, the state of
        ``clients``, which other nodes have on record by now."""
        if self._threads() == 0:
            return
        self._write("fs/nfsd/unlock_ip", address)
        if self._recovery:
            self._expire(clients)

    def export_directories(self) -> list[str]:
        """As reported by exportfs(8)."""
        found = set()
        for line in run(["exportfs", "-s"], timeout=10).output.splitlines():
            if line.startswith("/"):
                found.add(_unescape(line.rsplit(None, 1)[0].rstrip()))
        return sorted(found)

    def _start_with(self, nodes: Sequence[str]) -> None:
        """Start with the NFSv4 clients of ``nodes`` on record."""
        for node in nodes:
            if node == node_name():
                continue
            try:
                clients = cld_records.read(cld_records.directory(self._recovery, node))
                added = cld_records.add(cld_records.directory(self._recovery, node_name()), clients)
            except (OSError, ValueError, sqlite3.Error) as error:
                log(f"NFSv4 clients of {node} cannot reclaim: {error}")
            else:
                log(f"NFSv4 clients of {node} may reclaim: {len(clients)}, {added} of them new here")
        self.start()

    def _expire(self, clients: Collection[str]) -> None:
        """Give up the state of NFSv4 clients by their addresses (``fs/nfsd/nfs4state.c``, ``clients/ID/ctl``)."""
        directory = self._path("fs/nfsd/clients")
        wanted = {hosts.host(client) for client in clients}
        try:
            numbers = os.listdir(directory)
        except FileNotFoundError:
            return  # before Linux 5.3; the state lasts until the lease ends
        for number in numbers:
            # A client may be gone by itself meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if self._address_of(number) in wanted:
                    self._write(f"fs/nfsd/clients/{number}/ctl", "expire")

    def _address_of(self, number: str) -> str | None:
        with open(self._path(f"fs/nfsd/clients/{number}/info"), encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("address: "):
                    text = line.split('"')[1].rpartition(":")[0].strip("[]") if line.count('"') == 2 else ""
                    with contextlib.suppress(ValueError):
                        return hosts.host(text)
        return None

    def _signal_lockd(self) -> None:
        """Make a lockd that still runs drop its locks and begin a grace period, where the kernel does that. lockd
        notices a signal when a request wakes it."""
        found = self._lockds()
        for number in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        if found:
            with contextlib.suppress(rpc.RpcError):
                rpc.null_call(rpc.NLM, 4, timeout=1.0)

    def _lockds(self) -> list[int]:
        return [int(name) for name in os.listdir(self._proc) if name.isdecimal() and self._is_lockd(name)]

    def _is_lockd(self, number: str) -> bool:
        """Whether that process is the kernel's lockd: only the kernel's threads have number 2 as parent."""
        try:
            with open(self._path(f"{number}/status"), encoding="utf-8", errors="replace") as file:
                lines = file.read().splitlines()
        except OSError:
            return False
        return "Name:\tlockd" in lines and "PPid:\t2" in lines

    def _threads(self) -> int:
        try:
            with open(self._path("fs/nfsd/threads"), encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            return 0

    def _lifts_grace(self) -> bool:
        try:
            done = run(["nfsconf", "--get", "sm-notify", "lift-grace"], check=False, timeout=5)
        except Fail:  # not installed: the warning is the better guess
            return True
        return done.output.strip().lower() not in ("n", "no", "0", "false", "off")

    def _write(self, name: str, text: str) -> None:
        """One write(2): nfsd answers a second one with EBUSY (``simple_transaction_get`` in ``fs/libfs.c``), and a file
        object that fails writes again when it is closed, which would hide the error."""
        path = self._path(name)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, f"{text}\n".encode("ascii"))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Fail(f"{path}: {error.strerror}") from None

    def _path(self, name: str) -> str:
        return os.path.join(self._proc, name)


def _unescape(path: str) -> str:
    """Decode exportfs's ``\\040`` for blanks and the like."""
    import re  # noqa: PLC0415

    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), path)
