"""The addresses configured in the kernel: list, add, renew, remove.

This file knows nothing of holds and claims, nor why an address is wanted. It is synchronous; an operation takes tens
of microseconds.

IPv4: the second address of a subnet on an interface is a secondary of the first. When the kernel removes the primary,
it also removes the secondaries, unless ``promote_secondaries`` is set for the interface or for ``all`` (either
suffices: ``IN_DEV_PROMOTE_SECONDARIES`` in ``include/linux/inetdevice.h``). This file sets it on every interface that
gets a public address, because the kernel itself removes an address whose lifetime ends. It checks the setting again
before each removal.

IPv6: addresses are added without duplicate address detection, which would keep them mute for a second. They are
deprecated (preferred lifetime 0): the node does not choose them as the source of its own connections, which would
break when the address moves (RFC 6724, rule 3). Clients are answered nevertheless.
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
    """An address in the kernel.

    ``valid`` is the rest of its lifetime in whole seconds, None when ``permanent``. ``secondary`` exists in IPv4 only.
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
        """The addresses of both families, of all interfaces or of one (none if the interface does not exist)."""
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
            if found.ifindex in names  # an interface newer than the first list is in the next one
        ]

    def add(self, address: str, bits: int, interface: str, lifetime: int | None = None) -> None:
        """Configure ``address``/``bits`` on ``interface`` for ``lifetime`` seconds (None: permanently).

        An existing address gets the new lifetime; wrong bits are corrected. Raises NetlinkError (ENODEV: no such
        interface), PermissionRequired, ValueError (not an address).
        """
        address = route.canonical(address)
        if lifetime is not None and not 0 < lifetime < route.FOREVER:
            raise ValueError(f"an address lifetime is a positive number of seconds, not {lifetime}")
        index = self._prepared(interface, address)
        family = route.family_of(address)
        present = [a for a in route.addresses(self._netlink, index, family) if a.address == address]
        new = _request(address, bits, index, lifetime)
        if ":" in address:
            # The kernel keeps one entry per address here, so a wrong entry is deleted first. So is a permanent entry
            # that needs a lifetime: a change would put the lifetime on the route to its subnet as well, which the
            # interface's own addresses use (modify_prefix_route in net/ipv6/addrconf.c).
            obstacles = [a for a in present if a.bits != bits or _must_be_replaced(a, lifetime)]
            requests = [*_deletions(obstacles), new]
        else:
            # Entries of one address with different bits coexist, so the address is always present.
            requests = [new, *_deletions([a for a in present if a.bits != bits])]
        what = f"cannot configure {address}/{bits} on {interface!r}"
        for number, detail in self._netlink.request_many(requests):
            if number not in (0, errno.EADDRNOTAVAIL):
                raise core.error(number, what, detail)

    def renew(self, items: Iterable[Item], lifetime: int) -> tuple[tuple[Item, LocumError], ...]:
        """Set the lifetime of many addresses that :meth:`add` gave a lifetime, in one system call per 64.

        An address that is missing is added again: the kernel has no request that only renews. Returns the items that
        failed, with the reason; the others are renewed. Raises NetlinkError when the kernel's answers were lost.
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
        """Remove addresses of one interface and add them again in one request, so that they follow all others of their
        subnets: the kernel makes the next address the primary, which the machine's own connections use.

        Connections are not disturbed. Routes that name one of the addresses as their source are lost. Raises
        NetlinkError (some addresses may be missing then), PermissionRequired.
        """
        interface = items[0][2]
        index = self._prepared(interface, items[0][0])
        requests = [route.delete_address(address, bits, index) for address, bits, _ in reversed(items)]
        requests += [_request(address, bits, index, lifetime) for address, bits, _ in items]
        for number, detail in self._netlink.request_many(requests):
            if number not in (0, errno.EADDRNOTAVAIL):
                raise core.error(number, f"cannot put public addresses of {interface!r} after its own", detail)

    def remove(self, address: str, bits: int, interface: str) -> bool:
        """Remove ``address`` from ``interface``, with any bits; False when it was absent.

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
            # _restore compares with this list.
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
        """The index of ``interface``; for an IPv4 ``address``, first ensure its ``promote_secondaries``.

        Raises NetlinkError (ENODEV; EIO when the kernel does not keep the setting), PermissionRequired.
        """
        found = route.link(self._netlink, interface)
        if ":" not in address and not found.promote:
            route.set_promote_secondaries(self._netlink, found.ifindex, interface)
            if route.link(self._netlink, interface).promote is False:
                raise NetlinkError(f"promote_secondaries cannot be switched on for {interface!r}", errno.EIO)
        return found.ifindex

    def check_promote_secondaries(self, interface: str) -> bool:
        """Whether the removal of a primary address of ``interface`` keeps its secondaries: by the interface's own
        setting, or that of ``all`` (read from the caller's /proc/sys). Raises NetlinkError (ENODEV)."""
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
        """Add again the secondaries among ``before`` that the kernel removed together with ``address``."""
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
                raise core.error(number, f"cannot restore the secondaries removed with {address}", detail)


def _is_secondary(found: AddressMessage) -> bool:
    # The same bit means "temporary" (RFC 8981) in IPv6.
    return ":" not in found.address and bool(found.flags & route.IFA_F_SECONDARY)


def _must_be_replaced(found: AddressMessage, lifetime: int | None) -> bool:
    undecided = bool(found.flags & route.IFA_F_TENTATIVE)  # detection runs, or has failed
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
