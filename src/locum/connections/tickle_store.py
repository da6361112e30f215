"""The tickle lists in the store: read all, and write only those that this node may write.

Keys and conditions; the tracker determines the connections.

A bucket is written on condition that this node's claim on the address has the revision at which the node knows the
claim as its own. A node that has lost the address unnoticed therefore overwrites nothing of the new holder: its claim
is gone, or belongs to another node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from locum.connections import tickle_list
from locum.errors import StoreCorrupt
from locum.store.base import MAX_OPERATIONS, Commit, Condition, Delete, Operation, Put, Store, carry_out
from locum.store.patience import answered_within

#: Seconds after which a call counts as unanswered.
PATIENCE = 5.0
#: Bytes of values in one commit: carried out quickly, so that beats in the same store do not wait.
COMMIT_BYTES = 128 * 1024
#: Commits of one pass; the rest waits for the next.
COMMITS_PER_PASS = 16

#: Bucket number → value, None to delete it.
Change = tuple[int, bytes | None]


class Listed(msgspec.Struct, frozen=True):
    """The store's list of one address.

    ``added`` are the connections added by command, at ``revision`` (0: none).
    """

    buckets: Mapping[int, frozenset[bytes]]
    added: frozenset[bytes] = frozenset()
    revision: int = 0
    problems: tuple[str, ...] = ()

    def entries(self) -> set[bytes]:
        """All connections."""
        return set(self.added).union(*self.buckets.values())


class Write(msgspec.Struct, frozen=True):
    """Buckets of ``address`` to be written while the claim on it is at revision ``claim``."""

    address: str
    claim: int
    changes: tuple[Change, ...]


class TickleStore:
    """The lists of one cluster. ``store`` is the store itself, without the cluster's prefix."""

    def __init__(self, store: Store, cluster: str) -> None:
        self._store = store
        self._cluster = cluster

    async def read(self, address: str) -> Listed:
        """The list of ``address``. Raises StoreError. Unreadable parts are skipped, and reported in ``problems``."""
        prefix = tickle_list.bucket_prefix(self._cluster, address)
        size = tickle_list.entry_size(address)
        buckets: dict[int, frozenset[bytes]] = {}
        problems = []
        async with answered_within(PATIENCE):
            snapshot = await self._store.read(prefix)
        for entry in snapshot.entries:
            number = tickle_list.bucket_number(entry.key)
            if number is None:
                continue
            try:
                buckets[number] = frozenset(tickle_list.unpack(entry.key, entry.value, size))
            except StoreCorrupt as error:
                # As an empty bucket, so that it is rewritten or deleted.
                buckets[number] = frozenset()
                problems.append(str(error))
        added, revision = await self.read_added(address)
        return Listed(buckets, added, revision, tuple(problems))

    async def read_all(self) -> dict[str, Listed]:
        """The lists of all addresses that have one. Raises StoreError. Unreadable lists are left out."""
        buckets: dict[str, dict[int, frozenset[bytes]]] = {}
        added: dict[str, frozenset[bytes]] = {}
        found_prefix, added_prefix = (
            tickle_list.bucket_prefix(self._cluster, ""),
            tickle_list.added_key(self._cluster, ""),
        )
        async with answered_within(PATIENCE):
            entries = [*(await self._store.read(found_prefix)).entries, *(await self._store.read(added_prefix)).entries]
        for entry in entries:
            with contextlib.suppress(StoreCorrupt):
                if entry.key.startswith(added_prefix):
                    address = entry.key.removeprefix(added_prefix)
                    added[address] = frozenset(
                        tickle_list.unpack(entry.key, entry.value, tickle_list.entry_size(address))
                    )
                    continue
                address = entry.key.removeprefix(found_prefix).rpartition("/")[0]
                number = tickle_list.bucket_number(entry.key)
                if number is not None:
                    found = frozenset(tickle_list.unpack(entry.key, entry.value, tickle_list.entry_size(address)))
                    buckets.setdefault(address, {})[number] = found
        return {
            address: Listed(buckets.get(address, {}), added.get(address, frozenset())) for address in {*buckets, *added}
        }

    async def read_added(self, address: str) -> tuple[frozenset[bytes], int]:
        """The connections added by command for ``address``, and their revision. Raises StoreError, StoreCorrupt."""
        key = tickle_list.added_key(self._cluster, address)
        async with answered_within(PATIENCE):
            snapshot = await self._store.read(key)
        for entry in snapshot.entries:
            # Another address's key may begin with this one's.
            if entry.key == key:
                return frozenset(tickle_list.unpack(key, entry.value, tickle_list.entry_size(address))), entry.revision
        return frozenset(), 0

    async def change_added(self, address: str, add: Collection[bytes], remove: Collection[bytes]) -> int:
        """Add and remove connections of the list of those added by command; returns how many this changed.

        Works from any node: after a conflict, the list is read again. Raises StoreError.
        """
        key = tickle_list.added_key(self._cluster, address)
        while True:
            present, revision = await self.read_added(address)
            wanted = (present | set(add)) - set(remove)
            if wanted == present:
                return 0
            operation: Operation = Put(key, tickle_list.pack(wanted)) if wanted else Delete(key)
            async with answered_within(PATIENCE):
                result = await carry_out(self._store, Commit((Condition(key, revision),), (operation,)))
            if result.accepted:
                return len(wanted ^ present)

    async def write(
        self, writes: Iterable[Write], written: Callable[[str, list[int]], None], *, apart: bool = False
    ) -> bool:
        """Write buckets of some addresses; calls ``written(address, numbers)`` for those that the store accepted.

        Several addresses share a commit unless ``apart``. False when a commit was refused because a claim differs from
        this node's view; the addresses in that commit are not written further. Raises StoreError. Ends early after an
        error or COMMITS_PER_PASS commits: the caller tries the rest again.
        """
        refused: set[str] = set()
        for batch in _batches(writes, apart=apart)[:COMMITS_PER_PASS]:
            claims = {write.address: write.claim for write, _ in batch}
            if not refused.isdisjoint(claims):
                continue
            conditions = [Condition(f"{self._cluster}/claim/{address}", claim) for address, claim in claims.items()]
            operations = [self._operation(write.address, change) for write, change in batch]
            # The condition on the claim suffices: it names the only writer of these keys.
            reasons = {operation.key: "only the holder of the claim writes it" for operation in operations}
            async with answered_within(PATIENCE):
                result = await carry_out(self._store, Commit(tuple(conditions), tuple(operations), reasons))
            if not result.accepted:
                refused.update(claims)
                continue
            for address in claims:
                written(address, [number for write, (number, _) in batch if write.address == address])
        return not refused

    def _operation(self, address: str, change: Change) -> Operation:
        number, value = change
        key = f"{tickle_list.bucket_prefix(self._cluster, address)}{number}"
        return Delete(key) if value is None else Put(key, value)


def _batches(writes: Iterable[Write], *, apart: bool) -> list[list[tuple[Write, Change]]]:
    """The changes in commits of limited size, in their order."""
    batches: list[list[tuple[Write, Change]]] = []
    size = 0
    for write in writes:
        for place, change in enumerate(write.changes):
            length = len(change[1] or b"") + 100
            full = not batches or len(batches[-1]) == MAX_OPERATIONS or size + length > COMMIT_BYTES
            if full or (apart and place == 0):
                batches.append([])
                size = 0
            batches[-1].append((write, change))
            size += length
    return batches
