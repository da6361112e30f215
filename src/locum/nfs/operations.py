"""Clients that hold NFS locks, per public address, in the cluster's store: the operations of scripts and call-out.

This file reads and writes the store on request, and keeps nothing. The keys have their own prefix,
``<cluster>.bulk/statd/``, which no node watches: thousands of clients that reclaim their locks at once must not notify
all nodes.

======================================  ================================================================
``statd/client/<address>/<client>``     recording node, time, and server name (JSON)
``statd/state``                         the cluster's state number (decimal): it only grows, and is odd
======================================  ================================================================

Keys contain an address and a client's name with everything but letters, digits, ``.``, ``:``, ``-`` and ``_`` written
as ``%XX``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TypeVar
from urllib.parse import quote, unquote

import msgspec

from locum import hosts
from locum.errors import StoreUnavailable, UsageError
from locum.outside import UNDECODABLE
from locum.store.base import MAX_OPERATIONS, Commit, Condition, Delete, Entry, Operation, Put, Store, carry_out
from locum.store.patience import answered_within

_CLIENTS = "statd/client/"
_STATE = "statd/state"
_TRIES = 20
#: State numbers have 31 bits (XNFS: an int).
_STATE_LIMIT = 0x7FFFFFFF
_STATE_DIGITS = len(str(_STATE_LIMIT))
#: Records of more clients than this are read together with all others of the cluster.
_READ_ONE_BY_ONE = 8

#: Limit for the store, in seconds; rpc.statd waits meanwhile.
LIMIT = 3.0

Message = Mapping[str, object]
T = TypeVar("T")


class StatdChange(msgspec.Struct, frozen=True):
    """One change: ``do`` is ``add`` or ``del``; ``server`` an address or any name; ``at`` unix time in seconds."""

    do: str
    client: str
    server: str = ""
    at: float = 0.0


class _Request(msgspec.Struct, frozen=True):
    changes: tuple[StatdChange, ...] = ()
    addresses: tuple[str, ...] = ()
    advance: bool = False
    forget: tuple[tuple[str, str, int], ...] = ()


class _Value(msgspec.Struct, frozen=True):
    at: float
    node: str
    server: str = ""


class StatdClient(msgspec.Struct, frozen=True):
    """A client to be notified when ``address`` moves; ``revision`` distinguishes this record from a later one.

    ``recorded``: the client's spelling in the record, when that is not canonical (another version wrote it).
    """

    address: str
    client: str
    revision: int
    at: float
    node: str
    server: str = ""
    recorded: str = ""


class StatdOperations:
    """``bulk`` is the store below ``<cluster>.bulk/``; ``served`` returns the public addresses that this node holds,
    ``known`` all public addresses of the cluster."""

    def __init__(
        self,
        bulk: Store,
        node: str,
        served: Callable[[], Collection[str]],
        known: Callable[[], Collection[str]],
    ) -> None:
        self._bulk = bulk
        self._node = node
        self._served = served
        self._known = known

    def operations(self) -> dict[str, Callable[[Message], Awaitable[object]]]:
        """The operations by their names on the control socket."""
        return {
            "statd-record": self.record,
            "statd-clients": self.clients,
            "statd-forget": self.forget,
            "statd-state": self.state,
        }

    async def record(self, message: Message) -> object:
        """``changes``: clients that began or ceased to be monitored. A change whose server name is not a public address
        counts for every address that this node serves."""
        request = _parse(message)
        final: dict[str, tuple[StatdChange, bool]] = {}
        known = set(self._known())
        for change in request.changes:
            client = hosts.host_or_empty(change.client)
            if change.do not in ("add", "del") or not client:
                raise UsageError(f"invalid change of a statd client: {change.do!r} {change.client[:255]!r}")
            server = hosts.host_or_empty(change.server)
            addresses = [server] if server in known else self._served()
            for address in addresses:
                if not _same_family(address, client):
                    continue
                final[_key(address, client)] = (msgspec.structs.replace(change, server=server), change.do == "add")
        keys = list(final)
        for begin in range(0, len(keys), MAX_OPERATIONS):
            await self._write({key: final[key] for key in keys[begin : begin + MAX_OPERATIONS]})
        return {"recorded": len(final)}

    async def _write(self, final: Mapping[str, tuple[StatdChange, bool]]) -> None:
        """Write the changes that are newer than the record; a journal may be late."""
        for _ in range(_TRIES):
            recorded = await self._recorded(final)
            conditions: list[Condition] = []
            operations: list[Operation] = []
            for key, (change, add) in final.items():
                entry = recorded.get(key)
                if entry is not None and change.at and _decode(entry).at > change.at:
                    continue
                value = _Value(change.at or time.time(), self._node, change.server)
                conditions.append(Condition(key, 0 if entry is None else entry.revision))
                operations.append(Put(key, msgspec.json.encode(value)) if add else Delete(key))
            commit = Commit(tuple(conditions), tuple(operations))
            if not operations or (await _limited(carry_out(self._bulk, commit))).accepted:
                return
        raise StoreUnavailable("the records of the clients kept changing: try again")

    async def _recorded(self, keys: Collection[str]) -> dict[str, Entry]:
        """The store's entries under ``keys``."""
        prefixes = keys if len(keys) <= _READ_ONE_BY_ONE else (_CLIENTS,)
        found: dict[str, Entry] = {}
        for prefix in prefixes:
            entries = (await _limited(self._bulk.read(prefix))).entries
            found.update((entry.key, entry) for entry in entries if entry.key in keys)
        return found

    async def clients(self, message: Message) -> object:
        """The clients recorded for ``addresses``; for all addresses of the cluster without any."""
        request = _parse(message)
        try:
            prefixes = [_key(hosts.address(address), "") for address in request.addresses] or [_CLIENTS]
        except ValueError as error:
            raise UsageError(f"statd: {error}") from None
        found: list[StatdClient] = []
        for prefix in prefixes:
            found += [_decode(entry) for entry in (await _limited(self._bulk.read(prefix))).entries]
        # An invalid host name, written by another program, cannot be notified.
        return [one for one in found if one.client]

    async def forget(self, message: Message) -> object:
        """``forget``: delete these (address, client, revision) unless they were recorded again since."""
        gone = 0
        for address, client, revision in _parse(message).forget:
            key = _key(address, client)
            commit = Commit((Condition(key, revision),), (Delete(key),))
            result = await _limited(carry_out(self._bulk, commit))
            gone += result.accepted
        return {"forgotten": gone}

    async def state(self, message: Message) -> object:
        """The state number; with ``advance`` a new, larger one. The first one is derived from the time, so that a
        cluster whose store was lost does not start again with small numbers."""
        advance = _parse(message).advance
        for _ in range(_TRIES):
            entries = [e for e in (await _limited(self._bulk.read(_STATE))).entries if e.key == _STATE]
            present = _state_number(entries[0].value) if entries else 0
            if present and not advance:
                return {"state": present}
            new = present + 2 if present else int(time.time()) | 1
            new = (new | 1) & _STATE_LIMIT
            revision = entries[0].revision if entries else 0
            put = Put(_STATE, str(new).encode())
            if (await _limited(carry_out(self._bulk, Commit((Condition(_STATE, revision),), (put,))))).accepted:
                return {"state": new}
        raise StoreUnavailable("the state number kept changing: try again")


