"""The client against what may listen at the path of a store, other than a store."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from locum.errors import StoreUnavailable
from locum.store.base import Put
from locum.store.client import UnixStore
from tests.unit.store.harness import Watched, asynchronous, commit_when_possible, until


@pytest.mark.parametrize(
    ("says", "complaint"),
    [
        (b"", "connection lost"),
        (b"hello\n", "not a message of this protocol"),
        (b'{"protocol":99}\n', "speaks protocol 99, not 3"),
        (b'{"error":"permission denied: not for you"}\n', "permission denied: not for you"),
        (b'{"id":5,"progress":3}\n{"unknown":true}\n', "speaks protocol None"),
        (b"x" * 20_000_000, "frame of more than"),
    ],
)
@asynchronous
async def test_something_else_than_a_store(tmp_path: Path, says: bytes, complaint: str) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(says)
            await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    path = str(tmp_path / "s")
    server = await asyncio.start_unix_server(answer, path)
    store = UnixStore(path, timeout=30)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=complaint):
            await store.read("")
    with pytest.raises(StoreUnavailable, match=complaint):
        await store.commit((), (Put("k", b""),))
    await store.close()
    server.close()


@asynchronous
async def test_answer_to_another_question(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"protocol":3}\n')
        while await reader.readline():
            writer.write(b'{"id":1,"result":{"accepted":true,"revision":1}}\n{"id":77,"lost":"what"}\n')
        writer.close()

    path = str(tmp_path / "s")
    server = await asyncio.start_unix_server(answer, path)
    store = UnixStore(path, timeout=30)
    with pytest.raises(StoreUnavailable, match="answer does not match the request"):
        await store.read("")
    await store.close()
    server.close()


@asynchronous
async def test_nobody_listens_and_then_somebody_does(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    store = UnixStore(path)
    watch = Watched(store, "", 0)
    with pytest.raises(StoreUnavailable, match=f"nothing listens at {path}"):
        await store.read("")
    command = [sys.executable, "-m", "locum.store.server", "--socket", path]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        last = await commit_when_possible(store, "k")
        await watch.reaches(last)
        assert watch.revisions == [last]
    finally:
        process.kill()
        await process.wait()
        await store.close()


@asynchronous
async def test_server_without_free_descriptors_serves_those_it_has(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16));"
        "from locum.store.server import main; sys.exit(main(sys.argv[1:]))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "--socket", path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    store, late = UnixStore(path), UnixStore(path, timeout=60)
    try:
        await process.stdout.readline()
        watch = Watched(store, "", (await store.read("")).revision)
        crowd = [await asyncio.open_unix_connection(path) for _ in range(40)]
        complaint = await process.stderr.readline()
        assert complaint.startswith(b"store: ")
        assert b"Too many open files" in complaint
        last = await commit_when_possible(store, "k")
        await watch.reaches(last)
        for _, writer in crowd:
            writer.transport.abort()
        # It accepts again when descriptors are free.
        assert (await late.read("k")).entries[0].revision == last
        assert watch.error is None
    finally:
        process.kill()
        await process.wait()
        await store.close()
        await late.close()


@asynchronous
async def test_many_calls_in_flight_are_told_apart(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    command = [sys.executable, "-m", "locum.store.server", "--socket", path]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    store = UnixStore(path, timeout=60)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        results = await asyncio.gather(*(store.commit((), (Put(f"k/{n:04}", str(n).encode()),)) for n in range(2000)))
        assert [r.revision for r in results] == sorted({r.revision for r in results})
        reads = await asyncio.gather(*(store.read(f"k/{n:04}") for n in range(2000)))
        assert [snapshot.entries[0].value for snapshot in reads] == [str(n).encode() for n in range(2000)]
        link = store._link
        assert link is not None
        await until(lambda: not link.pending)
        assert os.path.exists(path)  # noqa: ASYNC240
    finally:
        process.kill()
        await process.wait()
        await store.close()
