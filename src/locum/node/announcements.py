"""Announcing addresses: at once, several times more in case of loss, and never after the hold has ended.

Rules of this file: it knows how often and when. What an announcement consists of is the subject of
:mod:`locum.machine.announce`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container

from locum import tasks
from locum.clock import Clock
from locum.config.tunables import Tunables
from locum.errors import LocumError
from locum.node.ports import AnnouncePort, CallsPort, HoldPagePort


class Announcements:
    """The announcements of one node. ``configured``: the addresses that it has configured, as they are at any time."""

    def __init__(
        self,
        *,
        clock: Clock,
        page: HoldPagePort,
        announcer: AnnouncePort,
        calls: CallsPort,
        configured: Container[str],
        tunables: Callable[[], Tunables],
        log: Callable[[str, str], None],
    ) -> None:
        self._clock = clock
        self._page = page
        self._announcer = announcer
        self._calls = calls
        self._configured = configured
        self._tunables = tunables
        self._log = log
        self._repeating: dict[str, asyncio.Task[None]] = {}
        self._background = tasks.Group("announcing an address")
        #: Address → why its latest announcement could not be sent. The audit reports it (node/auditor.py).
        self.unannounced: dict[str, str] = {}

    def begin(self, interface: str, address: str) -> None:
        """Announce now, and several times more in case of loss (AnnounceCount, AnnounceInterval)."""
        self._end_repeating(address)
        self.once(interface, address)
        if self._tunables().announce_count > 1:
            self._repeating[address] = tasks.start(self._repeat(interface, address), f"announcing {address}")

    async def _repeat(self, interface: str, address: str) -> None:
        for _ in range(self._tunables().announce_count - 1):
            await asyncio.sleep(self._tunables().announce_interval)
            self.once(interface, address)
        self._repeating.pop(address, None)

    def once(self, interface: str, address: str) -> None:
        """Announce now."""
        if self._clock.boot() < self._page.deadline:
            calls, what = self._calls, f"announcing {address}"
            announcing = calls.start(calls.addresses, what, self._announce_now, interface, address)
            self._background.start(self._told(interface, address, announcing))

    def _announce_now(self, interface: str, address: str) -> bool:
        """On the thread; also True when the hold ended before the kernel came to it."""
        return self._clock.boot() >= self._page.deadline or self._announcer.announce(interface, address)

    async def _told(self, interface: str, address: str, announcing: asyncio.Future[bool]) -> None:
        problem = ""
        try:
            if not await announcing:
                problem = "it was not sent"
        except LocumError as error:
            problem = str(error)
            self._log(f"cannot announce {address} on {interface}: {error}", "warning")
        if problem and address in self._configured:
            self.unannounced[address] = problem
        else:
            self.unannounced.pop(address, None)

    def stop(self, address: str) -> None:
        """``address`` leaves: announce it no longer."""
        self._end_repeating(address)
        self.unannounced.pop(address, None)

    def _end_repeating(self, address: str) -> None:
        task = self._repeating.pop(address, None)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Stop announcing."""
        for task in self._repeating.values():
            task.cancel()
        self._repeating.clear()
        self._background.close()
