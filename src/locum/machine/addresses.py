"""The addresses that the kernel has configured: list, add, renew, remove.

Rules of this file: it acts on what it is told and knows nothing about holds, claims or why an address should be
there. Synchronous; an operation costs tens of microseconds.

IPv4 has primaries and secondaries: the second address of a subnet on an interface is a secondary of the first, and
when the first goes the kernel drops all its secondaries as well, unless ``promote_secondaries`` is set for the
interface or for ``all`` (the kernel takes either: ``IN_DEV_PROMOTE_SECONDARIES`` in ``include/linux/inetdevice.h``).
So the setting is made on every interface that gets a public address, also with a view to the kernel's own removal of
an address whose lifetime ends, and checked again before each removal.

IPv6 addresses are added without duplicate address detection, which would keep them mute for a second, and deprecated
(preferred lifetime 0), so that the node does not pick them as the source of connections of its own (RFC 6724,
rule 3) that would break when the address moves. They answer clients all the same.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

import msgspec

from locum.errors import LocumError, NetlinkError
from locum.machine.netlink import core, route
from locum.machine.netlink.core import NetlinkSocket, Request
from locum.machine.netlink.route import AddressMessage

#: (address, bits, interface)
Item = tuple[str, int, str]


class Address(msgspec.Struct, frozen=True):
    """An address as the kernel has it.

    ``valid`` is what is left of its lifetime in seconds (the kernel tells whole ones), None when ``permanent``.
    ``secondary`` is the IPv4 notion; always False for IPv6.
    """

    address: str
    bits: int
    interface: str
    permanent: bool = True
    valid: float | None = None
    secondary: bool = False


class AddressTable:
    """The kernel's address table of the network namespace in which the object was created."""

    def __init__(self) -> None:
        self._netlink: NetlinkSocket = route.open_socket()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._netlink.close()

    def list(self, interface: str | None = None) -> list[Address]:
        """All addresses of both families, of one interface if it is named (none if it does not exist)."""
        index = 0
        if interface is None:
            names = {link.ifindex: link.name for link in route.links(self._netlink)}
        else:
            try:
                index = route.link(self._netlink, interface).ifindex
            except NetlinkError:
                return []
            names = {index: interface}
        return [
            Address(
                address=found.address,
                bits=found.bits,
                interface=names[found.ifindex],
                permanent=found.valid is None,
                valid=None if found.valid is None else float(found.valid),
                secondary=_is_secondary(found),
            )
            for found in route.addresses(self._netlink, index)
            if found.ifindex in names  # else the interface came after the first list: the next call tells
        ]

    def add(self, address: str, bits: int, interface: str, lifetime: int | None = None) -> None:
        """Configure ``address``/``bits`` on ``interface`` for ``lifetime`` seconds (None: for good).

        When it is already there its lifetime is renewed; when it is there with other bits, that is corrected.
        Raises NetlinkError (ENODEV: no such interface), PermissionRequired, ValueError (not an address).
        """
        address = route.canonical(address)
        if lifetime is not None and not 0 < lifetime < route.FOREVER:
            raise ValueError(f"an address lifetime is a positive number of seconds, not {lifetime}")
        index = self._prepared(interface, address)
        family = route.family_of(address)
        present = [a for a in route.addresses(self._netlink, index, family) if a.address == address]
        new = _request(address, bits, index, lifetime)
        if ":" in address:
            # The kernel keeps one entry per address here, so a wrong one has to go first. One that is permanent has
            # to go as well when it shall have a lifetime: changing it would put that lifetime on the route to its
            # subnet, which the interface's own addresses use too (modify_prefix_route in net/ipv6/addrconf.c).
            obstacles = [a for a in present if a.bits != bits or _must_be_replaced(a, lifetime)]
            requests = [*_deletions(obstacles), new]
        else:
            # Two entries of one address with different bits live side by side, so it is never gone in between.
            requests = [new, *_deletions([a for a in present if a.bits != bits])]
        what = f"cannot configure {address}/{bits} on {interface!r}"
        for number, detail in self._netlink.request_many(requests):
            if number not in (0, errno.EADDRNOTAVAIL):
                raise core.error(number, what, detail)

    def renew(self, items: Iterable[Item], lifetime: int) -> tuple[tuple[Item, LocumError], ...]:
        """Set the lifetime of many addresses that :meth:`add` gave one, in one system call per 64.

        An address that is no longer there is added again: the kernel knows no request that only renews. Returns the
        items that failed, with the reason; the others are renewed all the same. Raises NetlinkError when the
        kernel's answers were lost.
        """
        wanted: list[Item] = []
        requests: list[Request] = []
        failed: list[tuple[Item, LocumError]] = []
        indexes: dict[str, int] = {}
        for item in items:
            address, bits, interface = item
            try:
                index = indexes.get(interface) or route.link(self._netlink, interface).ifindex
            except NetlinkError as problem:
                failed.append((item, problem))
                continue
            indexes[interface] = index
            wanted.append(item)
            requests.append(_request(address, bits, index, lifetime))
        for item, (number, detail) in zip(wanted, self._netlink.request_many(requests), strict=True):
            if number:
                failed.append((item, core.error(number, f"cannot renew {item[0]}/{item[1]} on {item[2]!r}", detail)))
        return tuple(failed)

    def put_last(self, items: Sequence[Item], lifetime: int) -> None:
        """Remove addresses of one interface and add them again at once, so that they come after all others of their
        subnets there: the kernel makes the next one the primary, from which the machine's own connections go out.

        In one request; connections do not notice. Routes that name one of them as their source are lost. Raises
        NetlinkError (some may be missing then), PermissionRequired.
        """
        interface = items[0][2]
        index = self._prepared(interface, items[0][0])
        requests = [route.delete_address(address, bits, index) for address, bits, _ in reversed(items)]
        requests += [_request(address, bits, index, lifetime) for address, bits, _ in items]
        for number, detail in self._netlink.request_many(requests):
            if number not in (0, errno.EADDRNOTAVAIL):
                raise core.error(number, f"cannot put public addresses of {interface!r} after its own", detail)

    def remove(self, address: str, bits: int, interface: str) -> bool:
        """Remove ``address`` from ``interface``, whatever its bits are there; False when it was not there.

        Its secondaries stay. Raises NetlinkError, PermissionRequired, ValueError (not an address).
        """
        address = route.canonical(address)
        before: list[AddressMessage] = []
        try:
            index = self._prepared(interface, address)
        except LocumError:
            try:
                index = route.link(self._netlink, interface).ifindex
            except NetlinkError:
                return False
            # The second line of defence needs to know what was there.
            before = route.addresses(self._netlink, index, route.family_of(address))
        what = f"cannot remove {address}/{bits} from {interface!r}"
        removed = self._delete([route.delete_address(address, bits, index)], what)
        if not removed:
            others = [
                a for a in route.addresses(self._netlink, index, route.family_of(address)) if a.address == address
            ]
            removed = self._delete(_deletions(others), what)
        if before:
            self._restore(before, address, index)
        return removed

    def _prepared(self, interface: str, address: str) -> int:
        """The index of ``interface``, after seeing to its ``promote_secondaries`` unless ``address`` is of IPv6.

        Raises NetlinkError (ENODEV, or EIO when the setting does not stick), PermissionRequired.
        """
        found = route.link(self._netlink, interface)
        if ":" not in address and not found.promote:
            route.set_promote_secondaries(self._netlink, found.ifindex, interface)
            if route.link(self._netlink, interface).promote is False:
                raise NetlinkError(f"promote_secondaries cannot be switched on for {interface!r}", errno.EIO)
        return found.ifindex

    def check_promote_secondaries(self, interface: str) -> bool:
        """Whether removing a primary address of ``interface`` leaves its secondaries: the interface's own setting,
        or the one of ``all`` (read from /proc/sys, so of the caller's namespace). Raises NetlinkError (ENODEV)."""
        if route.link(self._netlink, interface).promote:
            return True
        try:
            with open("/proc/sys/net/ipv4/conf/all/promote_secondaries", encoding="ascii") as setting:
                return setting.read().strip() == "1"
        except OSError:
            return False

    def _delete(self, requests: Sequence[Request], what: str) -> bool:
        removed = False
        for number, detail in self._netlink.request_many(requests):
            if number == 0:
                removed = True
            elif number not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                raise core.error(number, what, detail)
        return removed

    def _restore(self, before: Sequence[AddressMessage], address: str, index: int) -> None:
        """Add again the secondaries among ``before`` that went together with ``address``."""
        after = {(a.address, a.bits) for a in route.addresses(self._netlink, index, before[0].family)}
        lost = [a for a in before if a.address != address and _is_secondary(a) and (a.address, a.bits) not in after]
        requests = [
            route.new_address(
                a.address,
                a.bits,
                index,
                valid=route.FOREVER if a.valid is None else a.valid,
                preferred=route.FOREVER if a.preferred is None else a.preferred,
                scope=a.scope,
                broadcast=None if a.broadcast is None else route.packed(a.broadcast),
            )
            for a in lost
            if a.valid is None or a.valid > 0
        ]
        for number, detail in self._netlink.request_many(requests):
            if number not in (0, errno.EEXIST):
                raise core.error(number, f"cannot bring back what the removal of {address} took along", detail)


