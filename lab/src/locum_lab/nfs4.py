"""NFS version 4 as a client that opens, locks and reclaims, to test the effect of a move on state.

Blocking calls with a limit, over one TCP connection that is made again after it broke, as ordinary clients do; no
callbacks, no delegations, one request at a time. The caller decides when to establish a client and what to reclaim.
Protocol: RFC 7530 and 7531 (4.0), RFC 8881 and 5662 (4.1).
"""

from __future__ import annotations

import contextlib
import enum
import os
import socket
import struct
import time

import msgspec

from locum import rpc
from locum.xdr import Malformed, Packer, Unpacker

_NFS_PORT = 2049
_COMPOUND = 1
_TO_END = (1 << 64) - 1

_CLOSE, _GETFH, _LOCK, _LOCKU, _LOOKUP, _OPEN, _OPEN_CONFIRM = 4, 10, 12, 14, 15, 18, 20
_PUTFH, _PUTROOTFH, _READ, _RENEW, _SETCLIENTID, _SETCLIENTID_CONFIRM = 22, 24, 25, 30, 35, 36
_EXCHANGE_ID, _CREATE_SESSION, _SEQUENCE, _RECLAIM_COMPLETE = 42, 43, 53, 58

_CLAIM_NULL, _CLAIM_PREVIOUS = 0, 1
_SHARE_BOTH, _DENY_NONE = 3, 0
_WRITE_LOCK = 2
_RESULT_CONFIRM = 2


class Status(enum.IntEnum):
    """``nfsstat4``: the values that a move can cause."""

    OK = 0
    DENIED = 10010
    EXPIRED = 10011
    GRACE = 10013
    STALE_CLIENTID = 10022
    STALE_STATEID = 10023
    BAD_STATEID = 10025
    RECLAIM_BAD = 10034
    NO_GRACE = 10033
    BADSESSION = 10052


class Nfs4Error(rpc.RpcError):
    """The server answered with an error: ``status``, a :class:`Status` where known."""

    def __init__(self, operation: str, status: int) -> None:
        self.status: int = status
        try:
            self.status = Status(status)
            text = Status(status).name
        except ValueError:
            text = f"error {status}"
        super().__init__(f"{operation}: {text}")


class OpenFile(msgspec.Struct):
    """An open file: its handle and the present state of the open and of a lock on it."""

    handle: bytes
    owner: bytes
    stateid: bytes = b""
    lock_stateid: bytes = b""
    #: Numbers of the requests of the owners (4.0).
    open_sequence: int = 0
    lock_sequence: int = 0


