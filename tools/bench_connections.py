"""What it costs to know ten thousand TCP connections, to tell their clients, and to end them.

Run it from the checkout, as root: ``.venv/bin/python tools/bench_connections.py [--connections N] [--json]``.

A client and a node are network namespaces of their own, with real connections between them; the store is the embedded
one in a process of its own. Everything is removed afterwards. CPU is that of the tracker's process; times are wall
time, whatever else this machine does meanwhile. Milliseconds, unless a name says otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from locum.connections.tickle_store import TickleStore
from locum.connections.tracker import ConnectionTracker, TrackerSettings
from locum.store.base import Batch, CommitResult, Condition, Operation, Put, Snapshot
from locum.store.client import UnixStore
from locum_lab import namespaces

ADDRESS, PORT = "10.79.0.100", 4450

#: Keeps what is connected until the other side closes it. Each line on its input is answered with how many there are.
SERVER = """
import select, socket, sys
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=4096)
listener.setblocking(False)
poll, kept = select.epoll(), {}
poll.register(listener, select.EPOLLIN)
poll.register(sys.stdin, select.EPOLLIN)
while True:
    for number, event in poll.poll():
        if number == listener.fileno():
            try:
                while True:
                    made, _ = listener.accept()
                    made.setblocking(False)
                    kept[made.fileno()] = made
                    poll.register(made, select.EPOLLIN)
            except BlockingIOError:
                pass
        elif number == 0:
            if not sys.stdin.readline():
                sys.exit()
            print(len(kept), flush=True)
        else:
            kept.pop(number).close()
"""

#: Reads how many connections to open and how many (from all over) to close; answers when that is done.
CLIENT = """
import random, socket, sys
random.seed(1)
kept = []
for line in sys.stdin:
    opened, closed = map(int, line.split())
    for _ in range(closed):
        place = random.randrange(len(kept))
        kept[place], kept[-1] = kept[-1], kept[place]
        kept.pop().close()
    for _ in range(opened):
        kept.append(socket.create_connection((sys.argv[1], int(sys.argv[2])), 30))
    print(len(kept), flush=True)
"""


class Child:
    """A program in a namespace that answers each line with a number."""

    def __init__(self, namespace: str, text: str) -> None:
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-S", "-c", text, ADDRESS, str(PORT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str = "") -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class CountingStore:
    """The embedded store, and how much is written below ``.bulk/``."""

    def __init__(self, path: str) -> None:
        self._store = UnixStore(path)
        self.commits = self.operations = self.bytes = 0

    async def read(self, prefix: str) -> Snapshot:
        return await self._store.read(prefix)

    async def names(self, prefix: str) -> tuple[str, ...]:
        return await self._store.names(prefix)

    def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        return self._store.watch(prefix, after)

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        bulk = [operation for operation in operations if ".bulk/" in operation.key]
        self.commits += bool(bulk)
        self.operations += len(bulk)
        self.bytes += sum(len(o.key) + (len(o.value) if isinstance(o, Put) else 0) for o in bulk)
        return await self._store.commit(conditions, operations)

    async def close(self) -> None:
        await self._store.close()

    def take(self) -> tuple[int, int, int]:
        """(commits, operations, bytes) since the last call."""
        taken = (self.commits, self.operations, self.bytes)
        self.commits = self.operations = self.bytes = 0
        return taken


class Gaps:
    """The longest time for which the event loop did not turn."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.get_running_loop().create_task(self._beat())

    async def _beat(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last - 0.001)
            last = now

    def take(self) -> float:
        """Milliseconds since the last call."""
        longest, self.longest = self.longest, 0.0
        return round(1000 * longest, 1)

    def close(self) -> None:
        self._task.cancel()


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise SystemExit("waited in vain")
        await asyncio.sleep(0.002)


@contextlib.contextmanager
def scene() -> Iterator[tuple[str, Child, Child, str]]:
    """(node's namespace, server, client, store's socket)."""
    node, client = (f"locum-bench-{os.getpid()}-{what}" for what in ("node", "client"))
    children: list[Child] = []
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "store.sock")
        store = subprocess.Popen(
            [sys.executable, "-m", "locum.store.server", "--socket", path], stdout=subprocess.PIPE, text=True
        )
        try:
            assert store.stdout is not None
            store.stdout.readline()
            namespaces.create([node, client])
            namespaces.run_ip([f"link add veth0 type veth peer name veth0 netns {client}"], node)
            namespaces.run_ip(["link set lo up", "link set veth0 up", f"addr add {ADDRESS}/24 dev veth0"], node)
            # Ports for more than 28,000 connections from one address are not there by default.
            namespaces.run_ip(["link set lo up", "link set veth0 up", "addr add 10.79.0.9/24 dev veth0"], client)
            namespaces.run(["ip", "netns", "exec", client, "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535"])
            children += [Child(node, SERVER), Child(client, CLIENT)]
            children[0].ask()
            yield node, children[0], children[1], path
        finally:
            for child in children:
                child.close()
            store.kill()
            store.communicate()
            for name in (node, client):
                namespaces.delete(name)


