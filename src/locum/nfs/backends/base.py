"""The interface between 60.nfs and an NFS server, and what all servers have in common: statd and the port mapper."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence

from locum import rpc
from locum.nfs import callout, checks
from locum.nfs.services import Daemon
from locum.script import Fail, setting_list, settings, wait_for

#: Seconds between stopping and starting a lock manager. Without the pause it may answer a reclaim twice, granted and
#: denied, and client and server then disagree about the lock (seen by CTDB's authors on Linux).
RESTART_PAUSE = 2.0


class Backend(ABC):
    """An NFS server. Every method raises :class:`locum.script.Fail` when it fails."""

    def __init__(self) -> None:
        self.portmapper = Daemon("rpcbind")
        self.statd = Daemon("statd", "rpc-statd")
        #: Daemons whose restart loses no locks, by the name of the check that finds their failure.
        self.parts = {"status": self.statd}

    # -- for each server ---------------------------------------------------------------------------------------

    @abstractmethod
    def start(self) -> None:
        """Start NFS and its lock manager."""

    @abstractmethod
    def stop(self) -> None:
        """Stop them."""

    def kill(self) -> None:
        """End a hanging server at once, where possible."""
        self.stop()

    @abstractmethod
    def running(self) -> bool:
        """Whether they run, as far as known without asking them."""

    @abstractmethod
    def begin_grace(self, nodes: Sequence[str] = ()) -> bool:
        """Grant no new lock for the grace period that starts now. ``nodes``: those whose clients are about to come
        here, for servers that must know them when the period begins; others are told by :meth:`welcome`. True when
        this dropped the locks of this node's clients: all of them must then be notified."""

    def grace_ended(self) -> bool:
        """Whether the lock manager says that it is not in its grace period."""
        return False

    @abstractmethod
    def release(self, address: str, clients: Collection[str] = ()) -> None:
        """Give up the locks of clients that used ``address``, which has left this node. ``clients``: the addresses of
        its connected clients."""

    def lose(self, addresses: Sequence[str]) -> None:
        """Give up the locks of ``addresses``, all that this node had: other nodes have had them for an unknown time."""
        for address in addresses:
            self.release(address)

    def welcome(self, nodes: Sequence[str]) -> None:  # noqa: B027  (most servers have nothing to do)
        """Let clients of the servers of ``nodes``, which are about to come here, reclaim their NFSv4 opens and locks.
        Called within the grace period."""

    def life(self) -> str:
        """What distinguishes the present life of the lock manager from every other; "" when it does not run, or where
        its locks end only by :meth:`stop` and the like."""
        return ""

    def changing(self) -> bool:
        """Whether others are just restarting the server. Only where :meth:`life` tells it later: its clients must be
        notified."""
        return False

    def tend(self) -> None:  # noqa: B027  (most servers have nothing to do)
        """Repair settings while it is running; monitor calls it."""

    @abstractmethod
    def export_directories(self) -> list[str]:
        """The exported directories."""

    # -- common to all -----------------------------------------------------------------------------------------

    def directories(self) -> list[str]:
        """The directories that must exist: the setting ``exports``, or else the exported ones."""
        return setting_list("exports") or self.export_directories()

    def start_all(self, timeout: float) -> None:
        """Start everything in order and wait until NFS answers."""
        deadline = time.monotonic() + timeout
        self.portmapper.start()
        self.wait_for_rpc(rpc.PORTMAPPER, 2, "the port mapper", deadline)
        self.statd.start()
        # The server asks statd as soon as it starts.
        self.wait_for_rpc(rpc.STATD, 1, "statd", deadline)
        self.start()
        self.wait_until_up(deadline)

    def wait_until_up(self, deadline: float) -> None:
        """Wait until NFS, mount and lock manager, which monitor checks, are registered and answer."""
        for check in checks.configured(settings()):
            if check.name in ("nfs", "mountd", "nlockmgr"):
                for version in check.versions:
                    self.wait_for_rpc(check.program, version, f"{check.name}, version {version}", deadline)

    def wait_for_rpc(self, program: int, version: int, name: str, deadline: float) -> None:
        """Wait until a program answers, until ``deadline`` (monotonic)."""

        def answers() -> bool:
            try:
                rpc.null_call(program, version, timeout=1.0)
            except rpc.RpcError:
                return False
            return True

        wait_for(f"an answer of {name}", answers, max(deadline - time.monotonic(), 0.5))

    def stop_all(self) -> None:
        """Stop everything that is managed, in the opposite order."""
        problems = []
        for stop in (self.stop, self.statd.stop, self.portmapper.stop):
            try:
                stop()
            except Fail as failure:
                problems.append(str(failure))
        if problems:
            raise Fail("; ".join(problems))

    def restart(self, timeout: float) -> None:
        """Stop, pause, start, and wait until it is registered again."""
        self.stop_and_start(self.stop, self.start, timeout)

    def stop_and_start(self, stop: Callable[[], None], start: Callable[[], None], timeout: float) -> None:
        """:meth:`restart` with these two. Clients that the server ceases to monitor meanwhile stay recorded."""
        callout.keep(timeout + callout.KEEP)
        stop()
        time.sleep(float(str(settings().get("restart_pause", RESTART_PAUSE))))
        start()
        self.wait_until_up(time.monotonic() + timeout)
        callout.keep(callout.KEEP)
