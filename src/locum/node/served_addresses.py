"""The addresses that this agent has configured in the kernel, and their lifetimes.

Rules of this file: nothing is configured or renewed after the hold has ended, and every call looks at the clock once
more on the thread, when the kernel comes to it. Scripts and the order of a take or a release are the subject of
:mod:`locum.node.steps`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

from locum import tasks
from locum.clock import Clock
from locum.errors import HoldEnded, LocumError
from locum.machine.addresses import Item
from locum.node.gate_control import GateControl
from locum.node.ports import CallsPort, HoldPagePort, TablePort

P = ParamSpec("P")
T = TypeVar("T")

#: Renewing lifetimes at every beat would be wasteful; this interval suffices, in seconds.
RENEW_INTERVAL = 0.5


def _ignore(*_: object) -> None:
    """No callback is set yet."""


class ServedAddresses:
    """The addresses of one node in its kernel. ``lifetime``: in whole seconds."""

    def __init__(
        self,
        *,
        clock: Clock,
        page: HoldPagePort,
        table: TablePort,
        gate: GateControl,
        lifetime: int,
        calls: CallsPort,
        log: Callable[[str, str], None],
    ) -> None:
        self._clock = clock
        self._page = page
        self._table = table
        self._gate = gate
        self.lifetime = lifetime
        self._calls = calls
        self._log = log
        #: Address → (bits, interface) of the addresses that this agent has configured.
        self.configured: dict[str, tuple[int, str]] = {}
        #: Those whose take is complete. Renewing an address during its release would configure it again.
        self.held: dict[str, tuple[int, str]] = {}
        #: (address, interface) that this agent removes and configures again: its removal is not an event.
        self.expected_removals: set[tuple[str, str]] = set()
        self._renewed = 0.0
        self._renewing = False
        self._background = tasks.Group("changing public addresses")
        #: Called with every address that has left this machine.
        self.on_gone: Callable[[str], None] = _ignore
        #: Called with address, interface and reason when the kernel refuses to renew a lifetime.
        self.on_renewal_failed: Callable[[str, str, str], None] = _ignore

    def is_held(self, address: str, interface: str) -> bool:
        """Whether ``address`` was taken completely, is on ``interface``, and does not leave."""
        present = self.held.get(address)
        return present is not None and present[1] == interface

    # -- lifetimes -------------------------------------------------------------------------------------------

    def renew_all(self, deadline: float) -> None:
        """The hold lasts until ``deadline``: renew lifetimes at intervals; each time where only they enforce it."""
        now = self._clock.boot()
        soon = self._gate.present and now - self._renewed < RENEW_INTERVAL
        if not self.held or soon or self._renewing or now >= deadline:
            return
        self._renewed = now
        self._renewing = True
        items = [(address, bits, name) for address, (bits, name) in self.held.items()]
        self._background.start(self._told_renewal(self._start("renewing lifetimes", self._renew_now, items, deadline)))

    def _renew_now(self, items: list[Item], deadline: float) -> tuple[tuple[Item, LocumError], ...]:
        """On the thread. A hold that ended before the kernel came to this must not be prolonged."""
        return self._table.renew(items, self.lifetime) if self._clock.boot() < deadline else ()

    async def _told_renewal(self, renewal: asyncio.Future[tuple[tuple[Item, LocumError], ...]]) -> None:
        try:
            for (address, _, name), problem in await renewal:
                self._log(f"cannot renew {address} on {name}: {problem}", "warning")
                self.on_renewal_failed(address, name, str(problem))
        except LocumError as error:
            self._log(f"cannot renew the lifetimes of public addresses: {error}", "warning")
        finally:
            self._renewing = False

    # -- configuring -----------------------------------------------------------------------------------------

    async def ensure(self, address: str, bits: int, interface: str) -> str:
        """Configure it, or renew it if it is there; the problem, "" when it is present."""
        if self._clock.boot() >= self._page.deadline:
            return str(HoldEnded())
        if self._gate.gone:
            return f"the kernel's gate: {self._gate.gone}"
        try:
            added = await self._start(f"configuring {address}", self._add_now, address, bits, interface)
        except LocumError as error:
            return str(error)
        # A drop that came after the kernel's answer has the address removed again.
        return "" if added and self._clock.boot() < self._page.deadline else str(HoldEnded())

    def _add_now(self, address: str, bits: int, interface: str) -> bool:
        """On the thread: configure it; False when the hold has ended before the kernel came to it."""
        if self._clock.boot() >= self._page.deadline:
            return False
        self._table.add(address, bits, interface, self.lifetime)
        return True

    async def renew(self, address: str) -> None:
        """Configure a held address again unchanged, with the settings of its interface."""
        bits, interface = self.held[address]
        await self.ensure(address, bits, interface)

    async def replace(self, address: str) -> str:
        """Remove a held address and configure it again; the problem, "" when it is present."""
        bits, interface = self.held[address]
        self.expected_removals.add((address, interface))
        try:
            done = await self._start(f"replacing {address}", self._replace_now, address, bits, interface)
        except LocumError as error:
            return str(error)
        return "" if done else str(HoldEnded())

    def _replace_now(self, address: str, bits: int, interface: str) -> bool:
        """On the thread; False when the hold has ended before the kernel came to it."""
        if self._clock.boot() >= self._page.deadline:
            return False
        self._table.remove(address, bits, interface)
        return self._add_now(address, bits, interface)

    async def put_last(self, addresses: Iterable[str]) -> str:
        """Put held addresses of one interface after its own ones; the problem, or ""."""
        items = [(address, *self.held[address]) for address in addresses]
        self.expected_removals |= {(address, interface) for address, _, interface in items}
        try:
            if items:
                await self._start("putting public addresses last", self._put_last_now, items)
        except LocumError as error:
            return str(error)
        return ""

    def _put_last_now(self, items: list[Item]) -> None:
        """On the thread."""
        if self._clock.boot() < self._page.deadline:
            self._table.put_last(items, self.lifetime)

    # -- removing --------------------------------------------------------------------------------------------

    def forget(self, address: str) -> None:
        """It leaves: renew it no longer."""
        self.configured.pop(address, None)
        self.held.pop(address, None)

    def remove_all(self, items: list[Item]) -> None:
        """Remove addresses that were forgotten. Does not wait for the kernel."""
        self._background.start(self._told_removal(self._start("removing addresses", self._remove_now, items), items))

    async def remove(self, address: str, bits: int, interface: str) -> str:
        """Remove an address that was forgotten; the problem, "" when it is gone."""
        items = [(address, bits, interface)]
        (problem,) = await self._told_removal(self._start(f"removing {address}", self._remove_now, items), items)
        return problem

    async def _told_removal(self, removal: asyncio.Future[list[str]], items: list[Item]) -> list[str]:
        """The problem of each address, "" when it is gone."""
        try:
            problems = await removal
        except LocumError as error:
            problems = [str(error)] * len(items)
        for (address, _, interface), problem in zip(items, problems, strict=True):
            if problem:
                self._log(f"cannot remove {address} from {interface}: {problem}", "error")
            else:
                self.on_gone(address)
        return problems

    def _remove_now(self, items: list[Item]) -> list[str]:
        """On the thread: remove; the problem of each, "" when it is gone."""
        problems = []
        for item in items:
            try:
                self._table.remove(*item)
                problems.append("")
            except LocumError as error:
                problems.append(str(error))
        return problems

    async def take_off(self, address: str, bits: int, interface: str) -> None:
        """Remove it from ``interface``; this node continues to serve it on another one, or will."""
        try:
            await self._start(f"removing {address}", self._table.remove, address, bits, interface)
        except LocumError as error:
            self._log(f"cannot remove {address} from {interface}: {error}", "error")

    def _start(self, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> asyncio.Future[T]:
        return self._calls.start(self._calls.addresses, what, function, *arguments, **named)

    def close(self) -> None:
        """End what runs in the background."""
        self._background.close()
