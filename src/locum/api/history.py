"""The operation ``history`` of the control socket: what has happened in the cluster, from the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from locum.errors import UsageError
from locum.node.historian import KEPT, Historian

Message = Mapping[str, object]


class HistoryRequest(msgspec.Struct, frozen=True):
    """``about``: a node or an address, "" for everything. ``since``: unix time in seconds. ``limit``: at most this
    many, the latest."""

    op: str = ""
    about: str = ""
    since: float = 0.0
    limit: int = 100


class HistoryOperations:
    """The operations on one node's history."""

    def __init__(self, historian: Historian) -> None:
        self._historian = historian

    def table(self) -> dict[str, Callable[[Message], Awaitable[object]]]:
        """Name → operation."""
        return {"history": self.history}

    async def history(self, message: Message) -> object:
        """The chosen occurrences, the oldest first. Raises UsageError, StoreError."""
        try:
            request = msgspec.convert(dict(message), HistoryRequest)
        except msgspec.ValidationError as error:
            raise UsageError(f"history: {error}") from None
        if not 0 < request.limit <= KEPT:
            raise UsageError(f"history: the limit is from 1 to {KEPT}")
        found = await self._historian.read()
        chosen = [
            one for one in found if one.at >= request.since and (not request.about or one.concerns(request.about))
        ]
        return chosen[-request.limit :]
