"""The space that an etcd uses: the size of its database, and the length of its history.

Rules of this file: it only reads, and only on request. etcd does not report its compaction settings; the length of its
history shows whether it compacts.
"""

from __future__ import annotations

import msgspec

from locum.errors import StoreUnavailable
from locum.store.etcd import messages
from locum.store.etcd.gateway import Gateway
from locum.store.etcd.messages import Compacted, Failure


class Space(msgspec.Struct, frozen=True):
    """The space of one member. ``size`` and ``used`` in bytes: of the database's file, and of its content.

    ``history``: the number of readable revisions. ``compacted``: whether any were ever dropped.
    """

    endpoint: str
    version: str
    size: int
    used: int
    history: int
    compacted: bool


async def space(gateway: Gateway, endpoint: str, key: bytes) -> Space:
    """Ask ``endpoint``; ``key``: any readable key. Raises StoreUnavailable."""
    try:
        status = await gateway.ask(endpoint, "/v3/maintenance/status", b"{}", messages.status_responses)
        latest = status.header.revision
        oldest = await _oldest(gateway, endpoint, key, latest)
    except Failure as error:
        raise StoreUnavailable(f"etcd: {endpoint}: {error}") from None
    return Space(endpoint, status.version, status.db_size, status.db_size_in_use, latest - oldest + 1, oldest > 1)


async def _oldest(gateway: Gateway, endpoint: str, key: bytes, latest: int) -> int:
    """The first revision that can still be read, found by bisection."""
    low, high = 1, max(latest, 1)
    while low < high:
        middle = (low + high) // 2
        try:
            await gateway.ask(
                endpoint, "/v3/kv/range", messages.look_back_request(key, middle), messages.range_responses
            )
        except Compacted:
            low = middle + 1
        else:
            high = middle
    return low