class Client:
    """A client called ``name`` of the server at ``server``, from the address ``source``; ``minor`` is 0, 1, or 2,
    whose new features are not used.

    ``timeout`` in seconds for each call. ``verifier``: eight bytes that distinguish one life of a client from the next;
    a client with a new verifier has rebooted and has no state. Every method raises :class:`Nfs4Error` when the server
    refuses, other :class:`locum.rpc.RpcError` when it cannot be asked.
    """

    def __init__(
        self,
        server: str,
        name: str,
        *,
        minor: int = 0,
        source: str | None = None,
        timeout: float = 5.0,
        verifier: bytes = b"",
    ) -> None:
        self.server = server
        self.name = name
        self.minor = minor
        self.source = source
        self.timeout = timeout
        self.verifier = verifier or os.urandom(8)
        self._connection: socket.socket | None = None
        self._client_id = 0
        self._session = b""
        self._sequence = 0

    # -- the client ------------------------------------------------------------------------------------------------

    def establish(self) -> None:
        """Introduce the client: SETCLIENTID and its confirmation; in 4.1 EXCHANGE_ID and CREATE_SESSION."""
        if self.minor == 0:
            arguments = Packer().fixed(self.verifier).string(self.name).uint(0x40000000).string("tcp")
            arguments.string("0.0.0.0.0.0").uint(1)  # no listener for callbacks
            results = self._compound([(_SETCLIENTID, arguments.data)], session=False)
            self._take(results, _SETCLIENTID)
            self._client_id, confirm = results.uhyper(), results.fixed(8)
            arguments = Packer().uhyper(self._client_id).fixed(confirm)
            results = self._compound([(_SETCLIENTID_CONFIRM, arguments.data)], session=False)
            self._take(results, _SETCLIENTID_CONFIRM)
            return
        arguments = Packer().fixed(self.verifier).string(self.name).uint(0, 0, 0)
        results = self._compound([(_EXCHANGE_ID, arguments.data)], session=False)
        self._take(results, _EXCHANGE_ID)
        self._client_id, sequence = results.uhyper(), results.uint()
        channel = (0, 1 << 16, 1 << 16, 1 << 12, 16, 1, 0)
        arguments = Packer().uhyper(self._client_id).uint(sequence, 0, *channel, *channel, 0x40000000, 1, 0)
        results = self._compound([(_CREATE_SESSION, arguments.data)], session=False)
        self._take(results, _CREATE_SESSION)
        self._session, self._sequence = results.fixed(16), 0

    def renew(self) -> None:
        """Renew the lease; raises when the server does not know the client."""
        if self.minor == 0:
            self._take(self._compound([(_RENEW, Packer().uhyper(self._client_id).data)]), _RENEW)
        else:
            self._compound([])

    def reclaim_complete(self) -> None:
        """Declare that reclaiming is complete (4.1; nothing in 4.0)."""
        if self.minor:
            self._take(self._compound([(_RECLAIM_COMPLETE, Packer().boolean(False).data)]), _RECLAIM_COMPLETE)

    def close_connection(self) -> None:
        """Break the connection; the next call makes another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for an answer
            connection.close()

    # -- files -----------------------------------------------------------------------------------------------------

    def lookup(self, path: str) -> bytes:
        """The handle of a file or directory, by its path in the server's name space."""
        names = [name for name in path.split("/") if name]
        steps = [(_PUTROOTFH, b""), *((_LOOKUP, Packer().string(name).data) for name in names), (_GETFH, b"")]
        results = self._compound(steps)
        for operation, _ in steps:
            self._take(results, operation)
        return results.opaque(128)

    def open(self, path: str, owner: str = "owner") -> OpenFile:
        """Open an existing file for reading and writing."""
        directory, _, name = path.rpartition("/")
        file = OpenFile(b"", owner.encode())
        claim = Packer().uint(_CLAIM_NULL).string(name)
        file.handle = self._open(file, self.lookup(directory), claim)
        return file

    def reclaim(self, file: OpenFile) -> None:
        """Open again a file that was open before the server lost its state (CLAIM_PREVIOUS)."""
        file.open_sequence = file.lock_sequence = 0
        file.lock_stateid = b""
        self._open(file, file.handle, Packer().uint(_CLAIM_PREVIOUS, 0))

    def lock(self, file: OpenFile, *, reclaim: bool = False, offset: int = 0, length: int = _TO_END) -> None:
        """Lock a range for writing, the first one of this file."""
        owner = Packer().uhyper(self._client_id).opaque(file.owner + b" lock").data
        arguments = Packer().uint(_WRITE_LOCK).boolean(reclaim).uhyper(offset, length).boolean(True)
        file.open_sequence += 1
        arguments.uint(file.open_sequence).fixed(file.stateid).uint(file.lock_sequence).fixed(owner)
        results = self._on(file, _LOCK, arguments.data)
        file.lock_stateid = results.fixed(16)

    def unlock(self, file: OpenFile, *, offset: int = 0, length: int = _TO_END) -> None:
        """Unlock the range."""
        file.lock_sequence += 1
        arguments = Packer().uint(_WRITE_LOCK, file.lock_sequence).fixed(file.lock_stateid).uhyper(offset, length)
        file.lock_stateid = self._on(file, _LOCKU, arguments.data).fixed(16)

    def read(self, file: OpenFile, count: int = 100) -> bytes:
        """The first bytes of the file, with the rights of the open."""
        results = self._on(file, _READ, Packer().fixed(file.stateid).uhyper(0).uint(count).data)
        results.boolean()
        return results.opaque()

    def close(self, file: OpenFile) -> None:
        """Close it."""
        file.open_sequence += 1
        self._on(file, _CLOSE, Packer().uint(file.open_sequence).fixed(file.stateid).data)

    # -- within ----------------------------------------------------------------------------------------------------

    def _open(self, file: OpenFile, current: bytes, claim: Packer) -> bytes:
        arguments = Packer().uint(file.open_sequence, _SHARE_BOTH, _DENY_NONE)
        arguments.uhyper(self._client_id).opaque(file.owner).uint(0).fixed(claim.data)
        steps = [(_PUTFH, Packer().opaque(current).data), (_OPEN, arguments.data), (_GETFH, b"")]
        results = self._compound(steps)
        self._take(results, _PUTFH)
        self._take(results, _OPEN)
        file.stateid = results.fixed(16)
        results.fixed(20)  # how the directory has changed
        flags = results.uint()
        for _ in range(results.uint()):
            results.uint()
        if results.uint() != 0:
            raise rpc.RpcError("the server gave a delegation that was not requested")
        self._take(results, _GETFH)
        handle = results.opaque(128)
        if flags & _RESULT_CONFIRM:
            file.handle = handle
            file.open_sequence += 1
            arguments = Packer().fixed(file.stateid).uint(file.open_sequence)
            file.stateid = self._on(file, _OPEN_CONFIRM, arguments.data).fixed(16)
        return handle

    def _on(self, file: OpenFile, operation: int, arguments: bytes) -> Unpacker:
        results = self._compound([(_PUTFH, Packer().opaque(file.handle).data), (operation, arguments)])
        self._take(results, _PUTFH)
        self._take(results, operation)
        return results

    def _compound(self, steps: list[tuple[int, bytes]], *, session: bool = True) -> Unpacker:
        """Send operations, in 4.1 within the session; return their results, after that of the session."""
        steps = list(steps)
        within = self.minor > 0 and session
        if within:
            self._sequence += 1
            steps.insert(0, (_SEQUENCE, Packer().fixed(self._session).uint(self._sequence, 0, 0, 0).data))
        arguments = Packer().string("").uint(self.minor, len(steps))
        for operation, data in steps:
            arguments.uint(operation).fixed(data)
        transaction = rpc.new_transaction()
        message = rpc.encode_call(transaction, rpc.NFS, 4, _COMPOUND, arguments.data, system=True)
        try:
            results = Unpacker(rpc.decode_reply(self._exchange(message), transaction))
            results.uint()  # the status of the last operation, which is repeated there
            results.opaque()
            results.uint()
            if within:
                self._take(results, _SEQUENCE)
                results.fixed(36)
        except (Malformed, struct.error) as error:
            raise rpc.RpcError(f"the answer of {self.server} is not NFSv4: {error}") from None
        return results

    @staticmethod
    def _take(results: Unpacker, operation: int) -> None:
        """Check the beginning of an operation's result."""
        name = {_OPEN: "open", _LOCK: "lock", _RENEW: "renew", _SEQUENCE: "sequence"}.get(operation, str(operation))
        if results.uint() != operation:
            raise rpc.RpcError(f"the answer to operation {name} belongs to another operation")
        if (status := results.uint()) != 0:
            raise Nfs4Error(name, status)

    def _exchange(self, message: bytes) -> bytes:
        deadline = time.monotonic() + self.timeout
        try:
            if self._connection is None:
                self._connection = self._connect()
            self._connection.settimeout(self.timeout)
            self._connection.sendall(struct.pack(">I", rpc.LAST_FRAGMENT | len(message)) + message)
            return rpc.read_record(self._connection, deadline)
        except (OSError, Malformed) as error:
            self.close_connection()
            if isinstance(error, TimeoutError):
                raise rpc.RpcTimeout(f"{self.server}: no answer within {self.timeout:g} s") from None
            raise rpc.RpcError(f"{self.server}: {error}") from None

    def _connect(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.server else socket.AF_INET
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(socket.socket(family))
            connection.settimeout(self.timeout)
            if self.source:
                connection.bind((self.source, 0))
            connection.connect((self.server, _NFS_PORT))
            stack.pop_all()
        return connection
