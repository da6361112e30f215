"""A call that is given up ends nobody else's: what calls share outlives each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from locum.store.base import Put
from locum.store.etcd import EtcdStore, messages
from locum.store.etcd.endpoints import Endpoints
from locum.store.etcd.messages import Header
from locum.store.etcd.watch import Watch
from locum.store.etcd_options import EtcdOptions
from tests.unit.store.harness import asynchronous


class StubGateway:
    """Answers transactions at once, and reads (probes are reads) when told to."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()

    async def ask(self, endpoint: str, path: str, body: bytes, decoder: Any) -> Any:
        if path == "/v3/kv/range":
            await self.reads.wait()
            return messages.RangeResponse(header=Header(1, 1, 5))
        return messages.TxnResponse(header=Header(1, 1, 6), succeeded=True)

    async def close(self) -> None:
        pass


@asynchronous
async def test_a_commit_that_is_given_up_does_not_end_another_that_waits_for_the_same_probe() -> None:
    gateway = StubGateway()
    store = EtcdStore(["a:1", "b:1"])
    store._gateway = gateway  # type: ignore[assignment]
    store._endpoints = Endpoints(["a:1", "b:1"], gateway, b"k", 1000.0, 1000.0)  # type: ignore[arg-type]
    _, b = store._endpoints.all
    # One is known, so that calls go on to the endpoints; the other, which is asked first, needs a probe.
    store._endpoints.heard(b, Header(1, 1, 1))
    store._endpoints.suspect(b, 0.2)
    impatient = asyncio.create_task(store.commit((), (Put("one", b""),)))
    patient = asyncio.create_task(store.commit((), (Put("two", b""),)))
    for _ in range(10):
        await asyncio.sleep(0)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    for _ in range(10):
        await asyncio.sleep(0)
    assert not patient.done(), "ended together with the other"
    gateway.reads.set()
    assert (await asyncio.wait_for(patient, 10)).accepted
    await store.close()


class Streams:
    """A gateway whose streams confirm the watch and then deliver nothing. The end of the first one waits for ``go``."""

    has_user = False

    def __init__(self) -> None:
        self.started = self.open = 0
        self.ending = asyncio.Event()
        self.go = asyncio.Event()

    @asynccontextmanager
    async def stream(self, endpoint: str, body: bytes) -> AsyncIterator[Streams]:
        first, self.started, self.open = self.started == 0, self.started + 1, self.open + 1
        self._confirmed = False
        try:
            yield self
        finally:
            if first:
                self.ending.set()
                with suppress(asyncio.CancelledError):
                    await self.go.wait()
            self.open -= 1

    async def readany(self) -> bytes:
        if self._confirmed:
            await asyncio.Event().wait()
        self._confirmed = True
        return b'{"result":{"header":{"revision":"5"},"created":true}}\n'


@asynchronous
async def test_a_watch_that_is_closed_while_it_changes_its_stream_leaves_none_behind() -> None:
    async def revision() -> int:
        return 5

    gateway = Streams()
    endpoints = Endpoints(["a:1", "b:1"], gateway, b"k", 1000.0, 1000.0)  # type: ignore[arg-type]
    for endpoint in endpoints.all:
        endpoints.heard(endpoint, Header(1, 1, 5))
    options = EtcdOptions(watch_idle=0.01, suspect_after=1000.0, attempt_timeout=1000.0)
    watch = Watch(gateway, endpoints, b"", b"", 5, options, revision)  # type: ignore[arg-type]
    # The first stream is quiet, so the second one replaces it.
    await asyncio.wait_for(gateway.ending.wait(), 60)
    assert gateway.started == 2
    await watch.close()
    assert gateway.open == 0
    await endpoints.close()
