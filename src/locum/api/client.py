"""A blocking client of the daemon's control socket.

Rules of this file: it knows sockets, answers and time-outs, no operation. No asyncio: a command asks one question
and must answer its user in 0.15 s, start of Python included.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator, Mapping
from typing import Final, Self

import msgspec

from locum import json_lines
from locum.api.answers import Answer, error_of
from locum.errors import LocumError, PermissionRequired, ProtocolError, UsageError

#: Where the daemon listens unless its configuration says otherwise.
DEFAULT_SOCKET: Final = "/run/locum/control.sock"

#: Seconds that a command waits for the daemon's answer.
DEFAULT_TIMEOUT: Final = 30.0

_decoder = msgspec.json.Decoder(Answer)


class NoDaemon(LocumError):
    """No process listens at the control socket; the caller may continue without a daemon."""


class NoAnswer(LocumError):
    """The daemon accepted the request and did not answer in time: the request may or may not be carried out."""


def call(socket_path: str, request: Mapping[str, object], timeout: float = DEFAULT_TIMEOUT) -> object:
    """Send ``request`` to the daemon at ``socket_path`` and return its result (as JSON values).

    ``timeout`` in seconds. Raises :class:`NoDaemon`, :class:`NoAnswer`, PermissionRequired, ProtocolError (something
    else than a Locum daemon listens there), or whatever error the daemon answered with.
    """
    return msgspec.json.decode(call_raw(socket_path, request, timeout))


def call_raw(socket_path: str, request: Mapping[str, object], timeout: float = DEFAULT_TIMEOUT) -> bytes:
    """As :func:`call`; returns the result as JSON text, for a caller that decodes it into its own types."""
    return bytes(exchange(socket_path, request, timeout).result)


def exchange(socket_path: str, request: Mapping[str, object], timeout: float = DEFAULT_TIMEOUT) -> Answer:
    """As :func:`call`; returns the whole answer, which tells whether its result may be outdated."""
    with _connect(socket_path, timeout) as connection:
        _send(connection, socket_path, request, timeout)
        return _receive(connection, socket_path, timeout)


def stream(socket_path: str, request: Mapping[str, object], timeout: float | None = None) -> Iterator[object]:
    """Send ``request`` and yield each result of the stream that the daemon answers with, until it ends it.

    ``timeout``: longest wait for the next one in seconds, None for ever. Raises as :func:`call` does; a daemon that
    goes away in the middle is a :class:`NoDaemon`.
    """
    for result in stream_raw(socket_path, request, timeout):
        yield msgspec.json.decode(result)


def stream_raw(socket_path: str, request: Mapping[str, object], timeout: float | None = None) -> Iterator[bytes]:
    """As :func:`stream`; yields JSON texts."""
    with _connect(socket_path, timeout or DEFAULT_TIMEOUT) as connection:
        _send(connection, socket_path, request, timeout)
        connection.set_timeout(timeout)
        while not (answer := _receive(connection, socket_path, timeout)).end:
            yield bytes(answer.result)


class Conversation:
    """Several requests on one connection: a context manager. ``timeout`` in seconds is for each step.

    Every method raises as :func:`call` does; a daemon that closes the connection is a :class:`NoDaemon`.
    """

    def __init__(self, socket_path: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._path, self._timeout = socket_path, timeout
        self._connection = _connect(socket_path, timeout)

    @property
    def peer(self) -> json_lines.Peer:
        """The process that listens at the socket."""
        return self._connection.peer()

    def send(self, request: Mapping[str, object]) -> None:
        """Send one request."""
        _send(self._connection, self._path, request, self._timeout)

    def receive(self) -> bytes:
        """The next result, as JSON text."""
        return bytes(_receive(self._connection, self._path, self._timeout).result)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._connection.close()


class _Connection(json_lines.FrameSocket):
    """A frame socket whose time-out may change: connecting has one even when waiting for news has none."""

    def set_timeout(self, timeout: float | None) -> None:
        self._sock.settimeout(timeout)


def _connect(path: str, timeout: float) -> _Connection:
    json_lines.check_path(path)
    try:
        return _Connection.connect(path, timeout=timeout)
    except PermissionRequired:
        raise PermissionRequired(
            f"no permission to use {path} as uid {os.geteuid()}: run as root, "
            "or as a member of the group that [paths] control_group names"
        ) from None
    except UsageError as error:
        raise _nobody_there(path, error) from None


def _nobody_there(path: str, error: UsageError) -> LocumError:
    """Why connecting to ``path`` failed, with the remedy."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return NoDaemon(
            f"no Locum daemon at {path}: is it running (locum daemon --config FILE)? "
            "If its socket is elsewhere, give --socket PATH or set LOCUM_SOCKET"
        )
    except PermissionError:
        return PermissionRequired(f"no permission to enter the directory of {path} as uid {os.geteuid()}: run as root")
    except (OSError, ValueError):
        return error
    if not stat.S_ISSOCK(mode):
        return UsageError(f"{path} is not a socket: give the path of the daemon's control socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return NoDaemon(
                f"no Locum daemon at {path}: its socket is left over from a daemon that has ended; start the daemon"
            )
        except OSError:
            pass
    return NoAnswer(f"the daemon at {path} does not accept connections: it hangs or is stopped")


def _send(connection: _Connection, path: str, request: Mapping[str, object], timeout: float | None) -> None:
    try:
        connection.send(request)
    except TimeoutError:
        raise _late(path, timeout) from None
    except ProtocolError:
        # A server that refuses a peer answers and closes without reading: its answer must still be read.
        pass


def _receive(connection: _Connection, path: str, timeout: float | None) -> Answer:
    try:
        answer = connection.receive(_decoder)
    except TimeoutError:
        raise _late(path, timeout) from None
    except ProtocolError as error:
        text = str(error)
        if text.startswith("connection"):
            raise NoDaemon(f"the daemon at {path} closed the connection without an answer: see its log") from None
        raise ProtocolError(f"the process at {path} is not a Locum daemon of this version: {text}") from None
    if not answer.ok:
        raise error_of(answer)
    return answer


def _late(path: str, timeout: float | None) -> NoAnswer:
    return NoAnswer(
        f"the daemon at {path} gave no answer within {timeout:g} s; "
        "the request may still be carried out: see 'locum status'"
    )
