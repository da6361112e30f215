"""The kernel server's records of its NFSv4 clients, which may reclaim after their server is gone: nfsdcld's database.

Only the database, not the server itself. Source: ``utils/nfsdcld/sqlite.c`` of nfs-utils (schema version 4). Table
``grace`` has the present epoch and, within a grace period, the epoch before it (else 0). Table ``rec-EPOCH`` (16
hexadecimal digits) has the clients of an epoch by their names for themselves. When nfsd starts outside of a grace
period, the present epoch becomes the one before; within one it stays. nfsdcld then hands the clients of the epoch
before to the kernel, which lets only them reclaim.

So what is added to that table while nfsd is stopped, is on record when it starts. The database of another node is
copied before it is read: to open it could change it, and its node may be writing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator

import msgspec

from locum.folder import Folder

DATABASE = "main.sqlite"
_JOURNAL = DATABASE + "-journal"
#: How often a copy is repeated when the original changed meanwhile.
_COPIES = 20
#: How long nfsdcld may keep its own database locked, seconds.
_PATIENCE = 5.0


class Client(msgspec.Struct, frozen=True):
    """A client on record: its name for itself, and the hash of its Kerberos principal."""

    name: bytes
    principal: bytes | None = None


def directory(recovery: str, node: str) -> str:
    """The directory of a node's database below the common one. Raises ValueError for an invalid node name."""
    if "/" in node or node.startswith("."):
        raise ValueError(f"invalid node name {node!r}")
    return os.path.join(recovery, node)


def prepare(path: str) -> None:
    """Make the directory of this node's database. Raises OSError."""
    Folder(path, create=0o755).close()


def read(path: str) -> set[Client]:
    """The clients of all epochs in the database of another node, in the directory ``path``.

    Raises OSError and sqlite3.Error; FileNotFoundError when that node has never recorded any.
    """
    with tempfile.TemporaryDirectory(prefix="locum-nfsdcld-") as copy:
        _copy(path, copy)
        with _opened(os.path.join(copy, DATABASE)) as database:
            found: set[Client] = set()
            for table in _tables(database):
                principal = "princhash" if _has_principal(database, table) else "NULL"
                rows = database.execute(f'SELECT id, {principal} FROM "{table}"')
                found.update(Client(name, hashed) for name, hashed in rows)
            return found


def add(path: str, clients: Iterable[Client]) -> int:
    """Let ``clients`` reclaim from this node's server when it starts next; ``path`` is the directory of its database,
    and nfsd is stopped. Returns how many were not on record yet. Raises OSError and sqlite3.Error."""
    wanted = list(clients)
    if not wanted:
        return 0
    place = os.path.join(path, DATABASE)
    os.stat(place)  # sqlite3 would make an empty one
    with _opened(place) as database, database:
        row = database.execute("SELECT current, recovery FROM grace").fetchone()
        if row is None:
            raise sqlite3.DatabaseError(f"{place} names no epoch")
        table = f"rec-{row[1] or row[0]:016x}"
        before = database.total_changes
        if _has_principal(database, table):
            rows = [(client.name, client.principal) for client in wanted]
            database.executemany(f'INSERT OR IGNORE INTO "{table}" (id, princhash) VALUES (?, ?)', rows)
        else:
            database.executemany(f'INSERT OR IGNORE INTO "{table}" (id) VALUES (?)', [(one.name,) for one in wanted])
        return database.total_changes - before


@contextlib.contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(path, timeout=_PATIENCE)
    try:
        yield database
    finally:
        database.close()


def _tables(database: sqlite3.Connection) -> list[str]:
    rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'rec-[0-9a-f]*'")
    return [name for (name,) in rows if '"' not in name]


def _has_principal(database: sqlite3.Connection, table: str) -> bool:
    return "princhash" in [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]


def _copy(path: str, target: str) -> None:
    """Copy database and journal as they were at one moment. The journal of a node that died within a change undoes it
    in the copy."""
    for _ in range(_COPIES):
        before = _state(path)
        if before[0] is None:
            raise FileNotFoundError(f"{os.path.join(path, DATABASE)} does not exist")
        for name, state in zip((DATABASE, _JOURNAL), before, strict=True):
            copied = os.path.join(target, name)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(copied)
            if state is not None:
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(os.path.join(path, name), copied)
        if _state(path) == before:
            return
    raise sqlite3.OperationalError(f"{os.path.join(path, DATABASE)} does not stop changing")


def _state(path: str) -> tuple[tuple[int, int, int] | None, ...]:
    found: list[tuple[int, int, int] | None] = []
    for name in (DATABASE, _JOURNAL):
        try:
            status = os.stat(os.path.join(path, name))
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)
