"""The locks that keep a second daemon out: of the runtime directory, and of the network namespace.

One gate per network namespace: two daemons would take it from each other. Its lock is an nftables table with an
owner (``flags owner``, Linux 5.12): only CAP_NET_ADMIN in this namespace can create it, no other process can change
or flush it, and the kernel deletes it when the last copy of the socket that created it is closed. So no other user can
take it in advance, and nothing is left of it after any death.

Where the kernel has no such tables a lock (flock) on the namespace's file has to do. Every user can take that one:
held by another user it is not respected, so that it keeps no daemon from its work.

A guard that was killed is gone before its agent is, which has the locks as well: that is waited for.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from typing import Protocol

from locum.errors import LocumError, NetlinkError, UsageError
from locum.machine.netlink.nftables import NFPROTO_INET, Batch, NftSocket

#: The name of the table; ``nft list tables`` shows it, and ``nft list table`` its owner.
LOCK_TABLE = "locum-lock"

#: How long the remains of a guard that was killed may take to go, and how often they are looked for, in seconds.
REMAINS_LIMIT, REMAINS_PAUSE = 5.0, 0.02

#: No nf_tables here, or a kernel older than tables with owners.
_CANNOT = (errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)


class Lock(Protocol):
    """What holds the lock until it is closed or the process, with all that it forked, has ended."""

    def close(self) -> None:
        """Give the lock back."""


def lock_network() -> Lock:
    """Be the only guard in this network namespace for as long as the result is open.

    Raises UsageError when there is another, PermissionRequired without CAP_NET_ADMIN, NetlinkError.
    """
    try:
        netfilter = NftSocket()
    except NetlinkError as problem:
        if problem.errno in _CANNOT:
            return _lock_file()
        raise
    try:
        if _take(lambda: _own_table(netfilter), lambda: netfilter.table_owner(NFPROTO_INET, LOCK_TABLE)):
            return netfilter
        raise _refusal(netfilter.table_owner(NFPROTO_INET, LOCK_TABLE))
    except NetlinkError as problem:
        netfilter.close()
        if problem.errno in _CANNOT:
            return _lock_file()
        raise
    except LocumError:
        netfilter.close()
        raise


def _own_table(netfilter: NftSocket) -> bool:
    """Create the table; False when it has another owner."""
    what = "cannot be the only Locum daemon of this network namespace"
    try:
        netfilter.commit(Batch().own_table(NFPROTO_INET, LOCK_TABLE), what)
    except LocumError:
        if netfilter.table_owner(NFPROTO_INET, LOCK_TABLE) is not None:
            return False
        raise
    return True


def _refusal(owner: int | None) -> UsageError:
    return UsageError(
        f"another Locum daemon (pid {owner or 'unknown'}) runs in this network namespace, where only one can keep "
        "public addresses in check: stop it, or run each node in a network namespace of its own"
    )


def _lock_file() -> Lock:
    handle = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def owner() -> int | None:
        return _lock_owner(os.fstat(handle).st_ino)

    if not _take(lambda: _flock(handle), owner):
        pid = owner()
        if pid is None or not _is_of_another_user(pid):
            os.close(handle)
            raise _refusal(pid)
    return os.fdopen(handle)


def _lock_owner(inode: int) -> int | None:
    """Which process has a lock on the file with that inode, as far as one may know (proc(5), /proc/locks)."""
    with open("/proc/locks", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                return int(words[4])
    return None


def _is_of_another_user(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid != os.geteuid()
    except FileNotFoundError:
        # It has ended, and what it has forked goes on for a moment.
        return False


def lock(runtime: str) -> int:
    """Take the runtime directory's lock, for as long as the process lives. Raises UsageError when it is taken."""
    handle = os.open(os.path.join(runtime, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def owner() -> int | None:
        words = os.pread(handle, 32, 0).split()
        return int(words[0]) if words and words[0].isdigit() else None

    if not _take(lambda: _flock(handle), owner):
        taken_by = owner() or "unknown"
        os.close(handle)
        raise UsageError(
            f"another Locum daemon (pid {taken_by}) runs with the runtime directory {runtime}: "
            "stop it, or set another paths.runtime"
        )
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _take(attempt: Callable[[], bool], owner: Callable[[], int | None]) -> bool:
    """Repeat ``attempt`` while the owner of the lock has ended and what it has forked goes on; tells whether it
    succeeded."""
    deadline = time.monotonic() + REMAINS_LIMIT
    while not attempt():
        pid = owner()
        if pid is None or not _has_ended(pid) or time.monotonic() > deadline:
            return False
        time.sleep(REMAINS_PAUSE)
    return True


def _flock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_ended(pid: int) -> bool:
    """Whether the process has ended; its parent may not have asked for its status yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return True
    # The name, in parentheses, may hold blanks and parentheses itself.
    return text[text.rindex(b")") + 2 :].startswith((b"Z", b"X"))
