"""Detect that another program changed nftables: a firewall reload may have removed the gate's tables.

This file looks and reports; the caller decides to restore (:meth:`locum.machine.gate.gate.Gate.restore`).

Listening for deletions of the gate's tables would not be simpler: the kernel packs several messages into one, and most
come from the gate's own transactions, several a second. After every transaction the kernel sends one
``NFT_MSG_NEWGEN`` message with the netlink port of the program; a socket filter passes only those of other programs.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Container

from locum import tasks
from locum.errors import LocumError
from locum.machine.netlink import core, filters, nftables
from locum.machine.netlink.subscription import Subscription

#: Seconds between two looks at the tables while other programs change nftables continuously.
_INTERVAL = 0.05
#: How many changes of other programs are remembered, and how many programs are named at once.
_REMEMBERED, _NAMED = 32, 3
#: The prefix of names of a node's processes and their threads: the guard waits for nftables' lock as well.
_OWN_NAME = "locum-"


class GateWatch:
    """Calls ``on_damage(problems)`` when the kernel's tables are no longer as their owner left them.

    ``ignored_ports``: the netlink ports of the owner's own transactions, and of others that must never touch its
    tables, since nothing would notice it. ``verify`` looks at the tables: what is wrong with them, one line each. The
    first look comes at once. ``loaders``: processes of this node that load rules, under any name.
    """

    def __init__(
        self,
        ignored_ports: Collection[int],
        on_damage: Callable[[tuple[str, ...]], None],
        verify: Callable[[], Awaitable[tuple[str, ...]]],
        loaders: Container[int] = (),
    ) -> None:
        self._ignored_ports = ignored_ports
        self._loaders = loaders
        self._on_damage = on_damage
        self._verify = verify
        self._looking: asyncio.Task[None] | None = None
        self._others: deque[tuple[float, str]] = deque(maxlen=_REMEMBERED)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: Subscription | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._dirty = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, in the present network namespace, which must be the gate's. Raises NetlinkError."""
        self._news = Subscription(
            loop,
            nftables.NETLINK_NETFILTER,
            (nftables.NFNLGRP_NFTABLES,),
            self._readable,
            "cannot watch nftables",
            filters.type_from_others(nftables.NEWGEN_TYPE, self._ignored_ports),
        )
        self._loop = loop

    def close(self) -> None:
        """Stop. Idempotent."""
        if self._news is not None:
            self._news.close()
        if self._next_look is not None:
            self._next_look.cancel()
        if self._looking is not None:
            self._looking.cancel()
        self._news = self._loop = self._next_look = None

    def other(self, since: float) -> str:
        """The programs of others that changed nftables since then (monotonic clock), the latest first:
        ``nft (process 123) or iptables-nft (process 124)``. "" when there are none."""
        found = dict.fromkeys(text for changed, text in reversed(self._others) if changed >= since)
        return " or ".join(list(found)[:_NAMED])

    def _readable(self) -> None:
        assert self._news is not None
        for data in self._news.news():
            self._dirty = True
            for message in core.messages(data or b""):
                found = nftables.parse_generation(message.payload)
                if found.name and not found.name.startswith(_OWN_NAME) and found.pid not in self._loaders:
                    self._others.append((time.monotonic(), f"{found.name} (process {found.pid})"))
        if self._dirty and self._next_look is None:
            self._look()

    def _look(self) -> None:
        self._next_look = None
        if not self._dirty or self._loop is None:
            return
        if self._looking is None or self._looking.done():
            self._dirty = False
            self._looking = tasks.start(self._examine(), "looking at the gate")
        self._next_look = self._loop.call_later(_INTERVAL, self._look)

    async def _examine(self) -> None:
        try:
            problems = await self._verify()
        except LocumError as problem:
            problems = (str(problem),)
        if problems:
            self._on_damage(problems)
