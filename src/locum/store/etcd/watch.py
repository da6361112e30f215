"""One watch over any number of streams.

Rules of this file: it knows how a watch continues when streams end, stall, or when their position was compacted. It
knows no HTTP.

Theory: a stream that begins after revision N delivers every later commit, in order. So several streams of one watch may
run at once; their output is merged by dropping every revision that was already seen. A suspicious stream (silent for a
while, or its endpoint failed elsewhere) is therefore not ended but overlapped: another is started elsewhere, and takes
over when etcd has confirmed it. A false suspicion costs a request, a true one costs the time to suspect.

A commit is delivered whole: etcd splits a revision over responses only by fragments, which are collected.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from locum import json_lines, tasks
from locum.errors import ProtocolError, StoreUnavailable
from locum.store.base import Batch, WatchLost
from locum.store.etcd import messages
from locum.store.etcd.endpoints import Endpoint, Endpoints
from locum.store.etcd.gateway import Gateway
from locum.store.etcd.messages import Event, Failure, Refused, TokenRefused, Unknown, WatchResponse
from locum.store.etcd_options import EtcdOptions

#: Reading stops while the consumer leaves this number of batches unread: etcd keeps the rest.
_QUEUE_BATCHES: Final = 4096
_QUEUE_BYTES: Final = 16 * 1024 * 1024

#: One response holds up to 1000 revisions (mvcc/watcher_group.go, watchBatchMaxRevs); fragments are far smaller.
_LINE_LIMIT: Final = 256 * 1024 * 1024

#: Seconds between attempts to find an endpoint: the first, and the longest.
_FIRST_DELAY: Final = 0.02
_LONGEST_DELAY: Final = 0.5

#: A watch that is quiet rather than stalled is overlapped ever more rarely, down to once in this number of seconds.
_LONGEST_IDLE: Final = 10.0

#: New tokens tried in a row for a watch that etcd refuses.
_NEW_TOKENS: Final = 3

#: A watch that has worked continues to try for this many seconds while etcd refuses it. The cause is often temporary: a
#: password or certificate that reaches this node some seconds after etcd, a role that is being changed.
_REFUSED_FOR: Final = 30.0


class _StillRefused(Failure):
    """etcd refused the stream, and may accept the next one. This is not a fault of the endpoint."""


async def _end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Start(NamedTuple):
    """A stream that begins: ``confirmed`` is set when etcd has confirmed it."""

    endpoint: Endpoint
    task: asyncio.Task[None]
    confirmed: asyncio.Future[None]


class Watch:
    """A watch of ``prefix`` after revision ``after``; ``namespace``, a part of it, is removed from the keys.

    By ``options``, a stream that is silent for ``watch_idle`` is suspicious. A new stream is also tried at the next
    endpoint when it is not confirmed within ``suspect_after``, and abandoned after ``attempt_timeout``.
    """

    def __init__(
        self,
        gateway: Gateway,
        endpoints: Endpoints,
        namespace: bytes,
        prefix: bytes,
        after: int,
        options: EtcdOptions,
        current_revision: Callable[[], Awaitable[int]],
    ) -> None:
        self._gateway = gateway
        self._endpoints = endpoints
        self._namespace = namespace
        self._prefix = prefix
        self._after = after
        self._idle = options.watch_idle
        self._patience = options.suspect_after
        self._attempt = options.attempt_timeout
        self._current_revision = current_revision
        self._queue: deque[tuple[Batch, int]] = deque()
        self._queued_bytes = 0
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._suspicion = asyncio.Event()
        self._heard = 0.0
        self._quiet = self._idle
        self._serving: Endpoint | None = None
        # Refusals since the last sign that this watch works, the time of the first one, and whether it ever worked.
        self._refusals = 0
        self._refused_at = 0.0
        self._worked = False
        # All running streams. One that no variable refers to must also end with the watch.
        self._streams: set[asyncio.Task[None]] = set()
        self._task = tasks.start(self._run(), "watching etcd")

    async def next(self) -> Batch:
        """The next batch. Raises WatchLost, or StoreUnavailable when the watch was ended."""
        while not self._queue:
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        batch, size = self._queue.popleft()
        self._queued_bytes -= size
        if not self._room.is_set() and len(self._queue) <= _QUEUE_BATCHES // 2:
            self._heard = asyncio.get_running_loop().time()
            self._room.set()
        return batch

    def end(self, error: Exception) -> None:
        """End the watch; ``error`` is raised after the received batches were read."""
        if self._error is None:
            self._error = error
        self._news.set()
        self._task.cancel()

    def went_down(self, endpoint: Endpoint) -> None:
        """``endpoint`` failed: if it serves this watch, act at once instead of waiting for silence."""
        if endpoint is self._serving:
            self._suspicion.set()

    async def close(self) -> None:
        """End the streams."""
        await _end(self._task)

    async def _run(self) -> None:
        try:
            await self._keep_streaming()
        except Refused as error:
            self.end(StoreUnavailable(f"etcd: watch refused: {error}"))
        except Exception as error:
            # WatchLost, StoreUnavailable, and defects: none of them may appear as silence.
            self.end(error)
        finally:
            await _end(*self._streams)

    async def _keep_streaming(self) -> None:
        """Keep one good stream; overlap a suspicious one with another. Raises the error that ends the watch."""
        loop = asyncio.get_running_loop()
        stream: asyncio.Task[None] | None = None
        delay = _FIRST_DELAY
        while True:
            try:
                replacement = await self._start_stream(stream is not None)
            except Refused:
                raise
            except Failure:
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY)
                continue
            if stream is not None:
                await _end(stream)
            stream, started = replacement, loop.time()
            if await self._until_suspicious(stream):
                stream = None
                if loop.time() - started < _LONGEST_DELAY:
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, _LONGEST_DELAY)
                    continue
            delay = _FIRST_DELAY

    async def _until_suspicious(self, stream: asyncio.Task[None]) -> bool:
        """Wait until ``stream`` has ended (True) or should be overlapped. Raises WatchLost."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        suspicion = asyncio.create_task(self._suspicion.wait())
        try:
            while True:
                quiet_for = loop.time() - self._heard
                if quiet_for >= self._quiet and self._room.is_set():
                    self._quiet = min(2 * self._quiet, max(self._idle, _LONGEST_IDLE))
                    return False
                rest = max(self._quiet - quiet_for, 0.01)
                await asyncio.wait({stream, suspicion}, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
                if stream.done():
                    error = stream.exception()
                    if isinstance(error, WatchLost):
                        raise error
                    if error is not None and not isinstance(error, Failure):
                        raise error
                    return True
                if self._suspicion.is_set():
                    # An etcd that is slow everywhere must not be burdened with a series of new streams.
                    await asyncio.sleep(max(0.0, started + self._idle - loop.time()))
                    return False
        finally:
            suspicion.cancel()
            self._suspicion.clear()

    async def _start_stream(self, overlapping: bool) -> asyncio.Task[None]:
        """A stream that etcd has confirmed, at the best endpoint; when another runs, preferably at a different one.

        Raises a Failure, or WatchLost.
        """
        await self._endpoints.some_known()
        self._endpoints.check()
        candidates = self._endpoints.ordered()
        if overlapping and len(candidates) > 1 and candidates[0] is self._serving:
            candidates.append(candidates.pop(0))
        last: Failure = Unknown("no endpoint")
        starts: list[_Start] = []
        try:
            while candidates or starts:
                if candidates:
                    confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    endpoint = candidates.pop(0)
                    task = asyncio.create_task(self._stream(endpoint, confirmed))
                    self._streams.add(task)
                    task.add_done_callback(self._stream_ended)
                    starts.append(_Start(endpoint, task, confirmed))
                await asyncio.wait(
                    {future for start in starts for future in (start.task, start.confirmed)},
                    # The next endpoint is also tried when the previous ones take long.
                    timeout=self._patience if candidates else self._attempt,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                ended = [start for start in starts if start.task.done() or start.confirmed.done()]
                if not ended and not candidates:
                    ended = list(starts)
                for start in ended:
                    starts.remove(start)
                    if start.confirmed.done() and not start.task.done():
                        self._serving = start.endpoint
                        self._heard = asyncio.get_running_loop().time()
                        return start.task
                    last = await self._why_not(start.task)
                    if not isinstance(last, _StillRefused):
                        self._endpoints.failed(start.endpoint, last)
        finally:
            await _end(*(start.task for start in starts))
        raise last

    def _stream_ended(self, task: asyncio.Task[None]) -> None:
        self._streams.discard(task)
        if not task.cancelled():
            # A failure that matters is examined elsewhere; asyncio must not report that of an abandoned stream.
            task.exception()

    async def _why_not(self, task: asyncio.Task[None]) -> Failure:
        """Why the stream of ``task`` failed to start. Raises other exceptions, and Refused, which is final."""
        if not task.done():
            await _end(task)
            return Unknown(f"no watch within {self._attempt:g} s")
        error = task.exception() or Unknown("the stream ended")
        if not isinstance(error, Failure):
            raise error
        if isinstance(error, Refused | TokenRefused):
            return self._refused(error)
        return error

    def _refused(self, error: Refused | TokenRefused) -> _StillRefused:
        """The consequence of a refused stream: another one, with credentials that are read again. Raises Refused.

        A watch that never worked ends as soon as new tokens do not help: its caller learns the reason.
        """
        now = asyncio.get_running_loop().time()
        if self._refusals == 0:
            self._refused_at = now
        self._refusals += 1
        new_token = self._gateway.has_user and self._refusals <= _NEW_TOKENS
        if new_token or isinstance(error, TokenRefused):
            # etcd says "permission denied" also for a token that ran out (etcdserver/api/v3rpc/watch.go).
            self._gateway.token_refused()
        if new_token or (self._worked and now - self._refused_at < _REFUSED_FOR):
            return _StillRefused(str(error))
        if isinstance(error, TokenRefused):
            raise Refused(f"{error}; etcd wants authentication: configure user and password_file")
        raise error

    async def _stream(self, endpoint: Endpoint, confirmed: asyncio.Future[None]) -> None:
        """Deliver the events of one stream at ``endpoint``. Raises a Failure or WatchLost at its end."""
        loop = asyncio.get_running_loop()
        splitter = json_lines.FrameSplitter(_LINE_LIMIT)
        fragments: list[Event] = []
        request = messages.watch_request(self._prefix, self._after + 1)
        async with self._gateway.stream(endpoint.name, request) as content:
            while data := await content.readany():
                self._heard = loop.time()
                for response in self._responses(splitter, data):
                    self._check_canceled(response)
                    if response.created and not confirmed.done():
                        await self._check_future(response)
                        self._refusals, self._worked = 0, True
                        confirmed.set_result(None)
                    fragments += response.events
                    if not response.fragment and fragments:
                        self._deliver(fragments)
                        fragments = []
                        self._quiet = self._idle
                await self._room.wait()
        raise Unknown("the stream ended")

    @staticmethod
    def _responses(splitter: json_lines.FrameSplitter, data: bytes) -> list[WatchResponse]:
        responses = []
        try:
            for line in splitter.feed(data):
                message = json_lines.decode(line, messages.stream_messages)
                if message.error is not None:
                    raise messages.classify(message.error.message)
                if message.result is not None:
                    responses.append(message.result)
        except ProtocolError as error:
            raise Unknown(str(error)) from None
        return responses

    async def _check_future(self, response: WatchResponse) -> None:
        """A lagging member may confirm a watch from its future; a whole etcd that is behind was wiped or restored."""
        if response.header.revision < self._after and (current := await self._current_revision()) < self._after:
            raise WatchLost(f"revision {self._after} is not in this etcd, which is at {current}")

    @staticmethod
    def _check_canceled(response: WatchResponse) -> None:
        if response.compact_revision:
            raise WatchLost(f"etcd has compacted its history up to revision {response.compact_revision}")
        if response.canceled:
            raise messages.classify(response.cancel_reason or "the watch was cancelled")

    def _deliver(self, events: list[Event]) -> None:
        size = sum(len(event.kv.key) + len(event.kv.value) for event in events)
        self._refusals = 0
        fresh = [batch for batch in messages.batches(self._namespace, events) if batch.revision > self._after]
        for batch in fresh:
            self._after = batch.revision
            self._queue.append((batch, size // len(fresh)))
            self._queued_bytes += size // len(fresh)
        if len(self._queue) >= _QUEUE_BATCHES or self._queued_bytes >= _QUEUE_BYTES:
            self._room.clear()
        self._news.set()
