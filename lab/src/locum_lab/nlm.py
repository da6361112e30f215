"""The network lock manager's protocol, version 4, as a client that can lock, test and unlock a file of an NFSv3 server.

Blocking calls with a limit, over TCP; no state of locks, no waiting for granted ones. Tests and ``docs/nfs.md`` observe
lock recovery with it. Protocol: X/Open XNFS, chapter 10 (NLM4); RFC 1813 (MOUNT).
"""

from __future__ import annotations

import enum

import msgspec

from locum import rpc
from locum.xdr import Packer, Unpacker

PROGRAM, VERSION = 100021, 4
_TEST, _LOCK, _CANCEL, _UNLOCK = 1, 2, 3, 4
_MOUNT_MNT = 1
_NFS_LOOKUP = 3
_TO_END = 0  # a length of 0 means to the end of the file


class Status(enum.IntEnum):
    """``nlm4_stats``."""

    GRANTED = 0
    DENIED = 1
    DENIED_NOLOCKS = 2
    BLOCKED = 3
    DENIED_GRACE_PERIOD = 4
    DEADLOCK = 5
    ROFS = 6
    STALE_FH = 7
    FBIG = 8
    FAILED = 9


class Holder(msgspec.Struct, frozen=True):
    """The holder of a conflicting lock."""

    exclusive: bool
    svid: int
    owner: bytes
    offset: int
    length: int


class LockClient:
    """A client named ``name`` that asks ``server`` (an address) from its own address ``source``.

    ``owner`` distinguishes processes of one client; ``state`` is the client's own state number. Every method raises
    :class:`locum.rpc.RpcError`; ``timeout`` in seconds.
    """

    def __init__(
        self, server: str, name: str, *, owner: int = 1, state: int = 1, source: str | None = None, timeout: float = 5.0
    ) -> None:
        self.server = server
        self.name = name
        self.owner = owner
        self.state = state
        self.source = source
        self.timeout = timeout

    def root(self, export: str) -> bytes:
        """The handle of an exported directory."""
        results = Unpacker(self._call(rpc.MOUNTD, 3, _MOUNT_MNT, Packer().string(export).data))
        if (status := results.uint()) != 0:
            raise rpc.RpcError(f"mount of {export} on {self.server}: error {status}")
        return results.opaque(64)

    def lookup(self, directory: bytes, name: str) -> bytes:
        """The handle of a file in a directory."""
        results = Unpacker(self._call(rpc.NFS, 3, _NFS_LOOKUP, Packer().opaque(directory).string(name).data))
        if (status := results.uint()) != 0:
            raise rpc.RpcError(f"{name} on {self.server}: NFS error {status}")
        return results.opaque(64)

    def lock(
        self, handle: bytes, *, exclusive: bool = True, reclaim: bool = False, offset: int = 0, length: int = _TO_END
    ) -> Status:
        """Ask for a lock, without waiting for it. ``reclaim``: this client had it before the server lost it."""
        arguments = Packer().opaque(b"lock").boolean(False).boolean(exclusive)
        self._lock(arguments, handle, offset, length).boolean(reclaim).uint(self.state)
        return self._status(_LOCK, arguments)

    def unlock(self, handle: bytes, *, offset: int = 0, length: int = _TO_END) -> Status:
        """Release a lock."""
        return self._status(_UNLOCK, self._lock(Packer().opaque(b"unlock"), handle, offset, length))

    def cancel(self, handle: bytes, *, exclusive: bool = True, offset: int = 0, length: int = _TO_END) -> Status:
        """Cancel a waiting request."""
        arguments = Packer().opaque(b"cancel").boolean(False).boolean(exclusive)
        return self._status(_CANCEL, self._lock(arguments, handle, offset, length))

    def test(
        self, handle: bytes, *, exclusive: bool = True, offset: int = 0, length: int = _TO_END
    ) -> tuple[Status, Holder | None]:
        """Whether a lock would be granted, and the conflicting holder."""
        arguments = Packer().opaque(b"test").boolean(exclusive)
        results = self._results(_TEST, self._lock(arguments, handle, offset, length))
        status = Status(results.uint())
        if status is not Status.DENIED:
            return status, None
        holder = Holder(results.boolean(), results.sint(), results.opaque(), results.uhyper(), results.uhyper())
        return status, holder

    def _lock(self, arguments: Packer, handle: bytes, offset: int, length: int) -> Packer:
        owner = f"{self.owner}@{self.name}".encode()
        return arguments.string(self.name).opaque(handle).opaque(owner).sint(self.owner).uhyper(offset, length)

    def _status(self, procedure: int, arguments: Packer) -> Status:
        return Status(self._results(procedure, arguments).uint())

    def _results(self, procedure: int, arguments: Packer) -> Unpacker:
        results = Unpacker(self._call(PROGRAM, VERSION, procedure, arguments.data))
        results.opaque(1024)  # our cookie
        return results

    def _call(self, program: int, version: int, procedure: int, arguments: bytes) -> bytes:
        port = rpc.port_of(self.server, program, version, timeout=self.timeout, source=self.source)
        return rpc.call(
            self.server,
            port,
            program,
            version,
            procedure,
            arguments,
            timeout=self.timeout,
            source=self.source,
            system=True,
        )