def _state_number(value: bytes) -> int:
    """The state number in the store; 0 for an invalid value, which a new one then replaces."""
    return int(value) if value.isdigit() and len(value) <= _STATE_DIGITS else 0


async def _limited(work: Awaitable[T]) -> T:
    async with answered_within(LIMIT):
        return await work


def _same_family(address: str, client: str) -> bool:
    """False when the client is an address of the other family, which cannot have come by this one."""
    return not hosts.is_address(client) or (":" in address) == (":" in client)


def _parse(message: Message) -> _Request:
    try:
        return msgspec.convert({k: v for k, v in message.items() if k != "op"}, _Request)
    except msgspec.ValidationError as error:
        raise UsageError(f"statd: {error}") from None


def _key(address: str, client: str) -> str:
    return f"{_CLIENTS}{quote(address, safe=':')}/{quote(client, safe=':')}"


def _decode(entry: Entry) -> StatdClient:
    address, _, client = entry.key[len(_CLIENTS) :].partition("/")
    try:
        value = msgspec.json.decode(entry.value, type=_Value)
    except UNDECODABLE:
        value = _Value(0.0, "")  # another program wrote it; the client is notified nevertheless
    recorded = unquote(client)
    host = hosts.host_or_empty(recorded)
    return StatdClient(
        unquote(address),
        host,
        entry.revision,
        value.at,
        value.node,
        value.server,
        recorded if recorded != host else "",
    )
