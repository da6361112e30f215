"""The client of :mod:`locum.store.server`: the store of several nodes on one machine, as a node sees it.

How it meets the interface: the server carries out the requests of a connection in order, one at a time, so its
answers are linearizable. A call raises StoreUnavailable when its connection breaks; a commit may then have been carried
out, or may still be carried out when a stopped server continues. Calls connect when there is no connection, and fail at
once without a listener. Watches reconnect by themselves without a time limit and continue after the last commit
received: without gaps and duplicates, or with WatchLost.

Any call may be cancelled: a late answer is dropped, and the connection remains usable. An unresponsive server delays
only the calls that wait for it, each for at most ``timeout``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, TypeVar

from locum import json_lines, tasks, unix_sockets
from locum.errors import LocumError, ProtocolError, StoreUnavailable
from locum.json_lines_async import FrameConnection, connect_unix
from locum.store import messages
from locum.store.base import Batch, CommitResult, Condition, Operation, Snapshot, WatchLost
from locum.store.keyvalue import check_commit
from locum.store.messages import Commit, Names, Read, Reply, Unwatch, Watch

T = TypeVar("T")

#: Requests are refused while this many bytes wait for a server that does not read them.
_UNSENT_LIMIT: Final = 4 * 1024 * 1024

#: Batches kept for a slow consumer; above this the watch is ended and later resumed from the server's history.
_QUEUE_BATCHES: Final = 1024
_QUEUE_BYTES: Final = 8 * 1024 * 1024

#: Seconds between attempts to reconnect for the watches: the first, and the longest.
_FIRST_DELAY: Final = 0.01
_LONGEST_DELAY: Final = 0.25


class _Subscription:
    """A watch as kept by the client, across connections."""

    def __init__(self, prefix: str, after: int) -> None:
        self.prefix = prefix
        self.after = after
        self.queue: deque[tuple[Batch, int]] = deque()
        self.queued_bytes = 0
        self.lost: str | None = None
        self.wake = asyncio.Event()
        #: The request that feeds it; 0 without one.
        self.id = 0

    def put(self, batch: Batch, size: int) -> None:
        """Take a batch from the server."""
        self.after = batch.revision
        self.queue.append((batch, size))
        self.queued_bytes += size
        self.wake.set()

    def take(self) -> Batch:
        """The next batch."""
        batch, size = self.queue.popleft()
        self.queued_bytes -= size
        return batch

    @property
    def full(self) -> bool:
        """Whether it has reached its limit."""
        return len(self.queue) >= _QUEUE_BATCHES or self.queued_bytes >= _QUEUE_BYTES


class _Link(FrameConnection):
    """One connection to the server, from its greeting to its end."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.pending: dict[int, asyncio.Future[Reply]] = {}
        self.watches: dict[int, _Subscription] = {}
        loop = asyncio.get_running_loop()
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._reason = "connection lost"
        self._next = 0

    def number(self) -> int:
        """A number for a request."""
        self._next += 1
        return self._next

    def subscribe(self, subscription: _Subscription) -> None:
        """Feed ``subscription`` from this connection."""
        subscription.id = self.number()
        self.watches[subscription.id] = subscription
        self.send(Watch(subscription.id, subscription.prefix, subscription.after))

    def unsubscribe(self, subscription: _Subscription) -> None:
        """Stop feeding ``subscription``."""
        if self.watches.pop(subscription.id, None) is not None:
            self.send(Unwatch(subscription.id))
        subscription.id = 0

    def on_frame(self, frame: bytes) -> None:
        reply = json_lines.decode(frame, messages.replies)
        if (subscription := self.watches.get(reply.id)) is not None:
            self._event(subscription, reply, len(frame))
        elif (waiter := self.pending.pop(reply.id, None)) is not None:
            if not waiter.done():
                waiter.set_result(reply)
        elif reply.id == 0:
            self._greeting(reply)
        # Otherwise the caller was cancelled.

    def _event(self, subscription: _Subscription, reply: Reply, size: int) -> None:
        if reply.batch is not None:
            subscription.put(reply.batch, size)
            if subscription.full:
                self.unsubscribe(subscription)
        elif reply.progress is not None:
            subscription.after = max(subscription.after, reply.progress)
        else:
            del self.watches[reply.id]
            subscription.id = 0
            subscription.lost = reply.lost or reply.error or "ended by the server"
            subscription.wake.set()

    def _greeting(self, reply: Reply) -> None:
        if reply.protocol == messages.PROTOCOL and not self.greeted.done():
            self.greeted.set_result(None)
            return
        if reply.error is not None:
            self._reason = reply.error
        else:
            self._reason = f"it speaks protocol {reply.protocol}, not {messages.PROTOCOL}"
        self.abort()

    def on_garbage(self, error: ProtocolError) -> None:
        self._reason = str(error)

    def on_close(self, error: Exception | None) -> None:
        if error is not None:
            self._reason = f"connection lost: {error}"
        failure = StoreUnavailable(f"store at {self.name}: {self._reason}")
        for waiter in self.pending.values():
            if not waiter.done():
                waiter.set_exception(failure)
        self.pending.clear()
        for subscription in self.watches.values():
            subscription.id = 0
        self.watches.clear()
        if not self.greeted.done():
            self.greeted.set_exception(failure)
            # The waiting callers may all have been cancelled.
            self.greeted.exception()
        self.gone.set_result(None)


