"""The agent's reaction to kernel events: links, addresses, damage to the gate.

A public address that is configured here without being ours (left by a killed daemon, added by hand) is removed at once,
or after the activity that may be responsible for it; an address of ours that another program removed is configured
again. This file reaches the machine only through
:mod:`locum.node.ports`; :mod:`locum.node.kernel_watch` listens to the kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from locum import tasks
from locum.errors import LocumError
from locum.machine.kernel_monitor import AddressAdded, AddressRemoved, LinkChanged
from locum.node.driver import Driver
from locum.node.ports import CallsPort, LinksPort, TablePort
from locum.node.steps import Steps


class KernelNews:
    """Turns kernel events into inputs of the rules, and removes public addresses that must not be here."""

    def __init__(
        self,
        driver: Driver,
        steps: Steps,
        calls: CallsPort,
        table: TablePort,
        links: LinksPort,
        log: Callable[[str, str], None],
    ) -> None:
        self._driver = driver
        self._steps = steps
        self._calls = calls
        self._table = table
        self._links = links
        self._log = log
        #: What follows from news, and from what :class:`locum.node.kernel_watch.KernelWatch` hears.
        self.background = tasks.Group("following the kernel's news")
        self._links_look, self._address_look = Look(self._read_links), Look(self._compare)
        # Whether an address was left alone because the activity under way may have put it there.
        self._postponed = False
        driver.on_activity_ended = self._activity_ended
        #: Called when links, or addresses that are not public, have changed.
        self.on_change: Callable[[], None] = lambda: None

    def look(self) -> None:
        """Examine everything: at the start, and after kernel messages were lost."""
        self._links_look.wanted()
        self.compare()

    def compare(self) -> None:
        """Compare the kernel's addresses with those that are served."""
        self._address_look.wanted()

    def close(self) -> None:
        """Stop all work. Idempotent."""
        for look in (self._links_look, self._address_look):
            look.close()
        self.background.close()

    def heard(self, event: LinkChanged | AddressRemoved | AddressAdded) -> None:
        """Handle an event of the kernel."""
        match event:
            case LinkChanged():
                self._links_look.wanted()
                self.on_change()
            case AddressRemoved(address=address, interface=interface):
                if (address, interface) in self._steps.addresses.expected_removals:
                    self._steps.addresses.expected_removals.discard((address, interface))
                    return
                self._driver.feed(self._driver.node.address_removed, address, interface)
                self._others_changed(address)
            case AddressAdded(address=address, bits=bits, interface=interface):
                self._steps.appeared(address, interface)
                self._check(address, bits, interface)
                self._others_changed(address)

    def gate_damaged(self, problems: tuple[str, ...]) -> None:
        """Another program changed the gate's rules, most likely by reloading a firewall."""
        self._log(f"{'; '.join(problems)}: restoring them", "warning")
        self.background.start(self._restore_gate(problems))

    def _others_changed(self, address: str) -> None:
        if address not in self._driver.node.hosted:
            self.on_change()

    async def _read_links(self) -> None:
        try:
            found = await self._calls.on_addresses("listing interfaces", self._links.list)
        except LocumError as error:
            self._log(str(error), "error")
            return
        self._driver.feed(self._driver.node.links_changed, {name: state.up for name, state in found.items()})

    async def _compare(self) -> None:
        """Compare configured addresses with the wanted ones."""
        present = set()
        try:
            listed = await self._calls.on_addresses("listing addresses", self._table.list)
        except LocumError as error:
            self._log(str(error), "error")
            return
        for found in listed:
            present.add((found.address, found.interface))
            self._check(found.address, found.bits, found.interface)
        for address, (_, interface) in list(self._steps.addresses.configured.items()):
            if (address, interface) not in present:
                self._driver.feed(self._driver.node.address_removed, address, interface)

    def _check(self, address: str, bits: int, interface: str) -> None:
        """Remove a public address that this node does not serve, or not on this interface."""
        node, configured = self._driver.node, self._steps.addresses.configured.get(address)
        if address not in node.hosted:
            return
        if configured is not None and configured[1] == interface:
            return
        if configured is not None and node.activity is not None:
            # An address that changes its interface is on two of them for a moment.
            self._postponed = True
            return
        self._log(f"{address} was found on {interface} and is not served there: removing it", "warning")
        self.background.start(self._remove(address, bits, interface))

    def _activity_ended(self) -> None:
        if self._postponed:
            self._postponed = False
            self.compare()

    async def _remove(self, address: str, bits: int, interface: str) -> None:
        try:
            await self._calls.on_addresses(f"removing {address}", self._remove_now, address, bits, interface)
        except LocumError as error:
            self._log(f"cannot remove {address} from {interface}: {error}", "error")

    def _remove_now(self, address: str, bits: int, interface: str) -> None:
        """On the thread. The address may have become ours while the kernel was slow."""
        configured = self._steps.addresses.configured.get(address)
        if configured is None or configured[1] != interface:
            self._table.remove(address, bits, interface)

    async def _restore_gate(self, problems: tuple[str, ...]) -> None:
        await self._steps.restore_gate()
        # The gate is shut now; the next accepted beat opens it.
        self._driver.feed(self._driver.node.beat_now)
        if any("is gone" in problem for problem in problems):
            # The program that removed the gate's tables also removed those of scripts.
            self._driver.feed(self._driver.node.scripts_forget, tuple(self._steps.addresses.configured))


class Look:
    """An examination that takes time: one runs at a time; one more follows if it was requested meanwhile."""

    def __init__(self, look: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._look = look
        self._wanted = False
        self._task: asyncio.Task[None] | None = None

    def wanted(self) -> None:
        """Request an examination."""
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = tasks.start(self._work(), "looking at the kernel")

    async def _work(self) -> None:
        while self._wanted:
            self._wanted = False
            await self._look()

    def close(self) -> None:
        """Cancel the current examination."""
        if self._task is not None:
            self._task.cancel()
