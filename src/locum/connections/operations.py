"""Requests about connections from commands and scripts, as the control socket receives them.

This file checks requests and answers; the tracker and the lists do the work. Only the node with the address notifies
clients and ends connections: only there does the kernel let the packets pass and know the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

from locum.connections.connection_report import (
    AddressConnections,
    ConnectionReport,
    ConnectionsResult,
    parse_endpoint,
)
from locum.connections.sockets import Connection, endpoint, unpack
from locum.connections.tickle_store import Listed
from locum.connections.tracker import ConnectionTracker
from locum.errors import UsageError
from locum.machine.netlink import route

Message = Mapping[str, object]
Operation = Callable[[Message], Awaitable[object]]


class ConnectionOperations:
    """The operations of one node.

    ``public`` gives all public addresses of the cluster, ``holder`` the node that has one of them.
    """

    def __init__(
        self,
        tracker: ConnectionTracker,
        *,
        public: Callable[[], Collection[str]],
        holder: Callable[[str], str | None],
    ) -> None:
        self._tracker = tracker
        self._public = public
        self._holder = holder

    def table(self) -> dict[str, Operation]:
        """Name → operation."""
        return {
            "connections-list": self.list,
            "connections-tickle": self.tickle,
            "connections-kill": self.kill,
            "connections-add": self.add,
            "connections-delete": self.delete,
        }

    async def list(self, message: Message) -> list[AddressConnections]:
        """``address``: list its connections; without it, the number of connections of each public address."""
        if message.get("address"):
            address = self._address(message)
            found, added = await self._tracker.registered(address)
            return [self._report(address, found, added, listed=True)]
        everything = await self._tracker.lists.read_all()
        reports = []
        for address in sorted(self._public(), key=_by_number):
            listed = everything.get(address, Listed({}))
            live = await self._tracker.recorder.live(address)
            found = live if live is not None else set().union(*listed.buckets.values())
            reports.append(self._report(address, found, set(listed.added), listed=False))
        return reports

    async def tickle(self, message: Message) -> ConnectionsResult:
        """``address``: notify its clients."""
        address = self._here(self._address(message))
        count = await self._tracker.tickle(address)
        return ConnectionsResult(f"tickled {count} clients of {address}", count)

    async def kill(self, message: Message) -> ConnectionsResult:
        """``address``, and optionally ``ports``: end its connections at both ends."""
        address = self._here(self._address(message))
        progress = await self._tracker.kill(address, _ports(message.get("ports")))
        text = f"ended {progress.destroyed} connections to {address}"
        if progress.left:
            text += f"; {len(progress.left)} are closing and end by themselves"
        return ConnectionsResult(text, progress.destroyed, len(progress.left))

    async def add(self, message: Message) -> ConnectionsResult:
        """``pairs`` of a client's and a public endpoint: also notify these when the address moves."""
        count = 0
        for address, entries in self._pairs(message).items():
            count += await self._tracker.lists.change_added(address, entries, ())
        return ConnectionsResult(f"added {count} connections", count)

    async def delete(self, message: Message) -> ConnectionsResult:
        """``pairs`` as in add: remove added connections."""
        count = 0
        for address, entries in self._pairs(message).items():
            count += await self._tracker.lists.change_added(address, (), entries)
        return ConnectionsResult(f"deleted {count} connections", count)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _address(self, message: Message) -> str:
        text = message.get("address")
        try:
            address = route.canonical(str(text))
        except ValueError:
            raise UsageError(f"{text!r} is not an IP address") from None
        if address not in self._public():
            raise UsageError(f"{address} is not a public address of this cluster; 'locum ip' lists them")
        return address

    def _here(self, address: str) -> str:
        if not self._tracker.holds(address):
            holder = self._holder(address)
            where = f"run the command on {holder}, which serves it" if holder else "no node serves it"
            raise UsageError(f"{address} is not on this node; {where}")
        return address

    def _pairs(self, message: Message) -> dict[str, set[bytes]]:
        pairs = message.get("pairs")
        if not isinstance(pairs, list) or not pairs:
            raise UsageError("no connections were given")
        public = set(self._public())
        found: dict[str, set[bytes]] = {}
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise UsageError("a connection is a pair of endpoints")
            (client, client_port), (address, port) = parse_endpoint(pair[0]), parse_endpoint(pair[1])
            if address not in public:
                turned = " (the client comes first, then the public address)" if client in public else ""
                raise UsageError(f"{address} is not a public address of this cluster{turned}")
            if (":" in client) != (":" in address):
                raise UsageError(f"{pair[0]} and {pair[1]} cannot be connected: one is IPv4, the other IPv6")
            found.setdefault(address, set()).add(Connection(address, port, client, client_port).entry)
        return found

    def _report(self, address: str, found: set[bytes], added: set[bytes], *, listed: bool) -> AddressConnections:
        everything = found | added
        ports: dict[int, int] = {}
        for entry in everything:
            port = int.from_bytes(entry[:2], "big")
            ports[port] = ports.get(port, 0) + 1
        reports: Iterable[ConnectionReport] = ()
        if listed:
            reports = sorted(_connection(address, entry, added=entry in added) for entry in everything)
        return AddressConnections(
            address=address,
            node=self._holder(address),
            count=len(everything),
            ports={str(port): ports[port] for port in sorted(ports)},
            connections=tuple(reports),
        )


def _by_number(address: str) -> tuple[int, bytes]:
    packed = route.packed(address)
    return len(packed), packed


def _connection(address: str, entry: bytes, *, added: bool) -> ConnectionReport:
    found = unpack(address, entry)
    return ConnectionReport(endpoint(found.remote, found.remote_port), found.local_port, added)


def _ports(value: object) -> frozenset[int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(p, int) and 0 < p < 65536 for p in value):
        raise UsageError("ports are numbers from 1 to 65535")
    return frozenset(value) or None
