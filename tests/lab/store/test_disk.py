"""The store file on a disk that is really full: needs root, to mount a small one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.errors import LocumError, StoreUnavailable
from locum.store.base import Put
from locum.store.sqlite import SqliteStore
from tests.unit.store.harness import asynchronous

pytestmark = pytest.mark.lab


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    result = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "locum-test", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"cannot mount a small file system (root?): {result.stderr}"
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@asynchronous
async def test_full_disk(disk: Path) -> None:
    path = str(disk / "store.db")
    filler = disk / "filler"
    filler.write_bytes(bytes(100_000))
    store = SqliteStore(path)
    confirmed = []
    await store.commit((), [Put("c/beat/n1", b"")])

    async def fill() -> None:
        for number in range(1000):
            await store.commit((), [Put(f"c/admin/{number}", bytes(20_000))])
            confirmed.append(f"c/admin/{number}")

    with pytest.raises(StoreUnavailable, match=r"store file .*full; free some space"):
        await fill()
    assert confirmed
    # What needs no disk goes on; what does is refused, again and again, without harm.
    for _ in range(20):
        assert (await store.commit((), [Put("c/beat/n1", b"")])).accepted
        with pytest.raises(StoreUnavailable, match="full"):
            await store.commit((), [Put("c/claim/a", bytes(20_000))])
    await store.close()
    with pytest.raises(LocumError, match=r"store file .*full"):
        SqliteStore(path)
    filler.unlink()
    again = SqliteStore(path)
    keys = {entry.key for entry in (await again.read("")).entries}
    assert set(confirmed) <= keys
    assert "c/claim/a" not in keys
    await again.close()


@asynchronous
async def test_disk_that_is_full_at_the_start(disk: Path) -> None:
    filler = disk / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while os.write(descriptor, bytes(4096)):
            pass
    os.close(descriptor)
    with pytest.raises(LocumError, match=r"store file .*(full|No space)"):
        SqliteStore(str(disk / "store.db"))
    os.truncate(filler, 0)
    store = SqliteStore(str(disk / "store.db"))
    assert (await store.commit((), [Put("c/admin/n1", b"")])).accepted
    await store.close()
