"""Faults between the addresses that this node serves and its kernel, and their repair.

:func:`findings` is a pure function of claims, configuration and a :class:`Snapshot` of the kernel (taken by
:mod:`locum.machine.snapshot`); it changes nothing. A finding's ``action`` names the safe repair; other findings are
reported to administrators with the setting that causes them. ``Documentation/networking/ip-sysctl`` describes the
settings.

On Linux the interface that has an address does not decide alone which interface answers for it. Every interface
answers ARP for every address of the machine (``arp_ignore``), and packets are accepted on any interface, unless
``rp_filter``, a policy rule or another routing table prevents it. So the snapshot asks the kernel how it would treat a
neighbour's packet, and which source it would choose for its own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from locum.rules.schema import HostedAddress

#: ``restore``: configure it again. ``replace``: remove it and configure it again. ``allow``: let it through the gate.
#: ``deny``: mute it. ``renew``: configure it as it is. ``order``: put it after the interface's own addresses.
#: ``announce``: announce it again. ``warn``: warn administrators. ``hint``: show it in ``locum doctor`` only.
Action = Literal["restore", "replace", "allow", "deny", "renew", "order", "announce", "warn", "hint"]


class Claim(msgspec.Struct, frozen=True):
    """A public address that this node has taken completely."""

    address: str
    bits: int
    interface: str

    @property
    def subnet(self) -> str:
        """Its subnet, ``10.0.0.0/24``."""
        return subnet_of(self.address, self.bits)


class Present(msgspec.Struct, frozen=True):
    """An address in the kernel; ``secondary`` and the order of the list matter for IPv4 only."""

    address: str
    bits: int
    interface: str
    secondary: bool = False
    permanent: bool = False
    tentative: bool = False
    duplicate: bool = False


#: Values of ``arp_ignore`` with which an interface does not answer for the addresses of others.
_OWN_ONLY = (1, 2, 3, 8)


class Interface(msgspec.Struct, frozen=True):
    """An interface: ``master`` is the interface that it is a port of, ``driver`` the master's kind, "" without one.

    ``below``: the interface on which it is a macvlan, which is in the same network with another hardware address.
    """

    up: bool = True
    noarp: bool = False
    loopback: bool = False
    master: str = ""
    driver: str = ""
    below: str = ""


class Ways(msgspec.Struct, frozen=True):
    """How the kernel would treat the public addresses of one subnet on one interface.

    ``address`` is one of them, ``neighbour`` another machine's address in the subnet. ``arrives``: why the neighbour's
    packet would not be delivered here, "" when it would be; ``filtered``: because of ``rp_filter``. ``far_filtered``:
    ``rp_filter`` drops packets of clients beyond a router. ``answers_by``: the interface of an answer. ``source``: the
    source of this node's own connections to the neighbour. "" where unknown.
    """

    interface: str
    subnet: str
    address: str
    neighbour: str
    arrives: str = ""
    filtered: bool = False
    far_filtered: bool = False
    answers_by: str = ""
    source: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """The kernel at one moment.

    ``local``: addresses that the kernel delivers to this machine; ``undelivered``: claimed address → why it is not
    among them. ``held``: addresses that the gate lets through, None without a gate; ``uncovered``: interfaces where
    packet sockets bypass the gate. ``settings``: ``("ipv4", interface or "all", name)`` → value. ``far``: the source of
    the node's own connections beyond the routers, per family ("" unknown).
    """

    addresses: tuple[Present, ...]
    interfaces: Mapping[str, Interface]
    local: frozenset[str] = frozenset()
    undelivered: Mapping[str, str] = {}
    held: frozenset[str] | None = None
    uncovered: tuple[str, ...] = ()
    ways: tuple[Ways, ...] = ()
    settings: Mapping[tuple[str, str, str], int] = {}
    far: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True):
    """One fault. ``advice``: what an administrator can do, or ""."""

    kind: str
    action: Action
    text: str
    addresses: tuple[str, ...] = ()
    interface: str = ""
    advice: str = ""


def subnet_of(address: str, bits: int) -> str:
    """``10.0.0.0/24`` of 10.0.0.7, 24."""
    return str(ipaddress.ip_network(f"{address}/{bits}", strict=False))


def findings(claims: Collection[Claim], hosted: Collection[HostedAddress], seen: Snapshot) -> tuple[Finding, ...]:
    """All faults, those of single addresses first."""
    public = {h.address for h in hosted} | {c.address for c in claims}
    return (
        *_configured(claims, seen),
        *_gate(claims, seen),
        *_interfaces(claims, hosted, seen),
        *_ways(seen),
        *_arp(claims, seen),
        *_own_source(claims, public, seen),
    )


# -- each address ------------------------------------------------------------------------------------------------------


def _configured(claims: Iterable[Claim], seen: Snapshot) -> Iterator[Finding]:
    places = {(p.address, p.interface): p for p in seen.addresses}
    for claim in claims:
        where = (claim.address,), claim.interface
        found = places.get((claim.address, claim.interface))
        if found is None:
            yield Finding("missing", "restore", f"{claim.address} is not on {claim.interface}", *where)
        elif found.duplicate:
            text = (
                f"{claim.address}: duplicate address detection on {claim.interface} has failed: another machine "
                "answers for it, and the kernel keeps it mute"
            )
            yield Finding("duplicate", "replace", text, *where)
        elif found.tentative:
            text = f"{claim.address} on {claim.interface} is tentative: the kernel does not use it yet"
            yield Finding("tentative", "replace", text, *where)
        elif found.permanent:
            text = f"{claim.address} on {claim.interface} has no lifetime: another program configured it permanently"
            yield Finding("permanent", "replace", text, *where)
        elif claim.address in seen.undelivered:
            text = (
                f"packets for {claim.address} are not delivered to this node ({seen.undelivered[claim.address]}): its "
                "route in the table 'local' is missing"
            )
            yield Finding("undelivered", "replace", text, *where)


def _gate(claims: Iterable[Claim], seen: Snapshot) -> Iterator[Finding]:
    if seen.held is not None:
        for claim in claims:
            if claim.address not in seen.held:
                text = f"{claim.address} is not among the addresses that the gate lets through"
                yield Finding("gate", "allow", text, (claim.address,), claim.interface)
        for address in sorted(seen.held - {c.address for c in claims}):
            yield Finding("gate", "deny", f"the gate lets {address} through, which is not served here", (address,))
    if seen.uncovered:
        names = ", ".join(seen.uncovered)
        yield Finding("egress", "warn", f"packet sockets on {names} bypass the kernel's gate (no egress hook there)")


# -- interfaces --------------------------------------------------------------------------------------------------------


def _interfaces(claims: Collection[Claim], hosted: Iterable[HostedAddress], seen: Snapshot) -> Iterator[Finding]:
    six: dict[str, list[str]] = {}
    names: dict[str, None] = {}
    for one in hosted:
        for name in one.interfaces:
            names.setdefault(name)
            if ":" in one.address:
                six.setdefault(name, []).append(one.address)
    for name, addresses in six.items():
        if name in seen.interfaces and _either(seen, "ipv6", name, "disable_ipv6"):
            text = f"IPv6 is disabled on {name}: {_some(addresses)} cannot be configured there"
            yield Finding("ipv6", "warn", text, (), name, f"sysctl -w net.ipv6.conf.{name}.disable_ipv6=0")
        elif any(":" in c.address and c.interface == name for c in claims) and not _link_local(seen, name):
            text = f"{name} has no link-local IPv6 address: switches that snoop may withhold what clients ask"
            yield Finding("link-local", "warn", text, (), name, f"sysctl -w net.ipv6.conf.{name}.addr_gen_mode=0")
    for name in names:
        link = seen.interfaces.get(name)
        if link is None:
            continue
        if link.noarp and not link.loopback:
            text = f"ARP is switched off on {name}: neighbours cannot find the addresses there"
            yield Finding("noarp", "warn", text, (), name, f"ip link set {name} arp on")
        if link.master and link.driver != "vrf":
            text = f"{name} is a port of {link.master}: packets for addresses on {name} go to {link.master}"
            advice = f"name {link.master} instead of {name} in the configuration"
            yield Finding("master", "warn", text, (), name, advice)
        yield from _switches(claims, seen, name)


def _switches(claims: Collection[Claim], seen: Snapshot, name: str) -> Iterator[Finding]:
    """Settings of an interface that matter for every served address."""
    for setting in ("proxy_arp", "proxy_arp_pvlan"):
        if _either(seen, "ipv4", name, setting):
            text = f"{setting} is on for {name}: this node answers ARP for addresses of other machines"
            yield Finding("proxy", "warn", text, (), name, f"sysctl -w net.ipv4.conf.{name}.{setting}=0")
    for family, setting in (("ipv4", "drop_gratuitous_arp"), ("ipv6", "drop_unsolicited_na")):
        if _either(seen, family, name, setting):
            text = f"{setting} is on for {name}: this node does not hear when an address has moved to another machine"
            yield Finding("deaf", "hint", text, (), name, f"sysctl -w net.{family}.conf.{name}.{setting}=0")
    if "ipv4" in {key[0] for key in seen.settings} and not _either(seen, "ipv4", name, "promote_secondaries"):
        text = f"promote_secondaries is off on {name}: to remove one address would remove others of its subnet"
        four = tuple(c.address for c in claims if c.interface == name and ":" not in c.address)[:1]
        if four:
            # Configuring an address sets it.
            yield Finding("secondaries", "renew", text, four, name)


# -- answers -----------------------------------------------------------------------------------------------------------


def _ways(seen: Snapshot) -> Iterator[Finding]:
    for way in seen.ways:
        conf = f"net.ipv4.conf.{way.interface}"
        if way.filtered:
            text = f"rp_filter on {way.interface} drops packets of neighbours in {way.subnet}"
            yield Finding("rp_filter", "warn", text, (), way.interface, f"sysctl -w {conf}.rp_filter=2")
        elif way.arrives and way.address not in seen.undelivered:
            text = f"packets of neighbours in {way.subnet} for {way.address} are not delivered here: {way.arrives}"
            advice = "look at 'ip rule' and 'ip route show table local': the table 'local' must come first"
            yield Finding("delivery", "warn", text, (), way.interface, advice)
        if way.far_filtered and not way.filtered:
            text = (
                f"rp_filter on {way.interface} drops packets of clients beyond a router: answers to them "
                "would leave by another interface"
            )
            yield Finding("rp_filter", "warn", text, (), way.interface, f"sysctl -w {conf}.rp_filter=2")
        if way.answers_by and way.answers_by != way.interface and not way.arrives:
            text = f"answers from {way.address} to neighbours in {way.subnet} leave by {way.answers_by}"
            if ":" not in way.address and _either(seen, "ipv4", way.interface, "arp_filter"):
                text += f", and with arp_filter {way.interface} does not answer ARP for it"
            text += f", not by {way.interface}"
            advice = f"'ip route get {way.neighbour} from {way.address}' shows the route; remove or outweigh it"
            yield Finding("asymmetric", "warn", text, (), way.interface, advice)


def _arp(claims: Collection[Claim], seen: Snapshot) -> Iterator[Finding]:
    """Which interfaces answer ARP for an IPv4 address (``arp_process``, ``arp_ignore`` in net/ipv4/arp.c)."""
    names = dict.fromkeys(c.interface for c in claims if ":" not in c.address)
    for name in names:
        level = _highest(seen, "ipv4", name, "arp_ignore")
        conf = f"net.ipv4.conf.{name}.arp_ignore"
        if level == 8:
            text = f"arp_ignore is 8 on {name}: no neighbour gets an answer for the addresses there"
            yield Finding("arp", "warn", text, (), name, f"sysctl -w {conf}=1")
        elif level == 2:
            text = f"arp_ignore is 2 on {name}: only neighbours with an address in the same subnet get an answer"
            yield Finding("arp", "hint", text, (), name, f"sysctl -w {conf}=1")
    for subnet in dict.fromkeys(c.subnet for c in claims if ":" not in c.address):
        inside = [c for c in claims if c.subnet == subnet]
        here = {c.interface for c in inside}
        claimed = {c.address for c in inside}
        others = {
            p.interface
            for p in seen.addresses
            if ":" not in p.address
            and p.interface not in here
            and p.address not in claimed
            and subnet_of(p.address, p.bits) == subnet
        }
        flux = sorted(name for name in others if _answers_for_others(seen, name))
        if flux:
            text = (
                f"{', '.join(flux)} has an address in {subnet} as well, so it may answer ARP for the public addresses "
                f"on {', '.join(sorted(here))}"
            )
            advice = "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
            yield Finding("flux", "warn", text, (), flux[0], advice)

    for name in names:
        below = seen.interfaces.get(name, Interface()).below
        if below and _answers_for_others(seen, below):
            text = f"{below} answers ARP, with its own hardware address, for the public addresses on its macvlan {name}"
            yield Finding("flux", "warn", text, (), below, f"sysctl -w net.ipv4.conf.{below}.arp_ignore=1")


def _own_source(claims: Collection[Claim], public: Collection[str], seen: Snapshot) -> Iterator[Finding]:
    """The source of this node's own connections: they break when a public address moves."""
    for way in seen.ways:
        if way.source not in public:
            continue
        own = [
            p.address
            for p in seen.addresses
            if p.interface == way.interface and p.address not in public and _in(p.address, way.subnet)
        ]
        text = f"this node's own connections to {way.subnet} go out from the public address {way.source}"
        ahead = tuple(
            c.address
            for c in claims
            if c.interface == way.interface and c.subnet == way.subnet and ":" not in c.address
        )
        if own and ahead and any(p.address in own and p.secondary for p in seen.addresses):
            text += f", because {own[0]} is a secondary address since it was configured anew"
            yield Finding("source", "order", text, ahead, way.interface)
        elif own:
            advice = f"find the route with 'ip route get {way.neighbour}', and give it 'src {own[0]}'"
            yield Finding("source", "warn", text, (), way.interface, advice)
        else:
            text += f": {way.interface} has no other address there"
            advice = f"give {way.interface} an address in {way.subnet} that is not public"
            yield Finding("source", "hint", text, (), way.interface, advice)
    for source in seen.far:
        if source in public and not any(way.source == source for way in seen.ways):
            text = f"this node's own connections beyond the routers go out from the public address {source}"
            yield Finding("source", "warn", text, (), "", "give the default route a 'src' that is the node's own")


