"""The embedded store, kept in an SQLite file.

The state is in memory (:class:`KeyValue`); the file is written, and read only at the start. Durability by class of key:

==================  ===========================================  ==========================================
class of key        when a commit is visible and confirmed       survives
==================  ===========================================  ==========================================
durable (default)   visible once written to the file's log,      the loss of power (I9: confirmed admin
                    confirmed once the log is on the disk        commands)
machine-bound       once written to the file's log               the death of every process; the state of
                                                                 running nodes is void after a reboot
volatile            at once; only creating and deleting the key  its existence survives as above, its value
                    is written                                   may be an older one after a crash
==================  ===========================================  ==========================================

So the store never forgets a claim or a member while the machine runs. A beat (several a second from every node) never
touches the disk, and a slow disk delays admin commands, not beats. A commit with keys of several classes is treated as
its strictest. All nodes of an embedded store are on its machine, so the loss of power ends them too.

The log is SQLite's WAL with ``synchronous=NORMAL``, written in the event loop: a write to the page cache without fsync.
One thread with its own connection runs checkpoints, which put the WAL on the disk. A confirmation waits for the end of
a checkpoint that began after its commit, so many confirmations share one.

Revisions: the file has a limit that no assigned revision exceeds; a store that was not closed properly starts again
above it, so old watches get WatchLost. Volatile keys then get that new revision, as if their older value had been
rewritten: to a reader of the newer value, a key must never seem to go back. A copy of the file looks the same after its
start, so every answer says at which revision the store started like this (``CommitResult.began``).

An error of the disk is never silent: a commit that cannot be written raises and has no effect. After a failed fsync the
content of the file is uncertain (the kernel drops pages that it could not write), so from then on only volatile keys
are accepted.

Rules of this file: it knows kinds of keys by name only, not their records.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from locum import tasks
from locum.errors import PermissionRequired, StoreCorrupt, StoreError, StoreUnavailable, UsageError
from locum.store.base import Batch, Change, CommitResult, Condition, Entry, Operation
from locum.store.keyvalue import KeyValue
from locum.store.memory import MemoryStore

#: Kinds of keys that describe running processes of this machine. Keys are ``<cluster>/<kind>`` or longer.
MACHINE_BOUND = frozenset({"member", "beat", "health", "leader", "plan", "phase", "claim", "connections"})

#: Kinds of keys that are overwritten continually and whose latest value need not survive.
VOLATILE = frozenset({"beat"})

#: ``PRAGMA application_id`` of a store file ("Locm"), and the version of its tables.
_APPLICATION_ID = 0x4C6F636D
_FORMAT = 1

#: The limit of revisions is raised by this much at a time.
_RESERVE = 1_000_000

#: A checkpoint is due after this many writes, so that the log stays short.
_CHECKPOINT_EVERY = 1000


def kind_of(key: str) -> str:
    """``"cluster/beat/n1"`` → ``"beat"``; "" without such a part."""
    parts = key.split("/", 2)
    return parts[1] if len(parts) > 1 else ""


def _crc(key: str, value: bytes, revision: int) -> int:
    return zlib.crc32(b"%s\0%d\0%b" % (key.encode(), revision, value))


class SqliteLog:
    """The file. Not thread-safe except for :meth:`sync`, which may run in one other thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.limit = 0
        self.entries: tuple[Entry, ...] = ()
        self._lock = self._take_lock()
        try:
            self._open()
        except sqlite3.Error as error:
            self._release()
            raise self._open_error(error) from error
        except BaseException:
            self._release()
            raise

    def _take_lock(self) -> int:
        lock_path = f"{self.path}.lock"
        try:
            lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise UsageError(f"store file {self.path}: its directory does not exist") from None
        except PermissionError:
            raise PermissionRequired(f"store file {self.path}: no permission to create {lock_path}") from None
        except OSError as error:
            raise StoreError(f"store file {self.path}: cannot create {lock_path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise UsageError(f"store file {self.path} is in use by pid {holder}") from None
        # The pid only helps the next process to report this one; a full disk will be reported by later writes.
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
        return lock

    def _open(self) -> None:
        if os.path.isdir(self.path):
            raise UsageError(f"store file {self.path} is a directory")
        if not os.path.exists(self.path):
            # SQLite would create it readable by all users.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._writer = sqlite3.connect(self.path, isolation_level=None, timeout=5.0)
        self._syncer = sqlite3.connect(self.path, isolation_level=None, timeout=5.0, check_same_thread=False)
        writer = self._writer
        # Includes the remains of a crash during creation: its tables come in one commit with its name.
        new = writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if not new:
            self._check_format()
        for connection in (writer, self._syncer):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint=0")
        if new:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            writer.execute(f"PRAGMA user_version={_FORMAT}")
            writer.execute(
                "CREATE TABLE entries (key TEXT PRIMARY KEY, value BLOB NOT NULL,"
                " revision INTEGER NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID"
            )
            writer.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID")
            writer.execute("INSERT INTO meta VALUES ('limit', 0), ('open', 0)")
            writer.execute("COMMIT")
        problems = [row[0] for row in writer.execute("PRAGMA quick_check(1)")]
        if problems != ["ok"]:
            raise StoreCorrupt(self._damaged(problems[0]))
        meta: dict[str, int] = dict(writer.execute("SELECT name, value FROM meta").fetchall())
        self.entries = tuple(
            self._checked(*row) for row in writer.execute("SELECT key, value, revision, crc FROM entries")
        )
        self.limit = meta.get("limit", -1)
        if self.limit < 0 or any(entry.revision > self.limit for entry in self.entries):
            raise StoreCorrupt(self._damaged("its revisions contradict each other"))
        #: Whether its last user closed it properly.
        self.clean = not meta.get("open", 1)
        self.revision = self.limit if self.clean else self.limit + 1
        writer.execute("UPDATE meta SET value = 1 WHERE name = 'open'")
        self.append((), self.revision)
        self.sync()

    def _checked(self, key: str, value: bytes, revision: int, crc: int) -> Entry:
        # SQLite's own check detects a broken tree, not a broken value.
        if not isinstance(value, bytes) or crc != _crc(key, value, revision):
            raise StoreCorrupt(self._damaged(f"the value of {key!r} does not match its checksum"))
        return Entry(key, value, revision)

    def _check_format(self) -> None:
        application = self._writer.execute("PRAGMA application_id").fetchone()[0]
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if application != _APPLICATION_ID:
            raise StoreCorrupt(f"{self.path} is an SQLite file, but not a store of Locum; give another file")
        if version != _FORMAT:
            raise StoreCorrupt(f"store file {self.path} has format {version}; this version of Locum reads {_FORMAT}")

    def _open_error(self, error: sqlite3.Error) -> StoreError | PermissionRequired:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            return StoreCorrupt(self._damaged(str(error)))
        if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN")):
            return PermissionRequired(f"store file {self.path}: {error}; the file and its directory must be writable")
        return StoreError(f"store file {self.path}: {error}")

    def _damaged(self, what: str) -> str:
        return f"store file {self.path} is damaged: {what}; restore a copy, or move it away to start empty"

    def append(self, changes: Sequence[Change], revision: int) -> None:
        """Write ``changes`` of the commit ``revision``; on return they are in the page cache.

        Raises sqlite3.Error, with no effect.
        """
        writer = self._writer
        limit = revision + _RESERVE if revision + _RESERVE // 2 > self.limit else self.limit
        try:
            writer.execute("BEGIN IMMEDIATE")
            if limit != self.limit:
                writer.execute("UPDATE meta SET value = ? WHERE name = 'limit'", (limit,))
            for change in changes:
                if change.value is None:
                    writer.execute("DELETE FROM entries WHERE key = ?", (change.key,))
                else:
                    writer.execute(
                        "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)",
                        (change.key, change.value, change.revision, _crc(change.key, change.value, change.revision)),
                    )
            writer.execute("COMMIT")
        except BaseException:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            raise
        self.limit = limit

    def sync(self) -> None:
        """Put everything appended before this call on the disk. Raises sqlite3.Error."""
        # A passive checkpoint gives way when the writer is in its transaction: retry.
        for _ in range(1000):
            busy, written, synced = self._syncer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if not busy and written == synced:
                return
            time.sleep(0.001)
        raise sqlite3.OperationalError("the log could not be put on the disk: the file is kept busy")

    def close(self, entries: Iterable[Entry], revision: int) -> None:
        """Write the values that were never logged and the exact revision, then close. Idempotent."""
        if self._lock == -1:
            return
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.executemany(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)",
                [(e.key, e.value, e.revision, _crc(e.key, e.value, e.revision)) for e in entries],
            )
            self._writer.execute("UPDATE meta SET value = ? WHERE name = 'limit'", (revision,))
            self._writer.execute("UPDATE meta SET value = 0 WHERE name = 'open'")
            self._writer.execute("COMMIT")
        except sqlite3.Error:
            # As after a crash: the limit and older values of volatile keys apply.
            pass
        finally:
            self._release()

    def _release(self) -> None:
        for name in ("_syncer", "_writer"):
            connection = getattr(self, name, None)
            if connection is not None:
                try:
                    connection.close()
                except sqlite3.Error:
                    pass
        if self._lock != -1:
            os.close(self._lock)
            self._lock = -1


