"""Stores on an etcd of the test: opened, and written to all the time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from locum.errors import StoreUnavailable
from locum.store.etcd import EtcdStore
from locum.store.etcd_options import EtcdOptions
from tests.lab.store.etcd import Cluster
from tests.unit.store.contract import put
from tests.unit.store.harness import until

QUICK = EtcdOptions(attempt_timeout=0.3, watch_idle=0.6, probe_interval=0.2)


@asynccontextmanager
async def running(
    directory: Path, count: int, *, extra: tuple[str, ...] = (), scheme: str = "http", options: EtcdOptions = QUICK
) -> AsyncIterator[Cluster]:
    cluster = Cluster(directory, count, extra=extra, scheme=scheme)
    try:
        await cluster.start(options)
        yield cluster
    finally:
        cluster.stop()


@asynccontextmanager
async def opened(endpoints: list[str], options: EtcdOptions = QUICK) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(endpoints, options)
    try:
        yield store
    finally:
        await store.close()


class Beats:
    """Commits one after the other, without pause; what was confirmed, and what failed."""

    def __init__(self, store: EtcdStore) -> None:
        self.confirmed: list[int] = []
        self.failures: list[str] = []
        self._task = asyncio.create_task(self._run(store))

    async def _run(self, store: EtcdStore) -> None:
        number = 0
        while True:
            number += 1
            try:
                self.confirmed.append(await put(store, "beat/n1", str(number).encode()))
            except StoreUnavailable as error:
                self.failures.append(str(error))
            await asyncio.sleep(0.02)

    async def go_on(self) -> None:
        """Wait for ten more."""
        wanted = len(self.confirmed) + 10
        await until(lambda: len(self.confirmed) >= wanted)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


# Users and passwords.
async def with_authentication(cluster: Cluster, *tls: str) -> None:
    for command in (
        "user add root:rootpassword",
        "user grant-role root root",
        "user add locum:secret",
        "role add locum",
        "role grant-permission locum --prefix=true readwrite /locum/",
        "user grant-role locum locum",
        "auth enable",
    ):
        endpoint = f"{'https' if tls else 'http'}://{cluster.members[0].endpoint}"
        await cluster.etcdctl(*tls, *command.split(), endpoint=endpoint)
