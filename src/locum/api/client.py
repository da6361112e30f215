"""Requests to the daemon whose answers are decoded into types.

This file knows answers and errors of the control socket (:mod:`locum.control_socket` has the connection), but no
operation. No asyncio: a command asks one question and must answer its user in 0.15 s, including Python's start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

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
        send(connection, request)
        return receive(connection)


def stream_raw(socket_path: str, request: Mapping[str, object], timeout: float | None = None) -> Iterator[bytes]:
    """Send ``request`` and yield each result of the daemon's stream as JSON text, until the daemon ends it.

    ``timeout``: limit for each result in seconds, None for ever. Raises as :func:`call` does; a daemon that disappears
    is a :class:`NoDaemon`.
    """
    with Connection(socket_path, timeout or DEFAULT_TIMEOUT) as connection:
        send(connection, request)
        connection.set_timeout(timeout)
        while not (answer := receive(connection)).end:
            yield bytes(answer.result)


def send(connection: Connection, request: Mapping[str, object]) -> None:
    """Send one request."""
    connection.send(msgspec.json.encode(request))


def receive(connection: Connection) -> Answer:
    """The next answer. Raises as :func:`call` does."""
    try:
        answer = _decoder.decode(connection.receive())
    except UNDECODABLE as error:
        raise ProtocolError(
            f"the process at {connection.path} is not a Locum daemon of this version: {error}"
        ) from None
    if not answer.ok:
        raise error_of(answer)
    return answer
