"""News that somebody else changed nftables: a firewall reload may have taken the gate's tables along.

Rules of this file: it looks and tells; restoring is the caller's decision (:meth:`locum.addresses.gate.Gate.restore`).

Listening for deletions of our tables would be no simpler: the kernel packs several messages into one, and the gate's
own transactions, several a second, make most of them. After every transaction there is one message of its own
(``NFT_MSG_NEWGEN``) that carries the netlink port of who made it; a socket filter lets only those of others through.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from locum.errors import LocumError
from locum.netlink import filters, nftables
from locum.netlink.subscription import Subscription

if TYPE_CHECKING:
    import asyncio

#: Seconds between two looks at the tables when others change nftables all the time.
_INTERVAL = 0.05


class Watched(Protocol):
    """Tables that can be looked at; a :class:`locum.addresses.gate.Gate` is one."""

    @property
    def port(self) -> int:
        """The netlink port of own transactions, which are no news."""
        ...

    def verify(self) -> tuple[str, ...]:
        """What is wrong with the tables, one line each."""
        ...


class GateWatch:
    """Calls ``on_damage(problems)`` when the tables of ``gate`` are no longer as it left them.

    ``problems`` is one line each, as ``verify`` returns. The first look comes at once.
    """

    def __init__(self, gate: Watched, on_damage: Callable[[tuple[str, ...]], None]) -> None:
        self._gate = gate
        self._on_damage = on_damage
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news: Subscription | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._dirty = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin, in the present network namespace, which is to be the gate's. Raises NetlinkError."""
        self._news = Subscription(
            loop,
            nftables.NETLINK_NETFILTER,
            (nftables.NFNLGRP_NFTABLES,),
            self._readable,
            "cannot watch nftables",
            filters.type_from_others(nftables.NEWGEN_TYPE, self._gate.port),
        )
        self._loop = loop

    def close(self) -> None:
        """Stop. Idempotent."""
        if self._news is not None:
            self._news.close()
        if self._next_look is not None:
            self._next_look.cancel()
        self._news = self._loop = self._next_look = None

    def _readable(self) -> None:
        assert self._news is not None
        for _ in self._news.news():
            self._dirty = True
        if self._dirty and self._next_look is None:
            self._look()

    def _look(self) -> None:
        self._next_look = None
        if not self._dirty or self._loop is None:
            return
        self._dirty = False
        self._next_look = self._loop.call_later(_INTERVAL, self._look)
        try:
            problems = self._gate.verify()
        except LocumError as problem:
            problems = (str(problem),)
        if problems:
            self._on_damage(problems)
