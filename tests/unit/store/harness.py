"""The stores under test, each with its faults. A harness runs one store engine and opens clients of it."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ParamSpec

from locum.errors import StoreUnavailable
from locum.store.base import Batch, Put, Store
from locum.store.client import UnixStore
from locum.store.keyvalue import KeyValue
from locum.store.memory import MemoryStore
from locum.store.sqlite import SqliteStore
from tests.unit.store.proxy import Proxy

#: Seconds after which something that should happen counts as not happening. Generous: machines are slow.
PATIENCE = 60.0

P = ParamSpec("P")


def asynchronous(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run the test in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(2 * PATIENCE):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


async def until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


class Watched:
    """A watch that collects what it sees, in the background."""

    def __init__(self, store: Store, prefix: str, after: int) -> None:
        self.batches: list[Batch] = []
        self.error: Exception | None = None
        self._task = asyncio.create_task(self._run(store, prefix, after))

    async def _run(self, store: Store, prefix: str, after: int) -> None:
        try:
            async for batch in store.watch(prefix, after):
                self.batches.append(batch)
        except Exception as error:
            self.error = error

    @property
    def revisions(self) -> list[int]:
        """The revisions seen, in the order of arrival."""
        return [batch.revision for batch in self.batches]

    async def reaches(self, revision: int) -> None:
        """Wait until the batch of ``revision`` (or a later one) has come, or the watch has ended."""
        await until(lambda: self.error is not None or (bool(self.batches) and self.batches[-1].revision >= revision))

    async def ends(self) -> Exception:
        """Wait until the watch has ended; the error that ended it."""
        await until(lambda: self.error is not None)
        assert self.error is not None
        return self.error

    async def stop(self) -> None:
        """End the watch."""
        self._task.cancel()
        await asyncio.wait([self._task])


class Harness:
    """One engine. ``remote``: its clients are apart from it, so their path can be broken and they outlive it."""

    name = ""
    remote = False
    #: What was committed is there after the engine was killed and started again.
    keeps = False

    def __init__(self) -> None:
        self._stores: list[Store] = []

    async def start(self) -> None:
        """Start the engine."""

    async def open(self, *, proxied: bool = False, timeout: float = PATIENCE) -> Store:
        """A client; ``timeout`` in seconds bounds its calls."""
        store = await self._open(proxied, timeout)
        self._stores.append(store)
        return store

    async def _open(self, proxied: bool, timeout: float) -> Store:
        raise NotImplementedError

    async def compact(self) -> None:
        """Drop the history of everything committed so far."""
        raise NotImplementedError

    async def kill(self) -> None:
        """kill -9."""
        raise NotImplementedError

    async def restart(self) -> None:
        """Start again after :meth:`kill`, with whatever it kept."""
        raise NotImplementedError

    def freeze(self) -> None:
        """SIGSTOP."""
        raise NotImplementedError

    def thaw(self) -> None:
        """SIGCONT."""
        raise NotImplementedError

    @property
    def proxy(self) -> Proxy:
        """The path of the clients opened with ``proxied=True``."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Close the clients and end the engine."""
        for store in self._stores:
            await store.close()

    async def __aenter__(self) -> Harness:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class MemoryHarness(Harness):
    """In this process, in memory."""

    name = "memory"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.store = MemoryStore(KeyValue())

    async def _open(self, proxied: bool, timeout: float) -> Store:
        return self.store

    async def compact(self) -> None:
        self.store.core.compact(self.store.core.revision)


class SqliteHarness(Harness):
    """In this process, in a file."""

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.path = directory / "store.db"

    async def start(self) -> None:
        self.store = SqliteStore(str(self.path))

    async def _open(self, proxied: bool, timeout: float) -> Store:
        return self.store

    async def compact(self) -> None:
        self.store.core.compact(self.store.core.revision)


class UnixHarness(Harness):
    """A server process, in memory."""

    name = "unix"
    remote = True

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.socket = directory / "store.sock"
        self.data: Path | None = None
        self._proxied = directory / "proxy.sock"
        self._proxy: Proxy | None = None
        self._process: subprocess.Popen[str] | None = None

    async def start(self) -> None:
        command = [sys.executable, "-m", "locum.store.server", "--socket", str(self.socket)]
        if self.data is not None:
            command += ["--data", str(self.data)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
        assert self._process.stdout is not None
        line = await asyncio.get_running_loop().run_in_executor(None, self._process.stdout.readline)
        assert line.startswith("serving "), line

    @property
    def process(self) -> subprocess.Popen[str]:
        """The server."""
        assert self._process is not None
        return self._process

    async def _open(self, proxied: bool, timeout: float) -> Store:
        if not proxied:
            return UnixStore(str(self.socket), timeout=timeout)
        if self._proxy is None:
            self._proxy = Proxy(lambda: asyncio.open_unix_connection(self.socket))
            await self._proxy.serve_unix(str(self._proxied))
        return UnixStore(str(self._proxied), timeout=timeout)

    @property
    def proxy(self) -> Proxy:
        assert self._proxy is not None
        return self._proxy

    async def compact(self) -> None:
        store = await self.open()

        async def some() -> None:
            for _ in range(110):
                await store.commit((), (Put("compaction/filler", b""),))

        await asyncio.gather(*(some() for _ in range(100)))

    async def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def restart(self) -> None:
        self._close_pipe()
        await self.start()

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def _close_pipe(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()

    async def stop(self) -> None:
        await super().stop()
        if self._proxy is not None:
            await self._proxy.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close_pipe()


class UnixSqliteHarness(UnixHarness):
    """A server process that keeps a file."""

    name = "unix+sqlite"
    keeps = True

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.data = directory / "store.db"


async def commit_when_possible(store: Store, key: str, value: bytes = b"") -> int:
    """Put ``key``, trying again while the store does not answer; the revision."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return (await store.commit((), (Put(key, value),))).revision
            except StoreUnavailable:
                await asyncio.sleep(0.01)
