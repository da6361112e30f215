"""Measures a store: ``python -m locum_lab.store_bench --store unix:/run/locum/store.sock``.

Rules of this file: it uses the interface only, so the figures of different stores are comparable. Without ``--store``
it starts a server in a temporary directory (``--data``: kept in a file) and uses keys like a cluster's, because a store
in a file treats kinds of keys differently. In a store that others use, it writes under ``locum-bench/`` only. It
removes all of it at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import msgspec

from locum.errors import LocumError
from locum.store.base import Delete, Put, Store

#: Prefix of the keys in a store that may be in use.
FOREIGN_PREFIX = "locum-bench/"


class Figures(msgspec.Struct, frozen=True):
    """Latencies of one kind of operation, in milliseconds."""

    name: str
    count: int
    median: float
    p99: float
    worst: float

    def __str__(self) -> str:
        return f"{self.name:<28} {self.count:>6} {self.median:>9.3f} {self.p99:>9.3f} {self.worst:>9.3f}"


def _figures(name: str, seconds: Sequence[float]) -> Figures:
    ordered = sorted(1000 * value for value in seconds)
    return Figures(name, len(ordered), statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))], ordered[-1])


async def _timed(count: int, operation: Callable[[int], Awaitable[object]]) -> list[float]:
    taken = []
    for index in range(count):
        start = time.perf_counter()
        await operation(index)
        taken.append(time.perf_counter() - start)
    return taken


async def measure(writer: Store, reader: Store, count: int, prefix: str = "bench/") -> list[Figures]:
    """Measure ``count`` commits, reads, and commits → watch of another client, one after the other; then commits of 32
    tasks at once. Keys go under ``prefix``.
    """
    value = b"x" * 100
    results = []

    def commit(kind: str) -> Callable[[int], Awaitable[object]]:
        return lambda index: writer.commit((), (Put(f"{prefix}{kind}/bench{index % 8}", value),))

    for kind, times in (("beat", count), ("claim", count), ("admin", max(1, count // 10))):
        results.append(_figures(f"commit, {kind}/...", await _timed(times, commit(kind))))
    results.append(_figures("read", await _timed(count, lambda _: reader.read(f"{prefix}claim/"))))

    snapshot = await reader.read(prefix)
    seen: asyncio.Queue[tuple[int, float]] = asyncio.Queue()

    async def observe() -> None:
        async for batch in reader.watch(prefix, snapshot.revision):
            seen.put_nowait((batch.revision, time.perf_counter()))

    observer = asyncio.create_task(observe())
    taken = []
    for index in range(count):
        start = time.perf_counter()
        result = await writer.commit((), (Put(f"{prefix}beat/bench{index % 8}", value),))
        revision, moment = await seen.get()
        assert revision == result.revision
        taken.append(moment - start)
    results.append(_figures("commit -> watch", taken))
    observer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await observer

    one = commit("beat")

    async def worker(number: int) -> list[float]:
        return await _timed(max(1, count // 32), lambda index: one(number + index))

    start = time.perf_counter()
    taken = [value for part in await asyncio.gather(*map(worker, range(32))) for value in part]
    elapsed = time.perf_counter() - start
    results.append(_figures(f"32 at once ({len(taken) / elapsed:.0f}/s)", taken))

    written = [Delete(f"{prefix}{kind}/bench{index}") for kind in ("beat", "claim", "admin") for index in range(8)]
    await writer.commit((), written)
    return results


@contextlib.contextmanager
def local_server(data: bool = False) -> Iterator[str]:
    """A server in a temporary directory; yields its URL."""
    with tempfile.TemporaryDirectory(prefix="locum-bench-") as directory:
        socket = os.path.join(directory, "store.sock")
        command = [sys.executable, "-m", "locum.store.server", "--socket", socket]
        if data:
            command += ["--data", os.path.join(directory, "store.db")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                process.stdout.readline()
                yield socket
            finally:
                process.terminate()
                process.wait()


async def _run(url: str, count: int, prefix: str) -> None:
    from locum.store.factory import open_store  # noqa: PLC0415

    writer, reader = open_store(url), open_store(url)
    try:
        print(f"{'milliseconds':<28} {'count':>6} {'median':>9} {'p99':>9} {'worst':>9}")
        for figures in await measure(writer, reader, count, prefix):
            print(figures)
    finally:
        await writer.close()
        await reader.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m locum_lab.store_bench``."""
    parser = argparse.ArgumentParser(prog="locum_lab.store_bench", description="Measure a store's latencies.")
    parser.add_argument("--store", metavar="URL", help="store to measure (default: a server started for it)")
    parser.add_argument("--data", action="store_true", help="let the started server keep its data in a file")
    parser.add_argument("--count", type=int, default=2000, metavar="N")
    options = parser.parse_args(arguments)
    try:
        if options.store is not None:
            asyncio.run(_run(options.store, options.count, FOREIGN_PREFIX))
        else:
            with local_server(options.data) as socket:
                asyncio.run(_run(f"unix:{socket}", options.count, "bench/"))
    except LocumError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
