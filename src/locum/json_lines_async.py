"""The asyncio side of :mod:`locum.json_lines`: frames on connections, and servers that check who connects.

Rules of this file: it knows frames and flow control, no message. The unsent bytes of a connection are bounded: a sender
checks ``congested``, and a server stops reading from a peer that does not read its answers.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from locum import json_lines, unix_sockets
from locum.errors import PermissionRequired, ProtocolError, UsageError

#: Unsent bytes above which a connection counts as congested, and below which it is no longer.
HIGH_WATER: Final = 1024 * 1024
LOW_WATER: Final = 256 * 1024

#: Maximum of connections to one server; more are refused.
MAX_CONNECTIONS: Final = 512


class FrameConnection(asyncio.Protocol):
    """One connection. Subclasses handle frames by overriding the ``on_`` methods."""

    def __init__(self) -> None:
        self.peer: unix_sockets.Peer | None = None
        self.congested = False
        self.open = False
        self._server: FrameServer | None = None
        self._transport: asyncio.Transport | None = None
        self._splitter = json_lines.FrameSplitter()
        self._frames: deque[bytes] = deque()

    # For subclasses to override.

    def on_open(self) -> None:
        """The connection is open and the peer may use it."""

    def on_frame(self, frame: bytes) -> None:
        """One frame has arrived. A ProtocolError raised here ends the connection (through :meth:`on_garbage`)."""

    def on_writable(self) -> None:
        """The connection was congested and is no longer."""

    def on_garbage(self, error: ProtocolError) -> None:
        """The peer does not speak the protocol; a last message may be sent. The connection is closed after it."""

    def on_close(self, error: Exception | None) -> None:
        """The open connection has ended; ``error`` is its reason when something broke it."""

    # For subclasses to call.

    def send(self, message: object) -> None:
        """Queue one message; no effect on a closed connection."""
        self.send_frame(json_lines.encode(message))

    def send_frame(self, frame: bytes) -> None:
        """Queue one encoded frame; no effect on a closed connection."""
        if self._transport is not None and self.open:
            self._transport.write(frame)

    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Close after everything queued was sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        try:
            self.peer = unix_sockets.peer_of(cast(socket.socket, transport.get_extra_info("socket")))
        except OSError:
            self.abort()
            return
        if self._server is not None and (reason := self._server.admit(self, self.peer)) is not None:
            self._transport.write(json_lines.encode({"error": reason}))
            self.close()
            return
        self.open = True
        self.on_open()

    def data_received(self, data: bytes) -> None:
        try:
            self._frames.extend(self._splitter.feed(data))
            self._handle_frames()
        except ProtocolError as error:
            self._garbage(error)

    def _handle_frames(self) -> None:
        # A server reads no further requests from a client that does not read its answers. A client always reads: two
        # sides that each wait for the other to read would wait forever.
        while self._frames and self.open and not (self.congested and self._server is not None):
            self.on_frame(self._frames.popleft())

    def _garbage(self, error: ProtocolError) -> None:
        self._frames.clear()
        if self.open:
            self.on_garbage(error)
            self.close()

    def pause_writing(self) -> None:
        self.congested = True
        if self._server is not None and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.congested = False
        if not self.open:
            return
        try:
            self._handle_frames()
        except ProtocolError as error:
            self._garbage(error)
        if self.congested or not self.open or self._transport is None or self._transport.is_closing():
            return
        self._transport.resume_reading()
        self.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._server is not None:
            self._server.connections.discard(self)
        if self.open:
            self.open = False
            self.on_close(exc)


class FrameServer:
    """Accepts connections at a Unix socket; made by :func:`serve_unix`."""

    def __init__(
        self, listener: unix_sockets.Listener, factory: Callable[[], FrameConnection], group: int | None
    ) -> None:
        self._listener = listener
        self._factory = factory
        self._group = group
        self._server: asyncio.Server | None = None
        self.connections: set[FrameConnection] = set()
        self.refused = 0

    @property
    def path(self) -> str:
        """The path of the socket."""
        return self._listener.path

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._accept, sock=self._listener.sock)

    def _accept(self) -> FrameConnection:
        connection = self._factory()
        connection._server = self
        return connection

    def admit(self, connection: FrameConnection, peer: unix_sockets.Peer) -> str | None:
        """Why ``peer`` may not use ``connection``; None when it may."""
        if not peer.may_use(self._group):
            self.refused += 1
            return f"permission denied: {self.path} is for root or its owner"
        if len(self.connections) >= MAX_CONNECTIONS:
            self.refused += 1
            return f"too many connections: {self.path} has {MAX_CONNECTIONS} already"
        self.connections.add(connection)
        return None

    async def close(self) -> None:
        """Stop accepting, close all connections, remove the socket file. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.abort()
        self._listener.close()
        # Lets connection_lost run before the caller ends the loop.
        await asyncio.sleep(0)


async def serve_unix(path: str, factory: Callable[[], FrameConnection], *, group: int | None = None) -> FrameServer:
    """Serve at ``path``; ``factory`` makes the object of each admitted connection.

    Root, this process's own user and members of ``group`` (a gid) may connect. Raises as
    :func:`locum.unix_sockets.listen` does.
    """
    server = FrameServer(unix_sockets.listen(path, group=group), factory, group)
    await server.start()
    return server


async def connect_unix(path: str, connection: FrameConnection) -> None:
    """Connect ``connection`` to the server at ``path``. Raises UsageError or PermissionRequired."""
    unix_sockets.check_path(path)
    try:
        await asyncio.get_running_loop().create_unix_connection(lambda: connection, path)
    except PermissionError:
        raise PermissionRequired(f"no permission to connect to {path}") from None
    except BlockingIOError:
        raise UsageError(f"the process that listens at {path} does not answer") from None
    except OSError as error:
        raise UsageError(f"nothing listens at {path}: {error.strerror or error}") from None
