"""A blocking client of the daemon's control socket.

Rules of this file: it knows the socket, lines and time-outs; no operation. Only light parts of the standard library:
a command answers its user in 0.15 s, start of Python included, and rpc.statd waits for its call-out.
:mod:`locum.api.client` decodes answers into types.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from typing import Any, Final, Self

from locum import unix_sockets
from locum.errors import LocumError, PermissionRequired, ProtocolError, UsageError

#: Where the daemon listens unless its configuration or LOCUM_SOCKET says otherwise.
DEFAULT_SOCKET: Final = "/run/locum/control.sock"


class NoDaemon(LocumError):
    """No process listens at the control socket, or it ended without an answer; the caller may continue without one."""


class ConnectionClosed(NoDaemon):
    """The daemon closed the connection without an answer: the request may or may not be carried out."""


class NoAnswer(LocumError):
    """The daemon accepted the request and did not answer in time: the request may or may not be carried out."""


class Refused(LocumError):
    """The daemon answered with an error. ``kind`` as in :mod:`locum.api.answers`; ``unavailable``: the store's."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def ask(request: Mapping[str, object], *, path: str | None = None, timeout: float = 5.0) -> Any:
    """The daemon's result, as JSON values.

    ``path``: its control socket; LOCUM_SOCKET or the default when None. ``timeout`` in seconds for each step. Raises
    Refused, and as :class:`Connection` does.
    """
    import json  # noqa: PLC0415  (commands that decode into types do not need it)

    where = path or os.environ.get("LOCUM_SOCKET") or DEFAULT_SOCKET
    with Connection(where, timeout) as connection:
        connection.send(json.dumps(request).encode())
        line = connection.receive()
    try:
        message = json.loads(line)
        if message.get("ok") is True:
            return message.get("result")
        raise Refused(str(message.get("error", "refused")), str(message.get("kind", "error")))
    except (ValueError, AttributeError):
        raise ProtocolError(f"the process at {where} is not a Locum daemon: its answer is not JSON") from None


class Connection:
    """A connection to the daemon at ``path``; a context manager. ``timeout`` in seconds is for each step.

    Raises NoDaemon, NoAnswer, PermissionRequired, ProtocolError, and UsageError when ``path`` cannot be a control
    socket.
    """

    def __init__(self, path: str, timeout: float | None) -> None:
        self.path, self._timeout = path, timeout
        self._rest = b""
        self._socket = _connect(path, timeout)

    @property
    def peer(self) -> unix_sockets.Peer:
        """The process that listens at the socket."""
        return unix_sockets.peer_of(self._socket)

    def set_timeout(self, timeout: float | None) -> None:
        """``timeout`` in seconds for each later step; None: no limit."""
        self._timeout = timeout
        self._socket.settimeout(timeout)

    def send(self, line: bytes) -> None:
        """Send one request, a JSON document without its newline."""
        try:
            self._socket.sendall(line + b"\n")
        except TimeoutError:
            raise self._late() from None
        except OSError:
            # A server that refuses a peer answers and closes without reading: its answer must still be read.
            pass

    def receive(self) -> bytes:
        """The next answer, a JSON document."""
        pieces, size = [self._rest], len(self._rest)
        while b"\n" not in pieces[-1]:
            if size > unix_sockets.FRAME_LIMIT:
                raise ProtocolError(f"the process at {self.path} is not a Locum daemon: its answer is endless")
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                raise self._late() from None
            except OSError:
                data = b""
            if not data:
                raise ConnectionClosed(
                    f"the daemon at {self.path} closed the connection without an answer: see its log"
                )
            pieces.append(data)
            size += len(data)
        line, _, self._rest = b"".join(pieces).partition(b"\n")
        return line

    def _late(self) -> NoAnswer:
        return NoAnswer(
            f"the daemon at {self.path} gave no answer within {self._timeout:g} s; "
            "the request may still be carried out: see 'locum status'"
        )

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _connect(path: str, timeout: float | None) -> socket.socket:
    unix_sockets.check_path(path)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(path)
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError):
            raise _cannot_connect(path, error) from None
        raise
    return connection


def _cannot_connect(path: str, error: OSError) -> LocumError:
    """The error for a failed connect(2), with the remedy."""
    if isinstance(error, TimeoutError | BlockingIOError):
        return NoAnswer(f"the daemon at {path} does not accept connections: it hangs or is stopped")
    if isinstance(error, FileNotFoundError):
        return NoDaemon(
            f"no Locum daemon at {path}: is it running (locum daemon --config FILE)? "
            "If its socket is elsewhere, give --socket PATH or set LOCUM_SOCKET"
        )
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except PermissionError:
        return PermissionRequired(f"no permission to enter the directory of {path} as uid {os.geteuid()}: run as root")
    except (OSError, ValueError):
        is_socket = True
    if not is_socket:
        return UsageError(f"{path} is not a socket: give the path of the daemon's control socket")
    if isinstance(error, PermissionError):
        return PermissionRequired(
            f"no permission to use {path} as uid {os.geteuid()}: run as root, "
            "or as a member of the group that [paths] control_group names"
        )
    if isinstance(error, ConnectionRefusedError):
        return NoDaemon(
            f"no Locum daemon at {path}: its socket is left over from a daemon that has ended; start the daemon"
        )
    return UsageError(f"cannot connect to {path}: {error.strerror or error}")