async def measure(node: str, server: Child, client: Child, path: str, connections: int) -> dict[str, float]:
    """All figures; times in milliseconds unless the name says otherwise."""
    results: dict[str, float] = {"connections": connections}
    store = CountingStore(path)
    claim = await store.commit([], [Put(f"bench/claim/{ADDRESS}", b"node")])
    said: list[str] = []
    settings = TrackerSettings(ports=frozenset({PORT}), tickle_count=1)
    namespaces.enter(node)
    tracker = ConnectionTracker(
        TickleStore(store, "bench"),
        claim=lambda _: claim.revision,
        settings=lambda: settings,
        log=lambda text, _: said.append(text),
    )
    gaps = Gaps()
    tracker.start()
    recorder = tracker.recorder

    async def passes(count: int) -> float:
        """CPU of all of this process for each pass, in milliseconds."""
        before, cpu = recorder.passes, time.process_time()
        while recorder.passes < before + count:
            await recorder.look(settings.ports)
        return 1000 * (time.process_time() - cpu) / (recorder.passes - before)

    await tracker.taking(ADDRESS)
    tracker.taken(ADDRESS, "veth0")
    await until(lambda: ADDRESS in tracker.recorder)
    results["pass_without_connections_cpu"] = await passes(5)

    # Connections that appear between two passes of the tracker's own rhythm.
    await asyncio.to_thread(client.ask, f"{connections} 0")
    appeared, seen = time.monotonic(), recorder.passes
    while len((await tracker.lists.read(ADDRESS)).entries()) < connections:
        await asyncio.sleep(0.01)
        if time.monotonic() > appeared + 60:
            raise SystemExit(f"not registered: {said}")
    results["all_registered_after_s"] = time.monotonic() - appeared
    results["all_registered_after_passes"] = recorder.passes - seen
    _, operations, written = store.take()
    results["first_list_bytes"], results["first_list_operations"] = written, operations
    results["longest_gap_of_the_loop_registering"] = gaps.take()

    results["unchanged_pass_cpu"] = await passes(100)
    results["unchanged_pass_commits"] = store.take()[0]

    # A hundredth of them ends, and as many new ones come, before each pass, for as long as a list is kept untidied.
    churn, rounds = connections // 100, 15
    cpu = 0.0
    for _ in range(rounds):
        await asyncio.to_thread(client.ask, f"{churn} {churn}")
        await asyncio.to_thread(server.ask)
        cpu += await passes(1)
        await asyncio.sleep(1.0)
    commits, operations, written = store.take()
    results["one_percent_pass_cpu"] = cpu / rounds
    results["one_percent_bytes_each_second"] = written / rounds
    results["one_percent_operations_each_second"] = operations / rounds
    results["one_percent_commits_each_second"] = commits / rounds
    gaps.take()

    started = time.perf_counter()
    listed = await tracker.lists.read(ADDRESS)
    results["reading_the_list"] = 1000 * (time.perf_counter() - started)
    cpu, started = time.process_time(), time.perf_counter()
    sent = await tracker.tickle(ADDRESS)
    results["tickling_all_once"] = 1000 * (time.perf_counter() - started)
    results["tickling_all_once_cpu"] = 1000 * (time.process_time() - cpu)
    results["tickles_sent"] = sent
    results["longest_gap_of_the_loop_tickling"] = gaps.take()

    cpu, started = time.process_time(), time.perf_counter()
    await tracker.releasing(ADDRESS)
    ended = await tracker.released(ADDRESS)
    results["ending_all"] = 1000 * (time.perf_counter() - started)
    results["ending_all_cpu"] = 1000 * (time.process_time() - cpu)
    results["ended"] = ended
    results["longest_gap_of_the_loop_ending"] = gaps.take()
    results["listed_at_the_end"] = len(listed.entries())
    gaps.close()
    await tracker.close()
    await store.close()
    return results


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # For the children: a socket each.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with scene() as (node, server, client, path):
        results = asyncio.run(measure(node, server, client, path, options.connections))
    if options.json:
        print(json.dumps(results))
        return 0
    width = max(map(len, results))
    for name, value in results.items():
        print(f"{name.replace('_', ' '):<{width}}  {value:>12.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