class SqliteStore(MemoryStore):
    """A :class:`locum.store.base.Store` in this process, kept in the file ``path``.

    Raises at creation: UsageError (in use, no such directory), PermissionRequired, StoreCorrupt, StoreError.
    """

    def __init__(self, path: str) -> None:
        self._log = SqliteLog(path)
        began = 0 if self._log.clean else self._log.revision
        super().__init__(KeyValue(revision=self._log.revision, entries=self._found(), began=began))
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._syncing: asyncio.Task[None] | None = None
        self._unsynced = 0
        self._broken = ""

    def _found(self) -> list[Entry]:
        """The entries of the file, with new revisions for values that may not be the last."""
        found, self._log.entries = self._log.entries, ()
        return [
            Entry(entry.key, entry.value, self._log.revision)
            if not self._log.clean and kind_of(entry.key) in VOLATILE
            else entry
            for entry in found
        ]

    def submit(
        self, conditions: Sequence[Condition], operations: Sequence[Operation]
    ) -> tuple[CommitResult, asyncio.Future[None] | None]:
        """As :meth:`MemoryStore.submit`; StoreUnavailable, without effect, when the file could not be written."""
        self._check_open()
        batch = self.core.evaluate(conditions, operations)
        if batch is None or not batch.changes:
            return CommitResult(batch is not None, self.core.revision, self.core.began), None
        if self._must_be_logged(batch):
            self._append(batch)
        self.core.apply(batch)
        safe = None
        if not all(kind_of(change.key) in MACHINE_BOUND for change in batch.changes):
            safe = asyncio.get_running_loop().create_future()
            self._waiting.append(safe)
        if self._syncing is None and (self._waiting or self._unsynced >= _CHECKPOINT_EVERY):
            self._syncing = tasks.start(self._sync(), "writing to the disk")
        self._tell()
        return CommitResult(True, batch.revision, self.core.began), safe

    def _must_be_logged(self, batch: Batch) -> bool:
        return batch.revision >= self._log.limit or any(
            change.value is None or kind_of(change.key) not in VOLATILE or self.core.get(change.key) is None
            for change in batch.changes
        )

    def _append(self, batch: Batch) -> None:
        if self._broken:
            raise StoreUnavailable(self._broken)
        try:
            self._log.append(batch.changes, batch.revision)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        self._unsynced += 1

    def _failed(self, error: sqlite3.Error) -> StoreUnavailable:
        full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
        message = f"store file {self._log.path}: {error}" + ("; free some space" if full else "")
        if not full:
            self._broken = f"{message} (writing has stopped; remove the cause and restart the store)"
        return StoreUnavailable(message)

    async def _sync(self) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "store-sync")
        loop = asyncio.get_running_loop()
        while self._waiting or self._unsynced >= _CHECKPOINT_EVERY:
            waiting, self._waiting = self._waiting, []
            unsynced, self._unsynced = self._unsynced, 0
            failure: StoreUnavailable | None = StoreUnavailable(self._broken) if self._broken else None
            if failure is None:
                try:
                    await loop.run_in_executor(self._thread, self._log.sync)
                except sqlite3.Error as error:
                    failure = self._failed(error)
                    self._unsynced += unsynced
                except RuntimeError as error:
                    # No thread could be started.
                    failure = StoreUnavailable(f"store file {self._log.path}: {error}")
            for future in waiting:
                if future.done():
                    continue
                if failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(failure)
            if failure is not None and not self._waiting:
                break
        self._syncing = None

    async def close(self) -> None:
        """Finish pending writes, keep everything, close the file. Idempotent."""
        if self.closed:
            return
        await super().close()
        if self._syncing is not None:
            await self._syncing
        if self._thread is not None:
            self._thread.shutdown()
        volatile = [entry for entry in self.core.snapshot().entries if kind_of(entry.key) in VOLATILE]
        self._log.close(volatile, self.core.revision)
