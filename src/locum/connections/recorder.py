"""Record connections: once a second, write changes among the connections to this node's addresses to the store.

This file has addresses, their tickle lists, and passes over them. The tracker (:mod:`locum.connections.tracker`)
notifies clients and handles addresses that come or leave.

All loops over connections run on one thread beside the event loop (``run``), under one lock: a tickle list is never
read while a pass changes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from locum.clock import boottime
from locum.connections.sockets import Census
from locum.connections.tickle_list import TickleList
from locum.connections.tickle_store import Change, TickleStore, Write
from locum.errors import LocumError, StoreError
from locum.machine.netlink import inet_diag, route


class Run(Protocol):
    """Runs a function on the thread."""

    async def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's result."""
        ...


class Costs(msgspec.Struct):
    """The cost of passes so far: their number, and CPU seconds; ``last``: those of the last one."""

    passes: int = 0
    cpu: float = 0.0
    last: float = 0.0


class Page:
    """An address. ``fresh``: its tickle list has not been compared with all of its connections yet. ``settled``: its
    clients have been notified, so dead connections may leave the list."""

    def __init__(self, address: str, ledger: TickleList) -> None:
        self.address = address
        self.packed = route.packed(address)
        self.ledger = ledger
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
        self.costs = Costs()
        self._lists = lists
        self._claim = claim
        self._run = run
        self._say = say
        self._census = Census(inet_diag.open_socket())
        self._pages: dict[str, Page] = {}
        self._lock = asyncio.Lock()
        self._apart = False

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._census.close()

    def __contains__(self, address: str) -> bool:
        return address in self._pages

    def __len__(self) -> int:
        return len(self._pages)

    async def open(self, address: str, buckets: Mapping[int, Iterable[bytes]]) -> None:
        """``address`` is here; its list in the store has ``buckets``."""
        self._pages[address] = Page(address, await self._run(TickleList, buckets))

    def settle(self, address: str) -> None:
        """The clients on the list of ``address`` have been notified: dead connections may leave it from now on."""
        if address in self._pages:
            self._pages[address].settled = True

    def shut(self, address: str) -> Page | None:
        """``address`` has left; its list stays in the store. Returns its page, for :meth:`finish`."""
        return self._pages.pop(address, None)

    async def live(self, address: str) -> set[bytes] | None:
        """The connections of ``address`` as of the last pass; None when it is not here or its clients are still being
        notified."""
        page = self._pages.get(address)
        if page is None or not page.settled:
            return None
        async with self._lock:
            live: set[bytes] = await self._run(page.ledger.live)
            return live

    async def look(self, ports: Collection[int]) -> None:
        """One pass: scan the kernel, write the changes."""
        async with self._lock:
            pages = list(self._pages.values())
            # Read now: the result belongs to this holding of the address, and must not be written in a later one.
            claims = {page.address: self._claim(page.address) for page in pages}
            try:
                changed: list[tuple[Page, tuple[Change, ...]]] = await self._run(self._survey, pages, ports)
            except LocumError as error:
                self._say("kernel", f"connections cannot be listed: {error}")
                return
            self._say("kernel", "")
            await self._write(
                [(page.ledger, Write(page.address, claims[page.address], changes)) for page, changes in changed]
            )

    async def finish(self, address: str, page: Page | None, entries: Collection[bytes]) -> None:
        """Write the last list of an address that leaves: ``entries`` are cut now, and the next holder notifies them.

        ``page`` comes from :meth:`shut`; it is None when the list was not read yet, and is read now.
        """
        claim = self._claim(address)
        try:
            ledger = page.ledger if page is not None else TickleList((await self._lists.read(address)).buckets)
        except StoreError as error:
            self._say("store", f"connections cannot be recorded: {error}")
            return
        async with self._lock:
            await self._run(ledger.update, entries, (), boottime())
            await self._write([(ledger, Write(address, claim, tuple(ledger.writes())))])

    def _survey(self, pages: Collection[Page], ports: Collection[int]) -> list[tuple[Page, tuple[Change, ...]]]:
        """On the thread: the changes to write for each address."""
        started = time.thread_time()
        now = boottime()
        come, gone = self._census.take(ports)
        everything = self._census.all() if any(page.fresh for page in pages) else None
        changed = []
        for page in pages:
            if page.fresh and everything is not None:
                page.ledger.replace(everything.of(page.packed), now)
                page.fresh = False
            else:
                page.ledger.update(come.of(page.packed), gone.of(page.packed), now)
            if page.settled:
                page.ledger.tidy(now)
            if page.ledger.pending:
                changed.append((page, tuple(page.ledger.writes())))
        self.costs.last = time.thread_time() - started
        self.costs.cpu += self.costs.last
        self.costs.passes += 1
        return changed

    async def _write(self, changed: Iterable[tuple[TickleList, Write]]) -> None:
        """Write, holding the lock. Changes that are not written stay pending."""
        due = [(ledger, write) for ledger, write in changed if write.claim and write.changes]
        if not due:
            return
        ledgers = {write.address: ledger for ledger, write in due}
        try:
            accepted = await self._lists.write(
                [write for _, write in due],
                lambda address, numbers: ledgers[address].written(numbers),
                apart=self._apart,
            )
        except StoreError as error:
            self._say("store", f"connections cannot be recorded: {error}")
            return
        # One changed claim must not hold back the other addresses.
        self._apart = not accepted
        self._say("store", "")
