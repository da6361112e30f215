"""Other public addresses while the node runs: the order in which gate, settings, rules and guard learn of them.

The order is stated only here. This file reads no configuration, and reaches the machine only through
:mod:`locum.node.ports`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from locum import tasks
from locum.errors import LocumError
from locum.node.driver import Driver
from locum.rules.identity import Identity


class JudgingGate(Protocol):
    """The part of :class:`locum.node.gate_control.GateControl` that this procedure needs."""

    async def judge(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        """See :meth:`locum.node.gate_control.GateControl.judge`."""
        ...


class Reconfiguration:
    """The public addresses of one node, and the changes of them.

    ``configured``: the addresses that this agent has configured, as they are at any time.
    ``public``, ``interfaces``: those of the configuration in force. ``leaving``: addresses that the configuration no
    longer has and that are still here: until its release (:meth:`gone`) such an address is held, and therefore judged
    by the gate. ``tell_guard``: make the guard read the configuration again.
    """

    def __init__(
        self,
        driver: Driver,
        gate: JudgingGate,
        configured: Iterable[str],
        public: Iterable[str],
        interfaces: Iterable[str],
        leaving: Iterable[str],
        tell_guard: Callable[[], None],
        log: Callable[[str, str], None],
    ) -> None:
        self._driver = driver
        self._gate = gate
        self._configured = configured
        self._public = list(public)
        self._interfaces = list(interfaces)
        self._leaving = set(leaving)
        # Those that the gate knows: interfaces of addresses that leave are among them.
        self._covered = list(interfaces)
        self._tell_guard = tell_guard
        self._log = log
        #: One change at a time: whoever reads a configuration and applies it holds this meanwhile.
        self.one = asyncio.Lock()
        #: Called when addresses were added: another program may have configured one here before the rules knew it.
        self.on_added: Callable[[], None] = lambda: None
        #: Work under way after an address has left.
        self.under_way: set[asyncio.Task[None]] = set()

    async def apply(
        self, public: Sequence[str], interfaces: Sequence[str], put_in_force: Callable[[], Identity]
    ) -> None:
        """Make ``public`` on ``interfaces`` the node's addresses.

        ``put_in_force`` makes the new settings those in force for all but the rules, and returns the node's identity
        for these. Raises LocumError when the gate cannot judge the new addresses; then nothing has changed.
        """
        removed, added = set(self._public).difference(public), set(public).difference(self._public)
        before = self._leaving
        # Before the rules know the new settings they may begin to take a removed address: it is judged as well.
        self._leaving = {*before, *removed, *self._present()}.difference(public)
        try:
            await self._judge(public, interfaces)
        except LocumError:
            self._leaving = before
            raise
        self._public, self._interfaces = list(public), list(interfaces)
        self._driver.feed(self._driver.node.configure, put_in_force())
        # The guard removes public addresses when the agent cannot: it must know the new ones as well.
        self._tell_guard()
        if added:
            self.on_added()
        absent = removed.difference(self._present())
        if absent:
            self._leaving -= absent
            await self._judge_and_log()

    def gone(self, address: str) -> None:
        """``address`` has left this machine."""
        if address in self._leaving:
            self._leaving.discard(address)
            task = tasks.start(self._judge_and_log(), "changing the addresses of the gate")
            self.under_way.add(task)
            task.add_done_callback(self.under_way.discard)

    def _present(self) -> set[str]:
        """Addresses that are here, or that are being taken."""
        return {*self._configured, *self._driver.node.status().unsure}

    async def _judge_and_log(self) -> None:
        try:
            await self._judge(self._public, self._interfaces)
        except LocumError as error:
            self._log(str(error), "error")

    async def _judge(self, public: Sequence[str], interfaces: Sequence[str]) -> None:
        """Make the gate judge ``public`` and the addresses that are still here. Raises LocumError."""
        self._covered = sorted({*interfaces, *self._covered}) if self._leaving else list(interfaces)
        await self._gate.judge([*public, *sorted(self._leaving)], self._covered)
