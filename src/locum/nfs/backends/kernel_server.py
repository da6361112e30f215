"""The kernel's NFS server: nfsd and lockd, with rpc.mountd.

Only the kernel's specifics, through services and files of /proc (the setting ``proc`` replaces /proc, for tests).
Sources: ``Documentation/filesystems/nfs`` and ``fs/nfsd/nfsctl.c`` of Linux, nfsd(7), CTDB's
``nfs-linux-kernel-callout``.

The kernel begins a grace period only when its lock manager starts, and drops all locks then. So every client of the
node must be notified. Between the moment when the first node drops its locks and the moment when the last node is in
its grace period, a lock can be stolen (``docs/nfs.md``).
"""

from __future__ import annotations

import os
from collections.abc import Collection

from locum.nfs.backends.base import Backend
from locum.nfs.services import Daemon
from locum.script import Fail, log, run, settings, wait_for

#: Seconds that nfsd's threads may take to end.
_STOP_LIMIT = 10.0


class Kernel(Backend):
    """Settings: ``nfs_…`` (unit ``nfs-server``, which starts nfsd and, as needed, mountd and lockd), ``lock_…`` (a
    separate unit for the lock manager, on systems with one), ``mountd_…`` (rpc.mountd, where it can be restarted
    without the server), ``threads`` (how many nfsd needs), ``proc``."""

    def __init__(self) -> None:
        super().__init__()
        self._server = Daemon("nfs", "nfs-server")
        self._locks = Daemon("lock")
        self._mountd = Daemon("mountd")
        if self._mountd.managed:
            self.parts["mountd"] = self._mountd
        self._proc = str(settings().get("proc", "/proc"))

    def start(self) -> None:
        """See :class:`Backend`."""
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

    def tend(self) -> None:
        """Correct the number of threads: with fewer, a server answers slowly, without any other sign."""
        wanted, present = settings().get("threads"), self._threads()
        if wanted and present and present != int(str(wanted)):
            log(f"nfsd has {present} threads: setting {wanted}")
            self._write("fs/nfsd/threads", str(wanted))

    def running(self) -> bool:
        """Whether nfsd has threads."""
        return self._threads() > 0

    def begin_grace(self) -> bool:
        """Restart the lock manager; see the module."""
        self.restart(float(str(settings().get("timeout", 20))))
        return True

    def restart(self, timeout: float) -> None:
        """Only the lock manager where it has a separate unit, else the whole server."""
        if self._locks.managed:
            self.stop_and_start(self._locks.stop, self._locks.start, timeout)
        else:
            super().restart(timeout)

    def release(self, address: str, clients: Collection[str] = ()) -> None:
        """Locks of NFSv3 clients that used the address (nfsd(7), ``unlock_ip``); NFSv4 has leases."""
        if self._threads() > 0:
            self._write("fs/nfsd/unlock_ip", address)

    def export_directories(self) -> list[str]:
        """As reported by exportfs(8)."""
        found = set()
        for line in run(["exportfs", "-s"], timeout=10).output.splitlines():
            if line.startswith("/"):
                found.add(_unescape(line.rsplit(None, 1)[0].rstrip()))
        return sorted(found)

    def _threads(self) -> int:
        try:
            with open(self._path("fs/nfsd/threads"), encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):
            return 0

    def _lifts_grace(self) -> bool:
        done = run(["nfsconf", "--get", "sm-notify", "lift-grace"], check=False, timeout=5)
        return done.output.strip().lower() not in ("n", "no", "0", "false", "off")

    def _write(self, name: str, text: str) -> None:
        path = self._path(name)
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(text + "\n")
        except OSError as error:
            raise Fail(f"{path}: {error.strerror}") from None

    def _path(self, name: str) -> str:
        return os.path.join(self._proc, name)


def _unescape(path: str) -> str:
    """Decode exportfs's ``\\040`` for blanks and the like."""
    import re  # noqa: PLC0415

    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), path)
