"""Read the kernel for the audit: addresses, links, local routes, routes of packets, the gate's set, settings.

This file reads, and sends no packet. It may block (the kernel's locks, /proc), so it runs on its own thread. Questions
that the kernel does not answer are left out: the audit judges what is known.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Collection, Mapping

from locum.errors import LocumError, NetlinkError
from locum.machine.audit import Claim, Interface, Present, Snapshot, Ways
from locum.machine.gate.gate import Gate
from locum.machine.links import usable
from locum.machine.netlink import route, routes
from locum.machine.netlink.core import NetlinkSocket
from locum.rules.schema import HostedAddress

#: The settings read from /proc/sys/net/FAMILY/conf/INTERFACE.
SETTINGS = {
    "ipv4": (
        "arp_ignore",
        "arp_filter",
        "rp_filter",
        "proxy_arp",
        "proxy_arp_pvlan",
        "drop_gratuitous_arp",
        "promote_secondaries",
    ),
    "ipv6": ("disable_ipv6", "drop_unsolicited_na"),
}
#: Destinations that represent "beyond the routers"; no packet is sent (RFC 5737; 2000::/3 is RFC 4291's).
FAR = {int(socket.AF_INET): "198.51.100.1", int(socket.AF_INET6): "2000::1"}
#: At most this many addresses without a local route are looked up one by one.
_SINGLE = 16
_CONF = "/proc/sys/net/{family}/conf/{interface}/{name}"


def take(claims: Collection[Claim], hosted: Collection[HostedAddress], gate: Gate | None = None) -> Snapshot:
    """Read the kernel of the present network namespace. ``gate`` must belong to the calling thread. Raises NetlinkError
    when the kernel does not answer."""
    names = {name for one in hosted for name in one.interfaces} | {claim.interface for claim in claims}
    with route.open_socket() as netlink:
        links = {link.ifindex: link for link in route.links(netlink)}
        addresses = tuple(
            Present(
                found.address,
                found.bits,
                links[found.ifindex].name,
                secondary=found.family == socket.AF_INET and bool(found.flags & route.IFA_F_SECONDARY),
                permanent=found.valid is None,
                tentative=bool(found.flags & route.IFA_F_TENTATIVE),
                duplicate=bool(found.flags & route.IFA_F_DADFAILED),
            )
            for found in route.addresses(netlink)
            if found.ifindex in links
        )
        interfaces = {
            link.name: Interface(
                usable(link),
                bool(link.flags & route.IFF_NOARP),
                bool(link.flags & route.IFF_LOOPBACK),
                links[link.master].name if link.master in links else "",
                links[link.master].driver if link.master in links else "",
                links[link.lower].name if link.driver == "macvlan" and link.lower in links else "",
            )
            for link in links.values()
        }
        below = {interfaces[name].below for name in names if name in interfaces} - {""}
        settings = read_settings({*names, *below, *(p.interface for p in addresses if ":" not in p.address)})
        indexes = {link.name: link.ifindex for link in links.values()}
        look = _Look(netlink, indexes, {number: name for name, number in indexes.items()}, settings, addresses)
        local = look.local({route.family_of(claim.address) for claim in claims})
        held, uncovered = _gate(gate, sorted({name for one in hosted for name in one.interfaces}))
        return Snapshot(
            addresses,
            interfaces,
            local,
            look.undelivered(claims, local),
            held,
            uncovered,
            look.ways(claims),
            settings,
            look.far({route.family_of(claim.address) for claim in claims}),
        )


def read_settings(interfaces: Collection[str]) -> dict[tuple[str, str, str], int]:
    """The settings of ``interfaces`` and of "all" that the audit reads, as far as this kernel has them."""
    found = {}
    for family, names in SETTINGS.items():
        for interface in ("all", *interfaces):
            for name in names:
                try:
                    handle = os.open(_CONF.format(family=family, interface=interface, name=name), os.O_RDONLY)
                    try:
                        found[family, interface, name] = int(os.read(handle, 32))
                    finally:
                        os.close(handle)
                except (OSError, ValueError):
                    continue
    return found


def _gate(gate: Gate | None, interfaces: Collection[str]) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    if gate is None:
        return None, ()
    try:
        return gate.let_through(), gate.uncovered(interfaces)
    except LocumError:
        # The gate's own watch reports missing tables.
        return None, ()


class _Look:
    """Questions to the routing of one namespace."""

    def __init__(
        self,
        netlink: NetlinkSocket,
        indexes: Mapping[str, int],
        names: Mapping[int, str],
        settings: Mapping[tuple[str, str, str], int],
        addresses: Collection[Present],
    ) -> None:
        self._netlink = netlink
        self._indexes = indexes
        self._names = names
        self._settings = settings
        self._here = {present.address for present in addresses}

    def local(self, families: Collection[int]) -> frozenset[str]:
        found: frozenset[str] = frozenset()
        for family in families:
            try:
                found |= routes.local_addresses(self._netlink, family)
            except NetlinkError:
                continue
        return found

    def undelivered(self, claims: Collection[Claim], local: frozenset[str]) -> dict[str, str]:
        """Claimed addresses without the usual local route that are not delivered by other means either (a VRF has its
        own table)."""
        found = {}
        odd = [claim for claim in claims if claim.address not in local and claim.address in self._here]
        for claim in odd[:_SINGLE]:
            neighbour = self._neighbour(claim)
            why, _ = self._arrives(claim, neighbour)
            if why:
                found[claim.address] = why
        return found

    def ways(self, claims: Collection[Claim]) -> tuple[Ways, ...]:
        first: dict[tuple[str, str], Claim] = {}
        for claim in claims:
            if claim.interface in self._indexes and claim.address in self._here:
                first.setdefault((claim.interface, claim.subnet), claim)
        return tuple(self._way(claim) for claim in first.values())

    def _way(self, claim: Claim) -> Ways:
        neighbour = self._neighbour(claim)
        if not neighbour:
            return Ways(claim.interface, claim.subnet, claim.address, "")
        why, filtered = self._arrives(claim, neighbour)
        strict = self._filter_mode(claim) == 1
        far_filtered = strict and self._arrives(claim, FAR[socket.AF_INET])[1]
        return Ways(
            claim.interface,
            claim.subnet,
            claim.address,
            neighbour,
            why,
            filtered,
            far_filtered,
            self._out(neighbour, claim.address)[0],
            self._out(neighbour)[1],
        )

    def _neighbour(self, claim: Claim) -> str:
        """Another machine's address in the claim's subnet, "" without one."""
        for number, address in enumerate(ipaddress.ip_network(claim.subnet).hosts()):
            if str(address) not in self._here:
                return str(address)
            if number > 4096:
                break
        return ""

    def _arrives(self, claim: Claim, source: str) -> tuple[str, bool]:
        """Why a packet from ``source`` that arrives on the claim's interface is not delivered, "" when it is; and
        whether ``rp_filter`` is the reason."""
        if not source:
            return "", False
        try:
            found = routes.lookup(self._netlink, claim.address, source, self._indexes.get(claim.interface, 0))
        except NetlinkError as error:
            # Linux answers EXDEV for rp_filter, and since 6.13 EINVAL for every drop.
            if error.errno == errno.EXDEV or (error.errno == errno.EINVAL and self._is_filtered(claim, source)):
                return "dropped by rp_filter", True
            if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EINVAL, errno.ENETDOWN):
                return os.strerror(error.errno), False
            return "", False
        return ("" if found.kind == routes.RTN_LOCAL else "the kernel would forward them"), False

    def _is_filtered(self, claim: Claim, source: str) -> bool:
        """Whether ``rp_filter`` drops packets from ``source``: in mode 1 an answer must leave by the same interface, in
        mode 2 by any."""
        mode = self._filter_mode(claim)
        back = self._out(source, claim.address)[0]
        return (mode == 1 and back != claim.interface) or (mode == 2 and not back)

    def _filter_mode(self, claim: Claim) -> int:
        if ":" in claim.address:
            return 0
        return max(self._settings.get(("ipv4", where, "rp_filter"), 0) for where in ("all", claim.interface))

    def _out(self, destination: str, source: str = "") -> tuple[str, str]:
        """The interface and the source of a packet of this machine; "" where the kernel has no route."""
        try:
            found = routes.lookup(self._netlink, destination, source)
        except NetlinkError:
            return "", ""
        return self._names.get(found.ifindex, ""), found.source

    def far(self, families: Collection[int]) -> tuple[str, ...]:
        found = (self._out(FAR[family])[1] for family in sorted(families))
        return tuple(source for source in found if source)
