"""The server against clients that mean no good, and against those that are merely slow."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from locum import unix_sockets
from locum.errors import UsageError
from locum.store.base import Put, Store, WatchLost
from locum.store.client import UnixStore
from locum.store.keyvalue import KeyValue
from locum.store.memory import MemoryStore
from locum.store.messages import PROTOCOL
from locum.store.server import MAX_WATCHES, StoreServer, group_id
from tests.unit.store.harness import Watched, asynchronous, until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def serving(tmp_path: Path, core: KeyValue | None = None) -> AsyncIterator[tuple[str, StoreServer, Store]]:
    """A server in this loop: its socket, itself, a well-behaved client."""
    path = str(tmp_path / "s")
    server = StoreServer(MemoryStore(core))
    await server.start(path)
    store = UnixStore(path, timeout=60)
    try:
        yield path, server, store
    finally:
        await store.close()
        await server.close()


async def raw(path: str, buffer: int = 2**25) -> Streams:
    """A connection without a client's manners; the greeting is read. ``buffer``: bytes that it takes unread."""
    reader, writer = await asyncio.open_unix_connection(path, limit=buffer // 2)
    assert json.loads(await reader.readline())["protocol"] == PROTOCOL
    return reader, writer


async def rest(reader: asyncio.StreamReader) -> list[Any]:
    """All messages up to the end of the stream."""
    try:
        return [json.loads(line) for line in (await reader.read()).splitlines()]
    except ConnectionError:
        return []


GARBAGE = [
    b"\n\n\nhello\n",
    b"\x00" * 1000 + b"\n",
    b"[" * 200_000 + b"\n",
    b'{"request":"drop","id":1}\n',
    b'{"request":"read","id":"one","prefix":""}\n',
    b'{"request":"commit","id":1,"conditions":[],"operations":[{"type":"put","key":"k","value":"not base64!"}]}\n',
    b'{"request":"commit","id":1,"conditions":[{"key":"k","revision":1.5}],"operations":[]}\n',
    b'{"request":"read","id":1,"prefix":"\xff"}\n',
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE)
@asynchronous
async def test_garbage_ends_its_own_connection_only(tmp_path: Path, garbage: bytes) -> None:
    async with serving(tmp_path) as (path, server, store):
        watch = Watched(store, "", (await store.read("")).revision)
        reader, writer = await raw(path)
        writer.write(garbage)
        messages = await rest(reader)
        assert "not a message" in messages[-1]["error"]
        revision = (await store.commit((), [Put("k", b"")])).revision
        await watch.reaches(revision)
        await until(lambda: len(server.connections) == 1)
        writer.close()


@asynchronous
async def test_endless_frame_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path) as (path, server, store):
        await store.read("")
        reader, writer = await raw(path)
        piece = b"x" * 1_000_000
        sent = 0
        try:
            while sent < 10 * unix_sockets.FRAME_LIMIT:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
        except ConnectionError:
            pass
        assert sent < 2 * unix_sockets.FRAME_LIMIT
        await until(lambda: len(server.connections) == 1)
        await store.read("")
        writer.transport.abort()
        del reader


@asynchronous
async def test_random_bytes(tmp_path: Path) -> None:
    async with serving(tmp_path) as (path, server, store):
        await store.read("")
        seed = random.Random(7)
        valid = b'{"request":"commit","id":1,"conditions":[],"operations":[{"type":"put","key":"k","value":"AAA="}]}\n'
        for _ in range(300):
            data = bytearray(valid * 2)
            for _ in range(seed.randrange(1, 6)):
                data[seed.randrange(len(data))] = seed.randrange(256)
            reader, writer = await raw(path)
            writer.write(data)
            writer.write_eof()
            await rest(reader)
            writer.close()
        await until(lambda: len(server.connections) == 1)
        assert (await store.read("")).revision >= 0


@asynchronous
async def test_invalid_requests_are_answered_and_the_connection_stays(tmp_path: Path) -> None:
    async with serving(tmp_path) as (path, _, _store):
        reader, writer = await raw(path)
        put = '{"type":"put","key":"k","value":""}'
        writer.write(b'{"request":"commit","id":7,"conditions":[],"operations":[%b,%b]}\n' % ((put.encode(),) * 2))
        answer = json.loads(await reader.readline())
        assert answer == {"id": 7, "error": "a commit changes a key twice", "invalid": True}
        for number in range(MAX_WATCHES + 1):
            writer.write(b'{"request":"watch","id":%d,"prefix":"","after":0}\n' % (100 + number))
        assert json.loads(await reader.readline()) == {
            "id": 100 + MAX_WATCHES,
            "error": f"a connection has at most {MAX_WATCHES} watches",
        }
        writer.write(b'{"request":"unwatch","id":5555}\n{"request":"read","id":8,"prefix":""}\n')
        assert json.loads(await reader.readline()) == {"id": 8, "snapshot": {"revision": 0, "entries": []}}
        writer.close()


@asynchronous
async def test_who_asks_and_does_not_read_is_not_listened_to(tmp_path: Path) -> None:
    async with serving(tmp_path) as (path, server, store):
        for number in range(20):
            await store.commit((), [Put(f"big/{number}", bytes(500_000))])
        reader, writer = await raw(path)
        transport = writer.transport
        # Each of these is answered with 13 MB.
        writer.write(b"".join(b'{"request":"read","id":%d,"prefix":"big/"}\n' % n for n in range(1, 1001)))
        await until(lambda: any(c.congested for c in server.connections))
        connection = next(c for c in server.connections if c.congested)
        for _ in range(20):
            await store.commit((), [Put("k", b"")])
            assert connection.unsent() < 2 * unix_sockets.FRAME_LIMIT
        # Reading on gets every answer.
        for number in range(1, 6):
            assert json.loads(await reader.readline())["id"] == number
        transport.abort()
        await until(lambda: len(server.connections) == 1)


