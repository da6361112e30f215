"""The store file: what survives what, and what a damaged file or a full disk does."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from locum.errors import StoreCorrupt, StoreUnavailable, UsageError
from locum.store.base import Change, Condition, Delete, Put, WatchLost
from locum.store.sqlite import SqliteLog, SqliteStore, kind_of
from tests.unit.store.harness import Watched, asynchronous


def crash(path: Path, target: Path) -> None:
    """What is in the file at this moment, as a killed process would leave it."""
    for name in (path, path.with_name(path.name + "-wal")):
        if name.exists():
            shutil.copyfile(name, target.with_name(target.name + name.name.removeprefix(path.name)))


@asynchronous
async def test_proper_end_loses_nothing_and_goes_on_at_the_same_revision(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    store = SqliteStore(path)
    for number in range(5):
        await store.commit((), [Put("c/beat/n1", bytes([number])), Put(f"c/admin/n{number}", b"x")])
    await store.commit((), [Delete("c/admin/n0")])
    await store.commit((), [Put("c/beat/n1", b"last")])
    before = await store.read("")
    await store.close()
    store = SqliteStore(path)
    assert await store.read("") == before
    watch = Watched(store, "", before.revision)
    result = await store.commit([Condition("c/beat/n1", before.revision)], [Put("k", b"")])
    assert (result.accepted, result.revision) == (True, before.revision + 1)
    await watch.reaches(result.revision)
    assert watch.revisions == [result.revision]
    with pytest.raises(WatchLost):
        await anext(store.watch("", before.revision - 1))
    await store.close()


@asynchronous
async def test_crash_keeps_what_was_seen(tmp_path: Path) -> None:
    path, copy = tmp_path / "s", tmp_path / "copy"
    store = SqliteStore(str(path))
    await store.commit((), [Put("c/admin/n1", b"disabled"), Put("c/beat/n2", b"0")])
    claim = await store.commit((), [Put("c/claim/a", b"n1")])
    await store.commit((), [Put("c/beat/n1", b"first")])
    gone = await store.commit((), [Delete("c/beat/n2")])
    last = gone
    for number in range(100):
        last = await store.commit((), [Put("c/beat/n1", bytes([number]))])
    crash(path, copy)
    await store.close()
    after = SqliteStore(str(copy))
    snapshot = await after.read("")
    assert snapshot.revision >= last.revision
    entries = {e.key: e for e in snapshot.entries}
    assert entries["c/admin/n1"].value == b"disabled"
    assert entries["c/claim/a"].revision == claim.revision
    # A beat's existence is kept, its value may be an older one.
    assert entries["c/beat/n1"].value == b"first"
    assert "c/beat/n2" not in entries
    # For those who saw the newer one, it was written anew.
    assert entries["c/beat/n1"].revision == snapshot.revision > last.revision
    # Every answer says so, since a restored copy of the file looks the same.
    assert snapshot.began == snapshot.revision
    assert (await after.commit([Condition("absent", 1)], [Put("k", b"")])).began == snapshot.began
    # No revision from before the crash fits anything.
    assert not (await after.commit([Condition("c/beat/n1", last.revision)], [Delete("c/beat/n1")])).accepted
    with pytest.raises(WatchLost):
        await anext(after.watch("", last.revision))
    new = await after.commit((), [Put("k", b"")])
    assert new.revision > last.revision
    assert new.began == snapshot.began
    beat = await after.commit((), [Put("c/beat/n1", b"second")])
    assert beat.began == snapshot.began
    await after.close()
    properly = SqliteStore(str(copy))
    assert (await properly.read("")).began == 0
    await properly.close()


@asynchronous
async def test_revisions_never_repeat_over_many_crashes(tmp_path: Path) -> None:
    path, highest = tmp_path / "0", 0
    for number in range(1, 6):
        store = SqliteStore(str(path))
        for _ in range(3):
            revision = (await store.commit((), [Put("c/beat/n1", b"")])).revision
            assert revision > highest
            highest = revision
        path = tmp_path / str(number)
        crash(tmp_path / str(number - 1), path)
        await store.close()


@asynchronous
async def test_beats_do_not_touch_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(str(tmp_path / "s"))
    written = []
    append = store._log.append

    def counted(changes: Sequence[Change], revision: int) -> None:
        written.append(revision)
        append(changes, revision)

    monkeypatch.setattr(store._log, "append", counted)
    first = await store.commit((), [Put("c/beat/n1", b"")])
    for _ in range(50):
        await store.commit((), [Put("c/beat/n1", b"")])
    claim = await store.commit((), [Put("c/claim/a", b""), Put("c/beat/n1", b"")])
    assert written == [first.revision, claim.revision]
    await store.close()


def test_kinds() -> None:
    assert [kind_of(key) for key in ("c/beat/n1", "beat/admin/n1", "c/plan", "beat", "", "/beat")] == [
        "beat",
        "admin",
        "plan",
        "",
        "",
        "beat",
    ]


@asynchronous
async def test_confirmation_of_durable_keys_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(str(tmp_path / "s"))
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    syncs = 0

    def slow_sync() -> None:
        nonlocal syncs
        syncs += 1
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    monkeypatch.setattr(store._log, "sync", slow_sync)
    first = asyncio.create_task(store.commit((), [Put("c/admin/n1", b"")]))
    await asyncio.sleep(0.05)
    others = [asyncio.create_task(store.commit((), [Put(f"c/admin/{n}", b"")])) for n in range(20)]
    # A slow disk holds up nobody else.
    for _ in range(10):
        assert (await store.commit((), [Put("c/beat/n1", b""), Put("c/claim/a", b"")])).accepted
    assert not first.done()
    assert not any(task.done() for task in others)
    release.set()
    await asyncio.gather(first, *others)
    # Those who came during the first share the second.
    assert syncs == 2
    await store.close()


@asynchronous
async def test_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "s"
    store = SqliteStore(str(path))
    await store.commit((), [Put("c/admin/n1", b"kept"), Put("c/beat/n1", b"")])
    pages = store._log._writer.execute("PRAGMA page_count").fetchone()[0]
    store._log._writer.execute(f"PRAGMA max_page_count={pages}")
    start = (await store.read("")).revision
    with pytest.raises(StoreUnavailable, match=r"store file .*full.*free some space"):
        await store.commit((), [Put("c/admin/n2", bytes(100_000))])
    assert (await store.read("")).revision == start
    # Beats go on, and so does the rest once there is room.
    assert (await store.commit((), [Put("c/beat/n1", b"1")])).accepted
    store._log._writer.execute("PRAGMA max_page_count=1000000")
    assert (await store.commit((), [Put("c/admin/n2", bytes(100_000))])).accepted
    await store.close()
    again = SqliteStore(str(path))
    assert {e.key for e in (await again.read("")).entries} == {"c/admin/n1", "c/admin/n2", "c/beat/n1"}
    await again.close()


@asynchronous
async def test_failed_sync_is_never_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(str(tmp_path / "s"))
    await store.commit((), [Put("c/beat/n1", b"")])

    def broken() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(store._log, "sync", broken)
    with pytest.raises(StoreUnavailable, match="disk I/O error"):
        await store.commit((), [Put("c/admin/n1", b"")])
    monkeypatch.undo()
    # After a failed fsync nobody knows what is on the disk: nothing is confirmed any more.
    with pytest.raises(StoreUnavailable, match="restart the store"):
        await store.commit((), [Put("c/admin/n1", b"")])
    with pytest.raises(StoreUnavailable, match="restart the store"):
        await store.commit((), [Put("c/claim/a", b"")])
    assert (await store.commit((), [Put("c/beat/n1", b"")])).accepted
    await store.close()


@asynchronous
async def test_second_process_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    store = SqliteStore(path)
    with pytest.raises(UsageError, match=f"in use by pid {os.getpid()}"):
        SqliteStore(path)
    await store.close()
    await SqliteStore(path).close()


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="directory does not exist"):
        SqliteStore(str(tmp_path / "absent" / "s"))
    (tmp_path / "d").mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        SqliteStore(str(tmp_path / "d"))
    (tmp_path / "text").write_bytes(b"this is not a database, whatever its name says\n" * 100)
    with pytest.raises(StoreCorrupt, match=r"damaged: file is not a database; restore a copy, or move it away"):
        SqliteStore(str(tmp_path / "text"))
    assert (tmp_path / "text").read_bytes().startswith(b"this is not")
    foreign = sqlite3.connect(tmp_path / "foreign")
    foreign.execute("CREATE TABLE songs (title)")
    foreign.close()
    with pytest.raises(StoreCorrupt, match="not a store of Locum"):
        SqliteStore(str(tmp_path / "foreign"))
    (tmp_path / "empty").write_bytes(b"")
    asyncio.run(SqliteStore(str(tmp_path / "empty")).close())


def test_file_of_another_version(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    asyncio.run(SqliteStore(path).close())
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=9")
    connection.close()
    with pytest.raises(StoreCorrupt, match="has format 9"):
        SqliteStore(path)


@pytest.mark.parametrize("place", [0, 0.3, 0.5, 0.6, 0.8])
@asynchronous
async def test_damaged_file_is_noticed_at_the_start(tmp_path: Path, place: float) -> None:
    path = tmp_path / "s"
    store = SqliteStore(str(path))
    for number in range(50):
        await store.commit((), [Put(f"c/admin/{number}", bytes(500))])
    await store.close()
    with open(path, "r+b") as file:  # noqa: ASYNC230
        file.seek(int(place * file.seek(0, os.SEEK_END)))
        file.write(b"damage" * 100)
    with pytest.raises(StoreCorrupt, match="is damaged"):
        SqliteStore(str(path))
    # Nothing holds the file after that.
    path.unlink()
    await SqliteStore(str(path)).close()


def test_killed_while_writing(tmp_path: Path) -> None:
    """kill -9 at any moment: everything that was confirmed is there, whole."""
    path = tmp_path / "s"
    code = f"""
import asyncio, sys
from locum.store.sqlite import SqliteStore
from locum.store.base import Put
async def main():
    store = SqliteStore({str(path)!r})
    start = len((await store.read("")).entries)
    for number in range(start // 3, 100000):
        await store.commit((), [Put(f"c/{{kind}}/{{number:06}}", b"x" * 300) for kind in ("admin", "claim", "phase")])
        print(number, flush=True)
asyncio.run(main())
"""
    confirmed = -1
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                confirmed = int(line)
                if confirmed % 50 == 37:
                    break
            os.kill(process.pid, signal.SIGKILL)
        log = SqliteLog(str(path))
        keys = {entry.key for entry in log.entries}
        log.close((), log.revision)
        assert {f"c/{kind}/{n:06}" for n in range(confirmed + 1) for kind in ("admin", "claim", "phase")} <= keys
        assert len(keys) % 3 == 0