# -- inside ------------------------------------------------------------------------------------------------------------


def _highest(seen: Snapshot, family: str, name: str, setting: str) -> int:
    """The setting in force where the kernel takes the higher of ``all`` and the interface's own."""
    return max(seen.settings.get((family, where, setting), 0) for where in ("all", name))


def _either(seen: Snapshot, family: str, name: str, setting: str) -> bool:
    """Whether a switch is on where either ``all`` or the interface's own suffices."""
    if family == "ipv6":
        # Here the switch of ``all`` sets those of the interfaces; only these count.
        return bool(seen.settings.get((family, name, setting), 0))
    return bool(_highest(seen, family, name, setting))


def _reachable(seen: Snapshot, name: str) -> bool:
    link = seen.interfaces.get(name)
    return link is not None and link.up and not link.noarp and not link.loopback


def _answers_for_others(seen: Snapshot, name: str) -> bool:
    """Whether the interface answers ARP for addresses that other interfaces have."""
    return _reachable(seen, name) and _highest(seen, "ipv4", name, "arp_ignore") not in _OWN_ONLY


def _link_local(seen: Snapshot, name: str) -> bool:
    return any(p.interface == name and p.address.startswith("fe80:") for p in seen.addresses)


def _in(address: str, subnet: str) -> bool:
    network = ipaddress.ip_network(subnet)
    found = ipaddress.ip_address(address)
    return found.version == network.version and found in network


def _some(addresses: list[str]) -> str:
    more = f" and {len(addresses) - 3} more" if len(addresses) > 3 else ""
    return ", ".join(addresses[:3]) + more
