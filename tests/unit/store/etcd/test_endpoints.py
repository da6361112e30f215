"""Endpoints that hang, or lack a leader, while others serve: what a commit does about it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from locum.errors import StoreUnavailable
from locum.store.base import Put
from locum.store.etcd import EtcdStore, messages
from locum.store.etcd.endpoints import Endpoints
from locum.store.etcd.messages import Header
from locum.store.etcd_options import EtcdOptions
from tests.unit.store.harness import Watched, asynchronous, until

HANGS, LEADERLESS, SERVES = "hangs", "leaderless", "serves"


class Members:
    """A stand-in for the gateway: each endpoint serves, hangs, or says that it sees no leader."""

    def __init__(self, **behaviour: str) -> None:
        self.behaviour = behaviour
        self.renewal = SimpleNamespace(warnings=())
        #: How long a request to one that hangs is waited for, in seconds.
        self.patience = 1000.0
        #: Commits that each endpoint was sent.
        self.commits: Counter[str] = Counter()
        #: Watches that each endpoint was asked for, and requests of other kinds.
        self.streams: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()

    async def ask(self, endpoint: str, path: str, body: bytes, decoder: Any) -> Any:
        self.asked[endpoint] += 1
        if path == "/v3/kv/txn":
            self.commits[endpoint] += 1
        behaviour = self.behaviour[endpoint]
        if behaviour == HANGS:
            await asyncio.sleep(self.patience)
            raise messages.Unknown("no answer")
        if behaviour == LEADERLESS:
            raise messages.classify("etcdserver: no leader")
        if path == "/v3/kv/range":
            return messages.RangeResponse(header=Header(1, 1, 5))
        return messages.TxnResponse(header=Header(1, 1, 6), succeeded=True)

    @asynccontextmanager
    async def stream(self, endpoint: str, body: bytes) -> AsyncIterator[Lines]:
        self.streams[endpoint] += 1
        behaviour = self.behaviour[endpoint]
        if behaviour == HANGS:
            await asyncio.Event().wait()
        if behaviour == LEADERLESS:
            raise messages.classify("etcdserver: no leader")
        header = b'{"header":{"cluster_id":"1","revision":"5"},'
        yield Lines(
            [
                b'{"result":' + header + b'"created":true}}\n',
                b'{"result":' + header + b'"events":[{"kv":{"key":"L2xvY3VtL2E=","mod_revision":"6"}}]}}\n',
            ]
        )

    async def close(self) -> None:
        pass


class Lines:
    """What a stream delivers; then it stays silent."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    async def readany(self) -> bytes:
        if not self._lines:
            await asyncio.Event().wait()
        return self._lines.pop(0)


def opened(members: Members, options: EtcdOptions) -> EtcdStore:
    store = EtcdStore(list(members.behaviour), options)
    store._gateway = members  # type: ignore[assignment]
    store._endpoints = Endpoints(
        list(members.behaviour),
        members,  # type: ignore[arg-type]
        b"k",
        options.probe_interval,
        options.suspect_after,
    )
    return store


@asynchronous
async def test_an_endpoint_that_only_hangs_in_probes_is_passed_over() -> None:
    """The first commit after a while must not be the one that finds out."""
    members = Members(a=SERVES, b=SERVES, c=SERVES)
    store = opened(members, EtcdOptions(suspect_after=0.02, probe_interval=0.05))
    await store.commit((), (Put("k", b""),))
    a, b, c = store._endpoints.all
    await until(lambda: a.up and b.up and c.up)
    members.behaviour["b"] = HANGS
    await until(lambda: not b.up)
    members.behaviour["a"] = HANGS
    await until(lambda: not a.up)
    await store.commit((), (Put("k", b""),))
    assert members.commits == {"a": 1, "c": 1}
    await store.close()


@asynchronous
async def test_a_commit_waits_where_a_leader_will_be_known_and_not_at_an_endpoint_that_hangs() -> None:
    members = Members(a=SERVES, b=SERVES, c=SERVES)
    store = opened(members, EtcdOptions(suspect_after=0.02, probe_interval=0.05, attempt_timeout=1000.0, timeout=60.0))
    await store.commit((), (Put("k", b""),))
    a, b, c = store._endpoints.all
    await until(lambda: a.up and b.up and c.up)
    # Etcd's leader was c, and its host is gone.
    members.behaviour.update(a=LEADERLESS, b=LEADERLESS, c=HANGS)
    await until(lambda: not (a.up or b.up or c.up))
    commit = asyncio.create_task(store.commit((), (Put("k", b""),)))
    asked = members.asked["a"]
    await until(lambda: members.asked["a"] > asked + 3)
    assert not commit.done()
    assert members.commits["c"] == 0
    members.behaviour.update(b=SERVES)
    assert (await commit).accepted
    assert members.commits["c"] == 0
    await store.close()


@asynchronous
async def test_a_minority_that_sees_no_leader_does_not_keep_a_commit_from_those_that_do() -> None:
    members = Members(a=LEADERLESS, b=SERVES)
    store = opened(members, EtcdOptions(suspect_after=0.02, probe_interval=0.05, timeout=60.0))
    assert (await store.commit((), (Put("k", b""),))).accepted
    a, b = store._endpoints.all
    # Slow once: not up, though it serves. Its next probe tells.
    store._endpoints.suspect(b, 0.02)
    assert (await store.commit((), (Put("k", b""),))).accepted
    assert a.leaderless
    assert b.up
    await store.close()


@asynchronous
async def test_without_a_leader_anywhere_a_commit_fails_in_time_and_says_so() -> None:
    members = Members(a=LEADERLESS, b=HANGS)
    store = opened(members, EtcdOptions(suspect_after=0.02, probe_interval=0.05, timeout=0.3))
    with pytest.raises(StoreUnavailable, match="a: it sees no leader"):
        await store.commit((), (Put("k", b""),))
    await store.close()


@pytest.mark.parametrize("first", [HANGS, LEADERLESS])
@asynchronous
async def test_a_watch_does_not_wait_for_an_endpoint_that_hangs(first: str) -> None:
    members = Members(a=SERVES, b=SERVES)
    options = EtcdOptions(suspect_after=0.02, probe_interval=1000.0, attempt_timeout=1000.0, watch_idle=1000.0)
    store = opened(members, options)
    await store.commit((), (Put("k", b""),))
    a, b = store._endpoints.all
    await until(lambda: a.up and b.up)
    members.behaviour["a"] = first
    watch = Watched(store, "", 5)
    await watch.reaches(6)
    assert watch.error is None
    await watch.stop()
    await store.close()


@asynchronous
async def test_a_watch_that_cannot_begin_anywhere_tries_on() -> None:
    members = Members(a=SERVES, b=SERVES)
    options = EtcdOptions(suspect_after=0.02, probe_interval=0.05, attempt_timeout=0.1, watch_idle=1000.0)
    store = opened(members, options)
    await store.commit((), (Put("k", b""),))
    members.patience = 0.1
    members.behaviour.update(a=HANGS, b=LEADERLESS)
    watch = Watched(store, "", 5)
    await until(lambda: members.streams["b"] > 3)
    assert watch.error is None
    members.behaviour["a"] = SERVES
    await watch.reaches(6)
    await watch.stop()
    await store.close()