class UnixStore:
    """A :class:`locum.store.base.Store` served by another process of this machine at the socket ``path``.

    ``timeout``: seconds after which a call without an answer raises StoreUnavailable. A connection is made when
    it is first needed.
    """

    def __init__(self, path: str, *, timeout: float = 5.0) -> None:
        unix_sockets.check_path(path)
        self._path = path
        self._timeout = timeout
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._subscriptions: set[_Subscription] = set()
        self._closed = False

    async def read(self, prefix: str) -> Snapshot:
        return await self._ask(lambda number: Read(number, prefix), lambda reply: reply.snapshot)

    async def names(self, prefix: str) -> tuple[str, ...]:
        return await self._ask(lambda number: Names(number, prefix), lambda reply: reply.names)

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        check_commit(conditions, operations)
        return await self._ask(
            lambda number: Commit(number, tuple(conditions), tuple(operations)), lambda reply: reply.result
        )

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        """The commits after ``after`` under ``prefix``, across any number of connections."""
        self._check_open()
        subscription = _Subscription(prefix, after)
        self._subscriptions.add(subscription)
        try:
            while True:
                while subscription.queue:
                    yield subscription.take()
                if subscription.lost is not None:
                    raise WatchLost(subscription.lost)
                self._check_open()
                if not subscription.id:
                    self._feed(subscription)
                subscription.wake.clear()
                await subscription.wake.wait()
        finally:
            self._subscriptions.discard(subscription)
            if self._link is not None:
                self._link.unsubscribe(subscription)

    async def close(self) -> None:
        """Close the connection; all calls and watches end with StoreUnavailable. Idempotent."""
        self._closed = True
        for task in (self._connecting, self._reconnecting):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, LocumError):
                    await task
        if self._link is not None:
            link, self._link = self._link, None
            link.abort()
            await link.gone
        for subscription in self._subscriptions:
            subscription.wake.set()

    async def _ask(self, request: Callable[[int], object], answer: Callable[[Reply], T | None]) -> T:
        """Send a request, wait for its answer. Raises StoreUnavailable, or ValueError when it is invalid."""
        try:
            async with asyncio.timeout(self._timeout):
                link = self._link
                if link is None or not link.open:
                    link = await self._connected()
                if link.unsent() > _UNSENT_LIMIT:
                    raise StoreUnavailable(f"store at {self._path} does not take requests (is it stopped?)")
                number = link.number()
                waiter: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
                link.pending[number] = waiter
                try:
                    link.send(request(number))
                    reply = await waiter
                finally:
                    link.pending.pop(number, None)
        except TimeoutError:
            raise StoreUnavailable(f"store at {self._path} did not answer within {self._timeout:g} s") from None
        if reply.error is not None:
            if reply.invalid:
                raise ValueError(reply.error)
            raise StoreUnavailable(f"store at {self._path}: {reply.error}")
        found = answer(reply)
        if found is None:
            raise StoreUnavailable(f"store at {self._path}: answer does not match the request: {reply}")
        return found

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    async def _connected(self) -> _Link:
        """The connection. Without one, all waiting callers share one attempt to connect."""
        self._check_open()
        if self._link is not None and self._link.open:
            return self._link
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
            # All callers may have been cancelled by the time it fails.
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Link:
        link = _Link(self._path)
        try:
            async with asyncio.timeout(self._timeout):
                await connect_unix(self._path, link)
                await link.greeted
        except TimeoutError:
            link.abort()
            raise StoreUnavailable(f"store at {self._path} does not answer (is it stopped?)") from None
        except StoreUnavailable:
            raise
        except LocumError as error:
            raise StoreUnavailable(f"store: {error}") from None
        except BaseException:
            link.abort()
            raise
        self._link = link
        link.gone.add_done_callback(lambda _: self._link_gone(link))
        for subscription in self._subscriptions:
            if subscription.lost is None and not subscription.full:
                link.subscribe(subscription)
        return link

    def _link_gone(self, link: _Link) -> None:
        if self._link is link:
            self._link = None
        if self._subscriptions and not self._closed:
            self._reconnect()

    def _feed(self, subscription: _Subscription) -> None:
        if self._link is not None and self._link.open:
            self._link.subscribe(subscription)
        else:
            self._reconnect()

    def _reconnect(self) -> None:
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = tasks.start(self._reconnect_for_watches(), "connecting to the store again")

    async def _reconnect_for_watches(self) -> None:
        delay = _FIRST_DELAY
        while self._subscriptions:
            try:
                await self._connected()
            except StoreUnavailable:
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY)
            else:
                return
