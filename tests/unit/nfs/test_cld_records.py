"""nfsdcld's databases: made here by nfsdcld's own statements (nfs-utils, utils/nfsdcld/sqlite.c), as on Debian 12."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from locum.nfs import cld_records
from locum.nfs.cld_records import Client

C1, C2 = b"Linux NFSv4.2 c1", b"Linux NFSv4.2 c2"


def make(directory: Path, current: int, recovery: int = 0, **tables: list[bytes]) -> Path:
    """A database with epochs; ``e2=[C1]``: the clients of epoch 2."""
    directory.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(directory / "main.sqlite")
    with database:
        database.execute("CREATE TABLE parameters (key TEXT PRIMARY KEY, value TEXT)")
        database.execute("INSERT INTO parameters VALUES('version','4')")
        database.execute("CREATE TABLE grace (current INTEGER , recovery INTEGER)")
        database.execute("INSERT INTO grace VALUES (?, ?)", (current, recovery))
        for name, clients in tables.items():
            table = f"rec-{int(name[1:]):016x}"
            database.execute(f'CREATE TABLE "{table}" (id BLOB PRIMARY KEY, princhash blob)')
            database.executemany(f'INSERT INTO "{table}" VALUES (?, NULL)', [(client,) for client in clients])
    database.close()
    return directory


def rows(directory: Path, epoch: int) -> list[bytes]:
    database = sqlite3.connect(directory / "main.sqlite")
    try:
        return sorted(name for (name,) in database.execute(f'SELECT id FROM "rec-{epoch:016x}"'))
    finally:
        database.close()


def test_reads_the_clients_of_both_epochs(tmp_path: Path) -> None:
    """Within a grace period, a client that has not reclaimed yet is on record with the epoch before only."""
    make(tmp_path, 18, 17, e17=[C1, C2], e18=[C1])
    assert cld_records.read(str(tmp_path)) == {Client(C1), Client(C2)}


def test_adds_to_the_epoch_that_the_next_start_lets_reclaim(tmp_path: Path) -> None:
    outside = make(tmp_path / "outside", 17, e17=[C1])
    assert cld_records.add(str(outside), [Client(C1), Client(C2, b"\x01")]) == 1
    assert rows(outside, 17) == [C1, C2]
    within = make(tmp_path / "within", 17, 16, e16=[], e17=[])
    assert cld_records.add(str(within), [Client(C2)]) == 1
    assert (rows(within, 16), rows(within, 17)) == ([C2], [])
    assert cld_records.read(str(within)) == {Client(C2)}


def test_database_of_a_node_that_died_within_a_change_is_read_as_before_it(tmp_path: Path) -> None:
    """Its journal is used in the copy; its own files stay as they are."""
    make(tmp_path / "live", 2, e2=[C1])
    database = sqlite3.connect(tmp_path / "live" / "main.sqlite", isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("PRAGMA cache_spill = 1")
    database.execute("BEGIN IMMEDIATE")
    many = [(b"%d" % number + b"x" * 900,) for number in range(200)]
    database.executemany('INSERT INTO "rec-0000000000000002" VALUES (?, NULL)', many)
    dead = tmp_path / "dead"
    dead.mkdir()
    for name in os.listdir(tmp_path / "live"):
        (dead / name).write_bytes((tmp_path / "live" / name).read_bytes())
    database.close()
    before = {name: (dead / name).read_bytes() for name in os.listdir(dead)}
    assert "main.sqlite-journal" in before
    assert len(before["main.sqlite"]) > 100_000  # the change had reached the disk
    assert cld_records.read(str(dead)) == {Client(C1)}
    assert {name: (dead / name).read_bytes() for name in os.listdir(dead)} == before


def test_database_that_changes_while_it_is_copied_is_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "n2", 2, e2=[C1])
    copy = shutil.copyfile
    left = [1]

    def change(source: str, target: str) -> object:
        done = copy(source, target)
        if left and left.pop():
            database = sqlite3.connect(tmp_path / "n2" / "main.sqlite")
            with database:
                database.execute('INSERT INTO "rec-0000000000000002" VALUES (?, NULL)', (C2,))
            database.close()
        return done

    monkeypatch.setattr(shutil, "copyfile", change)
    assert cld_records.read(str(tmp_path / "n2")) == {Client(C1), Client(C2)}


def test_missing_databases(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cld_records.read(str(tmp_path / "n2"))
    with pytest.raises(FileNotFoundError):
        cld_records.add(str(tmp_path), [Client(C1)])
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="invalid node name"):
        cld_records.directory("/cluster", "../n1")
