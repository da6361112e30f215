"""Record connections: once a second, write changes among the connections to this node's addresses to the store.

This file has addresses, their tickle lists, and passes over them. The tracker (:mod:`locum.connections.tracker`)
notifies clients and handles addresses that come or leave.

All loops over connections run on one thread beside the event loop (``run``), under one lock: a tickle list is never
read while a pass changes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any

from locum.clock import boottime
from locum.connections.sockets import Census
from locum.connections.tickle_list import TickleList
from locum.connections.tickle_store import Change, TickleStore, Write
from locum.errors import LocumError, StoreError
from locum.machine.netlink import inet_diag, route

#: Runs a function on the thread.
Run = Callable[..., Awaitable[Any]]


class RecordedAddress:
    """An address whose connections are recorded.

    ``fresh``: its tickle list has not been compared with all of its connections yet. ``settled``: its clients have
    been notified, so dead connections may leave the list.
    """

    def __init__(self, address: str, tickle_list: TickleList) -> None:
        self.address = address
        self.packed = route.packed(address)
        self.tickle_list = tickle_list
        self.fresh = True
        self.settled = False


class Recorder:
    """The tickle lists of this node's addresses, in the network namespace in which the object was created.

    ``claim`` gives the revision of this node's own claim on an address, 0 without one; ``say(subject, problem)``
    reports a problem, or with "" its end.
    """

    def __init__(
        self, lists: TickleStore, claim: Callable[[str], int], run: Run, say: Callable[[str, str], None]
    ) -> None:
        #: The number of passes so far, and the CPU seconds of the last one.
        self.passes = 0
        self.last_cost = 0.0
        self._lists = lists
        self._claim = claim
        self._run = run
        self._say = say
        self._census = Census(inet_diag.open_socket())
        self._recorded: dict[str, RecordedAddress] = {}
        self._lock = asyncio.Lock()
        self._apart = False

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._census.close()

    def __contains__(self, address: str) -> bool:
        return address in self._recorded

    def __len__(self) -> int:
        return len(self._recorded)

    async def open(self, address: str, buckets: Mapping[int, Iterable[bytes]]) -> None:
        """``address`` is here; its list in the store has ``buckets``."""
        self._recorded[address] = RecordedAddress(address, await self._run(TickleList, buckets))

    def settle(self, address: str) -> None:
        """The clients on the list of ``address`` have been notified: dead connections may leave it from now on."""
        if address in self._recorded:
            self._recorded[address].settled = True

    def shut(self, address: str) -> RecordedAddress | None:
        """``address`` has left; its list stays in the store. Returns its record, for :meth:`finish`."""
        return self._recorded.pop(address, None)

    async def live(self, address: str) -> set[bytes] | None:
        """The connections of ``address`` as of the last pass; None when it is not here or its clients are still being
        notified."""
        recorded = self._recorded.get(address)
        if recorded is None or not recorded.settled:
            return None
        async with self._lock:
            live: set[bytes] = await self._run(recorded.tickle_list.live)
            return live

    async def look(self, ports: Collection[int]) -> None:
        """One pass: scan the kernel, write the changes."""
        async with self._lock:
            addresses = list(self._recorded.values())
            # Read now: the result belongs to this holding of the address, and must not be written in a later one.
            claims = {recorded.address: self._claim(recorded.address) for recorded in addresses}
            try:
                changed: list[tuple[RecordedAddress, tuple[Change, ...]]] = await self._run(
                    self._survey, addresses, ports
                )
            except LocumError as error:
                self._say("kernel", f"connections cannot be listed: {error}")
                return
            self._say("kernel", "")
            await self._write(
                [
                    (recorded.tickle_list, Write(recorded.address, claims[recorded.address], changes))
                    for recorded, changes in changed
                ]
            )

    async def finish(self, address: str, recorded: RecordedAddress | None, entries: Collection[bytes]) -> None:
        """Write the last list of an address that leaves: ``entries`` are cut now, and the next holder notifies them.

        ``recorded`` comes from :meth:`shut`; it is None when the list was not read yet, and is read now.
        """
        claim = self._claim(address)
        try:
            tickle_list = (
                recorded.tickle_list if recorded is not None else TickleList((await self._lists.read(address)).buckets)
            )
        except StoreError as error:
            self._say("store", f"connections cannot be recorded: {error}")
            return
        async with self._lock:
            await self._run(tickle_list.update, entries, (), boottime())
            await self._write([(tickle_list, Write(address, claim, tuple(tickle_list.writes())))])

    def _survey(
        self, addresses: Collection[RecordedAddress], ports: Collection[int]
    ) -> list[tuple[RecordedAddress, tuple[Change, ...]]]:
        """On the thread: the changes to write for each address."""
        started = time.thread_time()
        now = boottime()
        come, gone = self._census.take(ports)
        everything = self._census.all() if any(recorded.fresh for recorded in addresses) else None
        changed = []
        for recorded in addresses:
            if recorded.fresh and everything is not None:
                recorded.tickle_list.replace(everything.of(recorded.packed), now)
                recorded.fresh = False
            else:
                recorded.tickle_list.update(come.of(recorded.packed), gone.of(recorded.packed), now)
            if recorded.settled:
                recorded.tickle_list.tidy(now)
            if recorded.tickle_list.pending:
                changed.append((recorded, tuple(recorded.tickle_list.writes())))
        self.last_cost = time.thread_time() - started
        self.passes += 1
        return changed

    async def _write(self, changed: Iterable[tuple[TickleList, Write]]) -> None:
        """Write, holding the lock. Changes that are not written stay pending."""
        due = [(tickle_list, write) for tickle_list, write in changed if write.claim and write.changes]
        if not due:
            return
        tickle_lists = {write.address: tickle_list for tickle_list, write in due}
        try:
            accepted = await self._lists.write(
                [write for _, write in due],
                lambda address, numbers: tickle_lists[address].written(numbers),
                apart=self._apart,
            )
        except StoreError as error:
            self._say("store", f"connections cannot be recorded: {error}")
            return
        # One changed claim must not hold back the other addresses.
        self._apart = not accepted
        self._say("store", "")
