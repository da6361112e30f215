"""A network between a store's client and its server that a test can break."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Forwards connections. ``connect`` opens one to the server, ``listen`` starts accepting and returns the server.

    ``to_server`` and ``to_client`` may be cleared: bytes of that direction are then read and held back, as on a
    path that drops them while both ends keep sending. ``delay`` in seconds holds every piece up.
    """

    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        self._connect = connect
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.to_server = asyncio.Event()
        self.to_client = asyncio.Event()
        self.accepting = True
        self.delay = 0.0
        self.connections = 0
        self.heal()

    async def serve_unix(self, path: str) -> None:
        """Accept at a Unix socket."""
        self._server = await asyncio.start_unix_server(self._accept, path)

    async def serve_tcp(self) -> int:
        """Accept at a free loopback port, which is returned."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    def stall(self) -> None:
        """Hold everything back, in both directions; connections stay open."""
        self.to_server.clear()
        self.to_client.clear()

    def heal(self) -> None:
        """Forward again, and accept."""
        self.to_server.set()
        self.to_client.set()
        self.delay = 0.0
        self.accepting = True

    def cut(self) -> None:
        """Break all connections. What was held back is gone."""
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        """Stop."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._tasks):
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if not self.accepting:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        for source, sink, gate in ((reader, far_writer, self.to_server), (far_reader, writer, self.to_client)):
            task = asyncio.create_task(self._pump(source, sink, gate))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await gate.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(sink)
            sink.transport.abort() if sink.transport.is_closing() else sink.close()
