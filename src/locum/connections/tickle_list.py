"""Tickle lists in the store: the keys, and one address's list in buckets.

Bytes and sets; no store, no clock, no kernel. :mod:`locum.connections.tracker` feeds it.

Keys begin with ``<cluster>.bulk/``, which no node watches: connections come and go by the thousand.

==============================================  ====================================================================
key                                             value
==============================================  ====================================================================
``<cluster>.bulk/connections/<address>/<n>``    a bucket of connections that the holder of the address has found;
                                                written on condition that its claim is unchanged
``<cluster>.bulk/added/<address>``              connections that a command added; any node may write it, on condition
                                                that it is unchanged since it was read
==============================================  ====================================================================

A value is the byte 1 (the format), followed by entries (:mod:`locum.connections.sockets`).

Small changes cause small writes. New entries go into one open bucket. A dead entry stays in its bucket until a quarter
of the bucket is dead or some seconds have passed; notifying the client of an ended connection is safe, because its
kernel answers for itself. The rest of a thin bucket moves to the open one, so that buckets are few and full.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from locum.connections.sockets import ENTRY_SIZES
from locum.errors import StoreCorrupt

_FORMAT = 1

#: Most entries in a bucket: 1 KB for IPv4, 2.5 KB for IPv6.
BUCKET_SIZE = 128
#: Longest time that a dead entry stays in the store, in seconds (plus one pass).
TIDY_AFTER = 10.0


def bulk(cluster: str) -> str:
    """The prefix of the bulk data of ``cluster``: beside the keys that its nodes watch (``<cluster>/``), not below."""
    return f"{cluster}.bulk/"


def bucket_prefix(cluster: str, address: str) -> str:
    """The prefix of the keys of the buckets of ``address``; of all addresses for ""."""
    return f"{bulk(cluster)}connections/{address}/" if address else f"{bulk(cluster)}connections/"


def added_key(cluster: str, address: str) -> str:
    """The key of connections added by command for ``address``; the prefix of all such keys for ""."""
    return f"{bulk(cluster)}added/{address}"


def entry_size(address: str) -> int:
    """The size of an entry of a connection to ``address``."""
    return ENTRY_SIZES[6 if ":" in address else 4]


def pack(entries: Iterable[bytes]) -> bytes:
    """A value for the store."""
    return bytes([_FORMAT]) + b"".join(sorted(entries))


def unpack(key: str, value: bytes, size: int) -> set[bytes]:
    """The entries in a value, ``size`` bytes each. Raises StoreCorrupt, with the key."""
    if value[:1] != bytes([_FORMAT]):
        raise StoreCorrupt(f"store key {key!r}: connections in a format that this version does not know; delete it")
    if (len(value) - 1) % size:
        raise StoreCorrupt(f"store key {key!r}: {len(value)} bytes are not a list of connections; delete it")
    return {entry for (entry,) in struct.iter_unpack(f"{size}s", value[1:])}


def bucket_number(key: str) -> int | None:
    """The number at the end of a bucket's key; None without one."""
    last = key.rpartition("/")[2]
    return int(last) if last.isascii() and last.isdigit() and len(last) <= 9 else None


class _Bucket:
    """``live`` and ``dead`` entries together are the bucket's value; ``dead_since``: when the first died."""

    def __init__(self, entries: Iterable[bytes] = ()) -> None:
        self.live = set(entries)
        self.dead: set[bytes] = set()
        self.dead_since = 0.0

    def __len__(self) -> int:
        return len(self.live) + len(self.dead)


class TickleList:
    """The wanted list of one address, and which of its buckets may differ in the store."""

    def __init__(self, buckets: Mapping[int, Iterable[bytes]] | None = None) -> None:
        """``buckets``: those in the store. All entries count as live until :meth:`update` says otherwise."""
        self._buckets: dict[int, _Bucket] = {}
        self._where: dict[bytes, int] = {}
        #: Buckets to be written, or deleted when they no longer exist.
        self.pending: set[int] = set()
        for number, entries in (buckets or {}).items():
            # An interrupted move may have left an entry in two buckets.
            own = {entry for entry in entries if entry not in self._where}
            if len(own) != len(set(entries)):
                self.pending.add(number)
            self._buckets[number] = _Bucket(own)
            self._where.update(dict.fromkeys(own, number))
        self._next = max(self._buckets, default=-1) + 1
        self._open: int | None = None

    def __len__(self) -> int:
        """The live connections."""
        return sum(len(bucket.live) for bucket in self._buckets.values())

    def live(self) -> set[bytes]:
        """The live connections."""
        return set().union(*(bucket.live for bucket in self._buckets.values()))

    def replace(self, entries: set[bytes], now: float) -> None:
        """The connections at ``now`` (seconds) are exactly ``entries``."""
        self.update(entries, self.live() - entries, now)

    def update(self, come: Iterable[bytes], gone: Iterable[bytes], now: float) -> None:
        """Add ``come`` and remove ``gone``; an entry in both is present."""
        for entry in gone:
            number = self._where.get(entry)
            if number is not None:
                bucket = self._buckets[number]
                if not bucket.dead:
                    bucket.dead_since = now
                bucket.live.discard(entry)
                bucket.dead.add(entry)
        for entry in come:
            number = self._where.get(entry)
            if number is None:
                self._append(entry)
            else:
                # Back before its death was written: no write is needed.
                self._buckets[number].dead.discard(entry)
                self._buckets[number].live.add(entry)

    def tidy(self, now: float, after: float = TIDY_AFTER) -> None:
        """Rewrite buckets with too many dead entries, or with dead entries older than ``after`` seconds."""
        for number, bucket in list(self._buckets.items()):
            if not bucket.dead:
                continue
            if number in self.pending or 4 * len(bucket.dead) >= len(bucket) or now - bucket.dead_since >= after:
                self._bury(number, bucket)

    def _bury(self, number: int, bucket: _Bucket) -> None:
        for entry in bucket.dead:
            del self._where[entry]
        bucket.dead.clear()
        self.pending.add(number)
        if number != self._open and len(bucket.live) <= BUCKET_SIZE // 4:
            del self._buckets[number]
            for entry in bucket.live:
                self._append(entry)

    def _append(self, entry: bytes) -> None:
        number = self._open
        if number is None or len(self._buckets[number]) >= BUCKET_SIZE:
            number = self._open = self._next
            self._next += 1
            self._buckets[number] = _Bucket()
        self._buckets[number].live.add(entry)
        self._where[entry] = number
        self.pending.add(number)

    def writes(self) -> list[tuple[int, bytes | None]]:
        """Pending buckets and their values; deletions (None) last, so that moved entries are never missing."""
        changes = [(number, self._value(number)) for number in sorted(self.pending)]
        return sorted(changes, key=lambda change: change[1] is None)

    def _value(self, number: int) -> bytes | None:
        bucket = self._buckets.get(number)
        return pack(bucket.live | bucket.dead) if bucket is not None and len(bucket) else None

    def written(self, numbers: Iterable[int]) -> None:
        """The store has these buckets as from :meth:`writes`. Nothing may have changed in between."""
        self.pending.difference_update(numbers)
