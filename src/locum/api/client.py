"""Requests to the daemon whose answers are decoded into types.

This file knows answers and errors of the control socket (:mod:`locum.control_socket` has the connection), but no
operation. No asyncio: a command asks one question and must answer its user in 0.15 s, including Python's start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Self

import msgspec

from locum import unix_sockets
from locum.api.answers import Answer, error_of
from locum.control_socket import Connection
from locum.errors import ProtocolError
from locum.outside import UNDECODABLE

#: How long a command waits for the daemon's answer, in seconds.
DEFAULT_TIMEOUT: Final = 30.0

_decoder = msgspec.json.Decoder(Answer)


def call(socket_path: str, request: Mapping[str, object], timeout: float = DEFAULT_TIMEOUT) -> object:
    """Send ``request`` to the daemon at ``socket_path`` and return its result (as JSON values).

    ``timeout`` in seconds. Raises as :class:`locum.control_socket.Connection` does, ProtocolError when another program
    listens there, or the daemon's own error.
    """
    return msgspec.json.decode(call_raw(socket_path, request, timeout))


def call_raw(socket_path: str, request: Mapping[str, object], timeout: float = DEFAULT_TIMEOUT) -> bytes:
    """As :func:`call`; returns the result as JSON text, for a caller that decodes it into its own types."""
    return bytes(exchange(socket_path, request, timeout).result)


def exchange(socket_path: str, request: Mapping[str, object], timeout: float = DEFAULT_TIMEOUT) -> Answer:
    """As :func:`call`; returns the whole answer, which says whether its result may be outdated."""
    with Connection(socket_path, timeout) as connection:
        _send(connection, request)
        return _receive(connection, socket_path)


def stream(socket_path: str, request: Mapping[str, object], timeout: float | None = None) -> Iterator[object]:
    """Send ``request`` and yield each result of the daemon's stream, until the daemon ends it.

    ``timeout``: limit for each result in seconds, None for ever. Raises as :func:`call` does; a daemon that disappears
    is a :class:`NoDaemon`.
    """
    for result in stream_raw(socket_path, request, timeout):
        yield msgspec.json.decode(result)


def stream_raw(socket_path: str, request: Mapping[str, object], timeout: float | None = None) -> Iterator[bytes]:
    """As :func:`stream`; yields JSON texts."""
    with Connection(socket_path, timeout or DEFAULT_TIMEOUT) as connection:
        _send(connection, request)
        connection.set_timeout(timeout)
        while not (answer := _receive(connection, socket_path)).end:
            yield bytes(answer.result)


class Conversation:
    """Several requests on one connection: a context manager. ``timeout`` in seconds is for each step.

    Every method raises as :func:`call` does; a daemon that closes the connection is a :class:`NoDaemon`.
    """

    def __init__(self, socket_path: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._path = socket_path
        self._connection = Connection(socket_path, timeout)

    @property
    def peer(self) -> unix_sockets.Peer:
        """The process that listens at the socket."""
        return self._connection.peer

    def send(self, request: Mapping[str, object]) -> None:
        """Send one request."""
        _send(self._connection, request)

    def receive(self) -> bytes:
        """The next result, as JSON text."""
        return bytes(_receive(self._connection, self._path).result)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._connection.close()


def _send(connection: Connection, request: Mapping[str, object]) -> None:
    connection.send(msgspec.json.encode(request))


def _receive(connection: Connection, path: str) -> Answer:
    try:
        answer = _decoder.decode(connection.receive())
    except UNDECODABLE as error:
        raise ProtocolError(f"the process at {path} is not a Locum daemon of this version: {error}") from None
    if not answer.ok:
        raise error_of(answer)
    return answer
