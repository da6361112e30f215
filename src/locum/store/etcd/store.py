"""The store on etcd v3.

How it meets the interface: reads are linearizable ranges, commits are transactions that compare ``mod_revision``,
watches are etcd's. All keys lie under ``prefix``, which callers do not see.

Failover:

* A read is repeated elsewhere when an endpoint fails, and *also* sent to the next one when the first takes long.
* A commit goes to another endpoint only while it certainly had no effect: no connection, no leader, no valid token.
  When an answer is missing, the effect is unknown: StoreUnavailable. Long before that, the endpoint is suspected and
  later commits go elsewhere, so that an endpoint that hangs costs a node one beat. A commit without an answer may even
  take effect later, when a stopped member continues; so everything that a commit would overwrite must be in its
  conditions.
* While no endpoint sees a leader, reads and commits wait and retry, up to ``timeout``.

The revisions of an etcd that was restored from a backup or wiped go back. The first answer that shows it ends all
watches with WatchLost, so that everything is read again.

Rules of this file: it combines the other modules of this package. It knows no HTTP and no key of Locum.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

import msgspec

from locum.errors import StoreUnavailable, UsageError
from locum.store.base import Batch, CommitResult, Condition, Operation, Snapshot, WatchLost
from locum.store.credential_files import CredentialFiles
from locum.store.etcd import messages
from locum.store.etcd.endpoints import Endpoint, Endpoints
from locum.store.etcd.gateway import Gateway
from locum.store.etcd.messages import (
    Compacted,
    Failure,
    Header,
    KeyValue,
    NotCarriedOut,
    RangeResponse,
    Refused,
    TxnResponse,
    Unknown,
)
from locum.store.etcd.space import Space, space
from locum.store.etcd.watch import Watch
from locum.store.etcd_options import EtcdOptions
from locum.store.keyvalue import check_commit

#: Keys of one answer; gRPC limits its size (4 MiB by default).
_PAGE: Final = 500

#: Seconds between tries while there is no leader.
_LEADER_DELAY: Final = 0.025

T = TypeVar("T")
Answer = TypeVar("Answer", RangeResponse, TxnResponse)


class EtcdStore:
    """A :class:`locum.store.base.Store` in the etcd cluster whose members serve ``endpoints`` (``host:port``).

    Connections are made when first needed. Raises at creation: UsageError for invalid options.
    """

    def __init__(self, endpoints: Sequence[str], options: EtcdOptions | None = None) -> None:
        options = EtcdOptions() if options is None else options
        if not endpoints:
            raise UsageError("etcd: no endpoint is given")
        self._options = options
        self._prefix = options.prefix.encode()
        self._gateway = Gateway(options, endpoints)
        self._endpoints = Endpoints(
            endpoints, self._gateway, self._prefix, options.probe_interval, options.suspect_after
        )
        self._endpoints.on_down = self._went_down
        self._endpoints.on_header = self._check_revision
        self._endpoints.known = lambda: self._revision
        #: The highest revision that a linearizable answer has shown.
        self._revision = 0
        self._watches: set[Watch] = set()
        self._closed = False

    async def read(self, prefix: str) -> Snapshot:
        return await self._bounded(self._read(self._prefix + prefix.encode()))

    async def _read(self, prefix: bytes) -> Snapshot:
        while True:
            try:
                first = await self._range(messages.range_request(prefix, limit=_PAGE))
                entries = messages.entries(self._prefix, first.kvs)
                revision, page = first.header.revision, first
                while page.more and page.kvs:
                    page = await self._next_page(prefix, page.kvs[-1], revision)
                    entries += messages.entries(self._prefix, page.kvs)
            except Compacted:
                # Possible only between two pages: start again.
                continue
            # etcd orders keys by bytes, which for UTF-8 is the order of the text.
            return Snapshot(revision, tuple(entries))

    async def _next_page(self, prefix: bytes, last: KeyValue, revision: int) -> RangeResponse:
        return await self._range(messages.range_request(prefix, after=last.key, revision=revision, limit=_PAGE))

    async def names(self, prefix: str) -> tuple[str, ...]:
        """The first parts of all keys after ``prefix``: one small read for each."""
        return await self._bounded(self._names(self._prefix + prefix.encode()))

    async def _names(self, prefix: bytes) -> tuple[str, ...]:
        found: list[str] = []
        start = prefix
        while True:
            answer = await self._range(messages.first_request(prefix, start))
            if not answer.kvs:
                return tuple(found)
            key = answer.kvs[0].key
            name, slash, _ = key[len(prefix) :].partition(b"/")
            if slash:
                found.append(name.decode(errors="replace"))
                # The first key that does not begin with this name and "/".
                start = messages.prefix_end(prefix + name + slash)
            else:
                start = key + b"\0"

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        check_commit(conditions, operations)
        return await self._bounded(self._commit(messages.txn_request(self._prefix, conditions, operations)))

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        """The commits after ``after`` under ``prefix``, across any number of streams and endpoints."""
        self._check_open()
        watch = Watch(
            self._gateway,
            self._endpoints,
            self._prefix,
            self._prefix + prefix.encode(),
            after,
            self._options,
            self._current_revision,
        )
        self._watches.add(watch)
        try:
            while True:
                yield await watch.next()
        finally:
            self._watches.discard(watch)
            await watch.close()

    async def space(self) -> list[Space | StoreUnavailable]:
        """The space of each endpoint's member, or the reason for the missing answer."""
        self._check_open()
        return [await self._space(endpoint) for endpoint in self._endpoints.all]

    async def _space(self, endpoint: Endpoint) -> Space | StoreUnavailable:
        try:
            return await space(self._gateway, endpoint.name, self._prefix or b"\0")
        except StoreUnavailable as error:
            return error

    # -- credentials -------------------------------------------------------------------------------------------

    @property
    def credential_warnings(self) -> tuple[str, ...]:
        """Warnings about credentials: unusable files, refusals, and certificates that end."""
        return self._gateway.renewal.warnings

    def watch_credentials(self, note: Callable[[str], None], warn: Callable[[tuple[str, ...]], None]) -> None:
        """Have ``note`` called for each renewal, and ``warn`` with all warnings when they have changed."""
        self._gateway.renewal.on_note, self._gateway.renewal.on_warnings = note, warn

    async def reread_credentials(self, files: CredentialFiles) -> tuple[str, ...]:
        """Read the credentials again, from ``files``; returns the changes since the last call, in words.

        Raises UsageError, without effect, for an invalid combination.
        """
        return await self._gateway.renewal.reread(files)

    async def close(self) -> None:
        """Close all connections; calls and watches end with StoreUnavailable. Idempotent."""
        self._closed = True
        for watch in list(self._watches):
            watch.end(StoreUnavailable("the store is closed"))
        await self._endpoints.close()
        await self._gateway.close()

    async def _current_revision(self) -> int:
        answer = await self._range(messages.probe_request(self._prefix or b"\0"))
        return answer.header.revision

    async def _bounded(self, call: Awaitable[T]) -> T:
        """``call`` within ``timeout``; failures become StoreUnavailable."""
        try:
            async with asyncio.timeout(self._options.timeout):
                return await call
        except TimeoutError:
            self._check_open()
            error = self._endpoints.unavailable(f"no answer within {self._options.timeout:g} s")
            raise self._with_credentials(error) from None
        except Refused as error:
            raise self._with_credentials(StoreUnavailable(f"etcd: {error}")) from None
        except StoreUnavailable as error:
            raise self._with_credentials(error) from None

    def _with_credentials(self, error: StoreUnavailable) -> StoreUnavailable:
        """``error`` with the problems of credentials, which a node without its store cannot report elsewhere."""
        found = [text for text in self.credential_warnings if text.removeprefix("etcd: ") not in str(error)]
        return StoreUnavailable("; ".join([str(error), *found])) if found else error

    async def _commit(self, body: bytes) -> CommitResult:
        async def attempt(endpoint: Endpoint) -> CommitResult:
            if not endpoint.known:
                # This also learns whether the endpoint belongs to the same etcd cluster. Others wait for the same
                # probe, so a cancelled caller must not end it: they would be cancelled as well.
                await asyncio.shield(self._endpoints.probe(endpoint))
                self._endpoints.check()
                if not endpoint.known:
                    # Whatever the probe's failure, the commit was not sent.
                    if isinstance(endpoint.failure, Refused | NotCarriedOut):
                        raise endpoint.failure
                    raise NotCarriedOut(str(endpoint.failure))
            answer = await self._ask(endpoint, "/v3/kv/txn", body, messages.txn_responses)
            return CommitResult(answer.succeeded, answer.header.revision)

        while True:
            await self._some_known()
            wait = False
            for endpoint in self._endpoints.ordered():
                if wait and not (endpoint.up or endpoint.leaderless):
                    # An endpoint is alive and only lacks a leader: it will know the next one before this one answers.
                    continue
                try:
                    return await attempt(endpoint)
                except NotCarriedOut as error:
                    wait = wait or error.waiting
                except Refused:
                    raise
                except Failure as error:
                    raise StoreUnavailable(
                        f"etcd: {endpoint}: {error}; it is unknown whether the commit was carried out"
                    ) from None
            if not wait:
                raise self._endpoints.unavailable("no endpoint takes the commit")
            await asyncio.sleep(_LEADER_DELAY)

    async def _range(self, body: bytes) -> RangeResponse:
        while True:
            await self._some_known()
            answer, wait = await self._hedged(body)
            if answer is not None:
                return answer
            if not wait:
                raise self._endpoints.unavailable("no endpoint answers")
            await asyncio.sleep(_LEADER_DELAY)

    async def _hedged(self, body: bytes) -> tuple[RangeResponse | None, bool]:
        """The first answer; the next endpoint is asked whenever the previous ones have failed or take long.

        Without an answer: whether one only lacked a leader. Raises Refused and Compacted.
        """
        waiting = self._endpoints.ordered()
        running: set[asyncio.Task[RangeResponse]] = set()
        no_leader = False
        try:
            while waiting or running:
                if waiting:
                    endpoint = waiting.pop(0)
                    running.add(
                        asyncio.create_task(self._ask(endpoint, "/v3/kv/range", body, messages.range_responses))
                    )
                patience = self._options.suspect_after if waiting else None
                done, running = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if error is None:
                        self._endpoints.check()
                        return task.result(), False
                    if isinstance(error, Refused | Compacted) or not isinstance(error, Failure):
                        raise error
                    no_leader = no_leader or (isinstance(error, NotCarriedOut) and error.waiting)
            return None, no_leader
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _ask(self, endpoint: Endpoint, path: str, body: bytes, decoder: msgspec.json.Decoder[Answer]) -> Answer:
        """One request to one endpoint; records the endpoint's state."""
        known = self._revision
        try:
            with self._endpoints.watched(endpoint):
                answer = await self._gateway.ask(endpoint.name, path, body, decoder)
        except (Refused, Compacted):
            raise
        except Failure as error:
            self._endpoints.failed(endpoint, error)
            raise
        self._endpoints.heard(endpoint, answer.header)
        if not self._check_revision(answer.header, known):
            raise Unknown(f"its revision went back from {known} to {answer.header.revision}")
        return answer

    def _check_revision(self, header: Header, known: int) -> bool:
        """Record the revision of a linearizable answer; ``known``: the revision known before the request."""
        if header.revision >= known:
            self._revision = max(self._revision, header.revision)
            return True
        self._revision = header.revision
        lost = WatchLost(f"etcd's revision went back from {known} to {header.revision}: it was wiped or restored")
        for watch in list(self._watches):
            watch.end(lost)
        return False

    async def _some_known(self) -> None:
        self._check_open()
        await self._endpoints.some_known()
        self._endpoints.check()

    def _went_down(self, endpoint: Endpoint) -> None:
        for watch in list(self._watches):
            watch.went_down(endpoint)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")
