"""The agent's gate, seen from the event loop: armed and opened with the beats, changed with takes and releases.

Rules of this file: it orders the calls and reports failures, once each. The work itself, with its repair, happens on
the gate's thread (:mod:`locum.node.gate_work`). Without nftables there is no gate: nothing can be muted, and everything
that asks to be let through is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from locum import tasks
from locum.clock import Clock
from locum.errors import LocumError
from locum.machine.gate.gate import ArmedSlot
from locum.node.gate_work import GateWork
from locum.node.ports import CallsPort, GatePort


def _ignore(_problem: str) -> None:
    """No callback is set yet."""


class GateControl:
    """The gate of one node; ``gate`` is None without nftables."""

    def __init__(
        self, gate: GatePort | None, *, clock: Clock, calls: CallsPort, log: Callable[[str, str], None]
    ) -> None:
        self._work = GateWork(gate, clock) if gate is not None else None
        self._calls = calls
        self._log = log
        self._armed: dict[int, ArmedSlot] = {}
        self._problem = ""
        self._background = tasks.Group("changing the kernel's gate")
        #: Called when the gate could not be armed, opened or put back (with the reason), and ("") when it works again.
        self.on_problem: Callable[[str], None] = _ignore

    @property
    def present(self) -> bool:
        """Whether this node has a gate."""
        return self._work is not None

    @property
    def gone(self) -> str:
        """Why the gate could not be put back, so that no address may be configured; "" otherwise."""
        return self._work.gone if self._work is not None else ""

    async def arm(self, slot: int, hold: float) -> None:
        """Start the kernel's timer of ``slot`` for ``hold`` seconds; the slot opens only when it is confirmed.

        The timer counts from a moment after this call began, and runs when it returns.
        """
        if self._work is not None:
            self._armed.pop(slot, None)
            try:
                self._armed[slot] = await self._calls.on_gate("arming the gate", self._work.arm, slot, hold)
            except LocumError as error:
                # The beat is sent: other nodes must know that this one is alive. It cannot be confirmed, so the gate
                # keeps its state and closes when its timer ends; soon the node reports that it cannot serve.
                self._fails(f"the kernel's gate cannot be armed: {error}")

    def open(self, slot: int) -> None:
        """The beat of ``slot`` was accepted: let addresses through until its timer ends. Does not wait for the gate."""
        armed = self._armed.pop(slot, None)
        if self._work is not None and armed is not None:
            opening = self._calls.start(self._calls.gate, "opening the gate", self._work.confirm, armed)
            self._background.start(self._opened(opening))

    async def _opened(self, opening: asyncio.Future[bool]) -> None:
        try:
            await opening
            self._works()
        except LocumError as error:
            self._fails(f"the kernel's gate cannot be opened: {error}")

    def _fails(self, problem: str) -> None:
        if problem != self._problem:
            self._log(problem, "error")
        self._problem = problem
        self.on_problem(problem)

    def _works(self) -> None:
        if self._problem:
            self._log("the kernel's gate works again", "info")
            self._problem = ""
            self.on_problem("")

    async def judge(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        """Make the gate judge these addresses on these interfaces, and no others. Raises LocumError."""
        if self._work is not None:
            await self._calls.on_gate("changing the addresses of the gate", self._work.judge, public, interfaces)

    async def restore(self) -> bool:
        """Restore rules that another program removed or changed, shut until the next beat is confirmed.

        False when that failed: then nothing enforces this node's hold.
        """
        if self._work is not None:
            self._armed.clear()
            try:
                await self._calls.on_gate("putting the gate back", self._work.restore)
            except LocumError as error:
                self._fails(f"the kernel's gate cannot be put back: {error}; removing all public addresses")
                return False
        return True

    def drop(self) -> None:
        """The hold has ended: shut the gate and mute all addresses. Does not wait for the gate."""
        self._armed.clear()
        if self._work is not None:
            dropping = self._calls.start(self._calls.gate, "shutting the gate", self._work.drop)
            self._background.start(self._dropped(dropping))

    async def _dropped(self, dropping: asyncio.Future[list[str]]) -> None:
        try:
            for problem in await dropping:
                self._log(problem, "error")
        except LocumError as error:
            self._log(str(error), "error")

    async def mute(self, address: str) -> bool:
        """Mute ``address``; returns whether the gate does so now."""
        return self._work is not None and await self._change(f"muting {address}", self._work.deny, address)

    async def let_through(self, address: str) -> bool:
        """Let ``address`` through the gate, if there is one; returns whether it lets it through now."""
        return self._work is None or await self._change(
            f"letting {address} through the gate", self._work.allow, address
        )

    async def _change(self, what: str, change: Callable[[str], object], address: str) -> bool:
        """Whether ``change`` was carried out."""
        try:
            await self._calls.on_gate(what, change, address)
        except LocumError as error:
            self._log(f"the kernel's gate cannot be changed: {error}", "error")
            return False
        return True

    async def done(self, limit: float) -> None:
        """Wait until all requests to the gate are done: another program may hold nftables' lock.
        Raises NoAnswer after ``limit`` seconds."""
        await self._calls.gate.run("waiting for the gate", limit, lambda: None)

    def close(self) -> None:
        """End what runs in the background."""
        self._background.close()