def _is_secondary(found: AddressMessage) -> bool:
    # The same bit means "temporary" (RFC 8981) in IPv6.
    return ":" not in found.address and bool(found.flags & route.IFA_F_SECONDARY)


def _must_be_replaced(found: AddressMessage, lifetime: int | None) -> bool:
    undecided = bool(found.flags & route.IFA_F_TENTATIVE)  # its duplicate detection would go on; set when it failed too
    return undecided or (found.valid is None) != (lifetime is None)


def _deletions(found: Iterable[AddressMessage]) -> list[Request]:
    return [route.delete_found(a) for a in found]


def _request(address: str, bits: int, index: int, lifetime: int | None) -> Request:
    valid = route.FOREVER if lifetime is None else lifetime
    if ":" in address:
        return route.new_address(address, bits, index, valid=valid, preferred=0, flags=route.IFA_F_NODAD)
    return route.new_address(address, bits, index, valid=valid, preferred=valid, broadcast=broadcast(address, bits))


def broadcast(address: str, bits: int) -> bytes | None:
    """The directed broadcast address of an IPv4 address's subnet; None where there is none (/31: RFC 3021, and /32)."""
    if bits > 30:
        return None
    return (int.from_bytes(route.packed(address), "big") | (0xFFFFFFFF >> bits)).to_bytes(4, "big")