@asynchronous
async def test_slow_watcher_is_dropped_and_told(tmp_path: Path) -> None:
    core = KeyValue(history_commits=200)
    async with serving(tmp_path, core) as (path, server, store):
        reader, writer = await raw(path, 400_000)
        writer.write(b'{"request":"watch","id":1,"prefix":"","after":0}\n')
        quick = Watched(store, "", 0)
        await until(lambda: any(c._watchers for c in server.connections))
        worst = 0
        for _ in range(600):
            last = (await store.commit((), [Put("k", bytes(50_000))])).revision
            worst = max(worst, *(c.unsent() for c in server.connections))
        await quick.reaches(last)
        assert quick.error is None
        assert len(quick.batches) == 600
        assert worst < 4_000_000
        seen = []
        while True:
            message = json.loads(await reader.readline())
            if "lost" in message:
                break
            seen.append(message["batch"]["revision"])
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) < 600
        assert "history begins after" in message["lost"]
        # The connection still serves, and a new watch goes on from a fresh read.
        writer.write(b'{"request":"watch","id":2,"prefix":"","after":%d}\n' % last)
        await store.commit((), [Put("k", b"")])
        assert json.loads(await reader.readline())["batch"]["revision"] == last + 1
        writer.close()


@asynchronous
async def test_idle_watch_outlives_the_history(tmp_path: Path) -> None:
    """A watch under whose prefix nothing happens must not be lost by a short break after many other commits."""
    core = KeyValue(history_commits=2000)
    async with serving(tmp_path, core) as (_, server, store):
        watch = Watched(store, "quiet/", 0)
        for _ in range(5000):
            await store.commit((), [Put("busy", b"")])
        for connection in list(server.connections):
            connection.abort()
        revision = 0
        while not revision:
            try:
                revision = (await store.commit((), [Put("quiet/k", b"")])).revision
            except Exception:
                await asyncio.sleep(0.01)
        await watch.reaches(revision)
        assert watch.error is None
        assert watch.revisions == [revision]


@asynchronous
async def test_slow_consumer_is_bounded_on_the_clients_side(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, _server, store):
        assert isinstance(store, UnixStore)
        slow = store.watch("", 0)
        revisions = [(await store.commit((), [Put("k", b"")])).revision]
        assert (await anext(slow)).revision == revisions[0]
        for _ in range(4000):
            revisions.append((await store.commit((), [Put("k", bytes(100))])).revision)
        (subscription,) = store._subscriptions
        assert len(subscription.queue) <= 1024
        seen = [revisions[0]]
        while seen[-1] < revisions[-1]:
            seen.append((await anext(slow)).revision)
        assert seen == revisions


@asynchronous
async def test_two_servers_for_one_socket(tmp_path: Path) -> None:
    async with serving(tmp_path) as (path, _, store):
        with pytest.raises(UsageError, match=f"socket {path} is in use by pid {os.getpid()}"):
            await StoreServer(MemoryStore()).start(path)
        await store.read("")


@asynchronous
async def test_lost_watch_of_an_earlier_server(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first, second = StoreServer(MemoryStore(KeyValue(revision=1000))), StoreServer(MemoryStore(KeyValue(revision=2000)))
    await first.start(path)
    store = UnixStore(path)
    watch = Watched(store, "", (await store.commit((), [Put("k", b"")])).revision)
    await first.close()
    await second.start(path)
    assert isinstance(await watch.ends(), WatchLost)
    await store.close()
    await second.close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "locum.store.server", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_command(tmp_path: Path) -> None:
    assert run("--socket", f"{tmp_path}/absent/s").stderr.startswith("locum.store.server: cannot use socket")
    long = run("--socket", "/" + "x" * 200)
    assert (long.returncode, long.stdout) == (2, "")
    assert "too long" in long.stderr
    (tmp_path / "broken").write_text("not a database at all, and longer than its header" * 10)
    broken = run("--socket", f"{tmp_path}/s", "--data", f"{tmp_path}/broken")
    assert broken.returncode == 1
    assert "is damaged" in broken.stderr
    assert len(broken.stderr.splitlines()) == 1
    assert not (tmp_path / "s").exists()
    unknown = run("--socket", f"{tmp_path}/s", "--group", "no-such-group")
    assert unknown.stderr == "locum.store.server: unknown group 'no-such-group': this machine does not have it\n"
    assert group_id("0") == 0


def test_command_ends_cleanly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "locum.store.server", "--socket", f"{tmp_path}/s", "--data", f"{tmp_path}/d"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"serving {tmp_path}/d at {tmp_path}/s\n"
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "d.lock", "s.lock"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_a_store_is_not_kept_in_a_directory_of_another_user(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 64123, 64123)
    command = [
        sys.executable,
        "-m",
        "locum.store.server",
        "--socket",
        str(tmp_path / "s"),
        "--data",
        str(theirs / "db"),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "belongs to user 64123" in done.stderr
    assert list(theirs.iterdir()) == []
