"""Serves an embedded store over a Unix socket, for several nodes on one machine.

Rules of this file: it moves requests to the store and answers back, and does not interpret them. One event loop, no
task per request: a commit is carried out, answered, and sent to the watchers while its frame is being read. The server
stops reading from a client that does not read, and its watches stay behind as cursors into the store's history, so
memory is bounded. A client's input can end only its own connection.

``python -m locum.store.server --socket PATH [--data FILE]`` runs it; so does ``locum store``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from locum import json_lines, tasks
from locum.errors import LocumError, ProtocolError, UsageError
from locum.folder import foreign_control
from locum.json_lines_async import FrameConnection, FrameServer, serve_unix
from locum.lines import LineWriter, standard_error, take_standard_error
from locum.store import messages
from locum.store.base import Batch, WatchLost
from locum.store.keyvalue import KeyValue
from locum.store.memory import MemoryStore, fresh_revision
from locum.store.messages import Commit, Names, Read, Reply, Unwatch, Watch

#: Commits that one watch examines before the others get their turn.
_WATCH_STEP: Final = 256

#: A watch without changes gets its progress after this number of commits, so that it can resume after a break.
_PROGRESS_EVERY: Final = 1000

#: Watches of one connection; more are refused.
MAX_WATCHES: Final = 64


class _Watcher:
    """A watch of one connection: a cursor."""

    __slots__ = ("after", "id", "prefix", "told")

    def __init__(self, request: Watch) -> None:
        self.id = request.id
        self.prefix = request.prefix
        self.after = request.after
        self.told = request.after


class StoreServer:
    """All connections to one store."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        #: The open ones.
        self.connections: set[_Connection] = set()
        self._server: FrameServer | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        # The last commits' encoded batches: many nodes watch the same prefix.
        self._encoded: dict[tuple[int, str], bytes] = {}

    async def start(self, path: str, group: int | None = None) -> None:
        """Serve at ``path``. Raises UsageError or PermissionRequired (:func:`locum.unix_sockets.listen`)."""
        self._server = await serve_unix(path, lambda: _Connection(self), group=group)
        self._unsubscribe = self.store.subscribe(self._changed)

    async def close(self) -> None:
        """Close the socket and the store."""
        self._unsubscribe()
        if self._server is not None:
            await self._server.close()
        await self.store.close()

    def _changed(self) -> None:
        self._encoded.clear()
        for connection in list(self.connections):
            connection.pump()

    def encoded(self, batch: Batch, prefix: str) -> bytes:
        """``batch`` as JSON; the same bytes serve every watch with this prefix."""
        place = (batch.revision, prefix)
        data = self._encoded.get(place)
        if data is None:
            data = self._encoded[place] = msgspec.json.encode(batch)
            if len(self._encoded) > _WATCH_STEP:
                self._encoded.pop(next(iter(self._encoded)))
        return data


class _Connection(FrameConnection):
    def __init__(self, server: StoreServer) -> None:
        super().__init__()
        self._all = server
        self._store = server.store
        self._watchers: dict[int, _Watcher] = {}
        self._pump_later: asyncio.Handle | None = None

    def on_open(self) -> None:
        self._all.connections.add(self)
        self.send(Reply(protocol=messages.PROTOCOL))

    def on_close(self, error: Exception | None) -> None:
        self._all.connections.discard(self)
        self._watchers.clear()
        if self._pump_later is not None:
            self._pump_later.cancel()

    def on_garbage(self, error: ProtocolError) -> None:
        self.send(Reply(error=str(error)))

    def on_writable(self) -> None:
        self.pump()

    def on_frame(self, frame: bytes) -> None:
        request = json_lines.decode(frame, messages.requests)
        try:
            match request:
                case Commit():
                    self._commit(request)
                case Read():
                    self.send(Reply(request.id, snapshot=self._store.core.snapshot(request.prefix)))
                case Names():
                    self.send(Reply(request.id, names=self._store.core.names(request.prefix)))
                case Watch():
                    self._watch(request)
                case Unwatch():
                    self._watchers.pop(request.id, None)
        except ValueError as error:
            self.send(Reply(request.id, error=str(error), invalid=True))
        except LocumError as error:
            self.send(Reply(request.id, error=str(error)))

    def _commit(self, request: Commit) -> None:
        result, safe = self._store.submit(request.conditions, request.operations)
        if safe is None:
            self.send(Reply(request.id, result=result))
            return

        def answer(future: asyncio.Future[None]) -> None:
            error = future.exception()
            self.send(Reply(request.id, result=result) if error is None else Reply(request.id, error=str(error)))

        safe.add_done_callback(answer)

    def _watch(self, request: Watch) -> None:
        if request.id in self._watchers:
            raise ProtocolError(f"request {request.id} is a watch already")
        if len(self._watchers) >= MAX_WATCHES:
            raise UsageError(f"a connection has at most {MAX_WATCHES} watches")
        self._watchers[request.id] = _Watcher(request)
        self.pump()

    def pump(self) -> None:
        """Send what the watches have not seen, as far as the peer reads it."""
        core = self._store.core
        again = False
        for watcher in list(self._watchers.values()):
            if self.congested or not self.open:
                return
            if watcher.after == core.revision:
                continue
            try:
                after, batches = core.history(watcher.after, watcher.prefix, _WATCH_STEP)
            except WatchLost as error:
                del self._watchers[watcher.id]
                self.send(Reply(watcher.id, lost=str(error)))
                continue
            for batch in batches:
                self.send_frame(b'{"id":%d,"batch":%b}\n' % (watcher.id, self._all.encoded(batch, watcher.prefix)))
                watcher.told = watcher.after = batch.revision
                if self.congested:
                    return
            watcher.after = after
            if after - watcher.told >= _PROGRESS_EVERY:
                watcher.told = after
                self.send(Reply(watcher.id, progress=after))
            again = again or after < core.revision
        if again and self._pump_later is None:
            self._pump_later = asyncio.get_running_loop().call_soon(self._pump_again)

    def _pump_again(self) -> None:
        self._pump_later = None
        self.pump()


