"""The kernel's events about links and addresses.

Each event is reported once. This file does not know which addresses are public.

The kernel reports a lost carrier at once, unless another link changed within the last second: then up to a second later
(``net/core/link_watch.c``; virtual and bonded interfaces are exempt). :class:`locum.machine.links.Links` has no delay.

Renewing an address's lifetime makes the kernel send the same message as adding it, several hundred times a second on
a busy node. So known addresses are indexed by the part of the message that stays the same: a renewal costs one
dictionary lookup and makes no event.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from locum.machine.links import usable
from locum.machine.netlink import core, route
from locum.machine.netlink.core import NetlinkSocket
from locum.machine.netlink.route import AddressMessage, LinkMessage
from locum.machine.netlink.subscription import Subscription

if TYPE_CHECKING:
    import asyncio


class LinkChanged(msgspec.Struct, frozen=True):
    """An interface appeared, disappeared (``up`` is False then), or began or ceased to be able to carry traffic."""

    name: str
    up: bool


class AddressAdded(msgspec.Struct, frozen=True):
    """An address was configured, by any program."""

    address: str
    bits: int
    interface: str


class AddressRemoved(msgspec.Struct, frozen=True):
    """An address is gone: it was removed, or its lifetime ended."""

    address: str
    bits: int
    interface: str


class Resync(msgspec.Struct, frozen=True):
    """The kernel dropped events because its buffer was full: read everything anew."""


KernelEvent = LinkChanged | AddressAdded | AddressRemoved | Resync

#: (interface index, address, bits)
_Key = tuple[int, str, int]


#: How many messages are kept while the kernel lists links and addresses.
MOST_KEPT = 20_000


class Present(NamedTuple):
    """Links and addresses as the kernel lists them."""

    links: list[LinkMessage]
    addresses: list[AddressMessage]


class KernelMonitor:
    """Calls ``callback`` with each :data:`KernelEvent` of the network namespace in which it was started.

    At the start, and after a :class:`Resync`, it must learn which links and addresses exist: the caller calls
    :meth:`expect`, has :meth:`look` run where waiting is allowed, and gives its result to :meth:`learn`. Events in
    between are kept until then: the list may be older or newer than they are.
    """

    def __init__(self, callback: Callable[[KernelEvent], None]) -> None:
        self._callback = callback
        self._news: Subscription | None = None
        self._requests: NetlinkSocket | None = None
        self._links: dict[int, tuple[str, bool]] = {}
        self._addresses: dict[_Key, bytes] = {}
        self._seen: set[bytes] = set()
        # Type and payload of messages since the current look was requested; None without one.
        self._kept: list[tuple[int, bytes]] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin. Raises NetlinkError."""
        groups = (route.RTNLGRP_LINK, route.RTNLGRP_IPV4_IFADDR, route.RTNLGRP_IPV6_IFADDR)
        self._requests = route.open_socket()
        try:
            self._news = Subscription(
                loop, route.NETLINK_ROUTE, groups, self._readable, "cannot watch links and addresses"
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop. Idempotent."""
        for opened in (self._news, self._requests):
            if opened is not None:
                opened.close()
        self._news = self._requests = None

    def look(self) -> Present:
        """List links and addresses. Raises NetlinkError. One call at a time."""
        assert self._requests is not None
        return Present(route.links(self._requests), route.addresses(self._requests))

    def expect(self) -> None:
        """A look is about to begin: keep events until :meth:`learn`."""
        if self._kept is None:
            self._kept = []

    def learn(self, present: Present | None) -> None:
        """Learn the result of :meth:`look` without events (None: it failed); then handle the events kept since."""
        if present is not None:
            links, addresses = present
            self._links = {link.ifindex: (link.name, usable(link)) for link in links}
            self._addresses = {(a.ifindex, a.address, a.bits): b"" for a in addresses}
            self._seen = set()
        kept, self._kept = self._kept or (), None
        for kind, payload in kept:
            self._handle(kind, payload)

    def _readable(self) -> None:
        assert self._news is not None
        for data in self._news.news():
            if data is None:
                self._callback(Resync())
            else:
                for message in core.messages(data):
                    if self._kept is None:
                        self._handle(message.type, message.payload)
                    elif len(self._kept) < MOST_KEPT:
                        self._kept.append((message.type, bytes(message.payload)))
                    else:
                        # The kernel is very slow: list everything once more.
                        self._kept.clear()
                        self._callback(Resync())

    def _handle(self, kind: int, payload: bytes) -> None:
        if kind == route.RTM_NEWADDR:
            if payload[: _identity_size(payload)] not in self._seen:
                self._added(payload)
        elif kind == route.RTM_DELADDR:
            self._removed(payload)
        elif kind in (route.RTM_NEWLINK, route.RTM_DELLINK):
            self._link(payload, gone=kind == route.RTM_DELLINK)

    def _added(self, payload: bytes) -> None:
        found = route.parse_address(payload)
        if found is None:
            return
        key = (found.ifindex, found.address, found.bits)
        known = key in self._addresses
        identity = payload[: _identity_size(payload)]
        # Changed flags (a secondary that became the primary) change the identity of a known address.
        self._seen.discard(self._addresses.get(key, b""))
        self._seen.add(identity)
        self._addresses[key] = identity
        if not known:
            self._callback(AddressAdded(found.address, found.bits, self._name(found.ifindex)))

    def _removed(self, payload: bytes) -> None:
        found = route.parse_address(payload)
        if found is None:
            return
        identity = self._addresses.pop((found.ifindex, found.address, found.bits), None)
        if identity is not None:
            self._seen.discard(identity)
            self._callback(AddressRemoved(found.address, found.bits, self._name(found.ifindex)))

    def _link(self, payload: bytes, *, gone: bool) -> None:
        link = route.parse_link(payload)
        if link is None:
            return
        before = self._links.pop(link.ifindex, None)
        if gone:
            if before is not None:
                self._callback(LinkChanged(before[0], False))
            return
        now = (link.name, usable(link))
        self._links[link.ifindex] = now
        if before is not None and before[0] != link.name:
            self._callback(LinkChanged(before[0], False))
        if before != now:
            self._callback(LinkChanged(*now))

    def _name(self, index: int) -> str:
        known = self._links.get(index)
        return known[0] if known else f"#{index}"


def _identity_size(payload: bytes) -> int:
    """The length of the part of an address message that a renewal leaves unchanged: the header and the first
    attributes, the addresses (``inet_fill_ifaddr``, ``inet6_fill_ifaddr``). Lifetimes come later."""
    return 24 if payload[0] == socket.AF_INET else 28