def open_data(path: str | None) -> MemoryStore:
    """The store to serve: kept in the file ``path``, or in memory only. Raises as SqliteStore."""
    if path is None:
        return MemoryStore(KeyValue(revision=fresh_revision()))
    # Imported only for a store in a file.
    from locum.store.sqlite import SqliteStore  # noqa: PLC0415

    return SqliteStore(path)


async def serve(socket: str, data: str | None = None, *, group: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Prints one line on standard output when clients can connect.

    Root, this process's user and members of ``group`` (a gid) may connect. Raises UsageError, PermissionRequired,
    StoreCorrupt or StoreError when it cannot start.
    """
    stop = asyncio.Event()
    defects: list[BaseException] = []

    def complain(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        _complain(context)
        if (failed := tasks.failed_task(context)) is not None:
            # A half-working server would leave commits without an answer; the next one takes its place.
            defects.append(failed)
            stop.set()

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(complain)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if data is not None:
        _check_place(data)
    store = open_data(data)
    server = StoreServer(store)
    try:
        await server.start(socket, group)
    except BaseException:
        await store.close()
        raise
    try:
        # The reader may have ended; clients must be served nevertheless.
        LineWriter(1).put(f"serving {data or 'a store in memory'} at {socket}")
        await stop.wait()
        if defects:
            raise defects[0]
    finally:
        await server.close()


def _complain(context: dict[str, object]) -> None:
    """Log one line instead of asyncio's traceback, such as for a connection without a free descriptor."""
    print(f"store: {context.get('message')}: {context.get('exception')}", file=sys.stderr, flush=True)


def _check_place(data: str) -> None:
    """Raise UsageError when another user could replace the store's files, which are opened by name."""
    if reason := foreign_control(os.path.dirname(os.path.abspath(data))):
        raise UsageError(f"{data}: {reason}; expected a place that only this user and root can change")


def group_id(name: str | None) -> int | None:
    """The gid of the group ``name`` (or its number). Raises UsageError for an unknown group."""
    if name is None:
        return None
    if name.isdecimal():
        return int(name)
    import grp  # noqa: PLC0415

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(f"unknown group {name!r}: this machine does not have it") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m locum.store.server``."""
    parser = argparse.ArgumentParser(
        prog="locum.store.server", description="Serve a store to the nodes of one machine."
    )
    parser.add_argument("--socket", required=True, metavar="PATH", help="socket to serve at")
    parser.add_argument("--data", metavar="FILE", help="keep the store in this file (default: in memory only)")
    parser.add_argument("--group", metavar="NAME", help="group whose members may connect, besides root and the owner")
    options = parser.parse_args(arguments)
    take_standard_error()
    try:
        asyncio.run(serve(options.socket, options.data, group=group_id(options.group)))
    except LocumError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_status
    finally:
        standard_error.drain()
    return 0


if __name__ == "__main__":
    sys.exit(main())
