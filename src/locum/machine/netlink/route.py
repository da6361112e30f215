"""rtnetlink: the kernel's messages about links and addresses, and the messages that change addresses.

This file has layouts and constants of ``include/uapi/linux/{rtnetlink,if_link,if_addr}.h`` and knows nothing of public
addresses. It returns plain named tuples; flags are the kernel's.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from locum import hosts
from locum.errors import NetlinkError
from locum.machine.netlink import core
from locum.machine.netlink.core import NetlinkSocket, Request

NETLINK_ROUTE = 0

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22

RTNLGRP_LINK = 1
RTNLGRP_IPV4_IFADDR = 5
RTNLGRP_IPV6_IFADDR = 9

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_NOARP = 0x80
IFF_LOWER_UP = 0x10000

IF_OPER_UNKNOWN = 0
IF_OPER_UP = 6

IFA_F_SECONDARY = 0x01
IFA_F_NODAD = 0x02
IFA_F_DADFAILED = 0x08
IFA_F_TENTATIVE = 0x40

#: ``valid_lft`` that never ends.
FOREVER = 0xFFFFFFFF

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_OPERSTATE, _IFLA_AF_SPEC, _IFLA_EXT_MASK = 1, 3, 16, 26, 29
_IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_INFO_KIND = 5, 10, 18, 1
_IFLA_INET_CONF = 1
_RTEXT_FILTER_SKIP_STATS = 1 << 3
#: ``include/uapi/linux/ip.h``; the array in IFLA_INET_CONF starts with item 1.
_IPV4_DEVCONF_PROMOTE_SECONDARIES = 20
_IFLA_INET6_CONF = 2
#: ``include/uapi/linux/ipv6.h``; this array starts with item 0.
_DEVCONF_FORWARDING = 0

_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 4, 6, 8

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_CACHEINFO = struct.Struct("=IIII")
_U32 = struct.Struct("=I")

_AF_INET, _AF_INET6 = int(socket.AF_INET), int(socket.AF_INET6)


class LinkMessage(NamedTuple):
    """An interface: number, name, ``IFF_`` flags, ``IF_OPER_`` state, hardware address (raw), ``ARPHRD_`` kind.

    ``promote`` is the interface's own ``promote_secondaries``, None without an IPv4 part; ``forwards6``: it is an IPv6
    router's. ``master`` is the number of the interface that it is a port of (bridge, bond, VRF), 0 for none; ``driver``
    is its kind of virtual interface ("bridge", "vrf" ...), or "". ``lower`` is the number of the interface below it (a
    VLAN's or macvlan's; for a veth, the other end's, which may be in another namespace), 0 for none.
    """

    ifindex: int
    name: str
    flags: int
    operstate: int
    hardware: bytes
    kind: int
    promote: bool | None = None
    forwards6: bool = False
    master: int = 0
    driver: str = ""
    lower: int = 0


class AddressMessage(NamedTuple):
    """An address on an interface. ``valid`` and ``preferred`` are whole seconds, None when they never end; ``flags``
    are ``IFA_F_``; ``peer`` is the other end of a point-to-point configuration, else None."""

    family: int
    ifindex: int
    address: str
    bits: int
    flags: int
    scope: int
    valid: int | None
    preferred: int | None
    broadcast: str | None
    peer: str | None = None


def open_socket() -> NetlinkSocket:
    """A socket for requests of this file, in the present network namespace."""
    return NetlinkSocket(NETLINK_ROUTE)


def family_of(address: str) -> int:
    """AF_INET or AF_INET6, by the text's form."""
    return _AF_INET6 if ":" in address else _AF_INET


def packed(address: str) -> bytes:
    """``address`` in network order. Raises ValueError for an invalid address."""
    try:
        return socket.inet_pton(family_of(address), address)
    except OSError:
        raise ValueError(f"{address!r} is not an IP address") from None


def canonical(address: str) -> str:
    """The canonical spelling of ``address`` (:mod:`locum.hosts`). Raises ValueError for an invalid address."""
    return hosts.address(address)


# -- links ---------------------------------------------------------------------------------------------------------


def parse_link(payload: bytes) -> LinkMessage | None:
    """The interface in an ``RTM_NEWLINK``/``RTM_DELLINK`` payload; None for another family's view (bridge ports)."""
    if len(payload) < _IFINFO.size:
        return None
    family, kind, index, flags, _change = _IFINFO.unpack_from(payload)
    if family != 0:
        return None
    name, operstate, hardware = "", IF_OPER_UNKNOWN, b""
    promote: bool | None = None
    forwards6 = False
    master, lower, driver = 0, 0, ""
    for number, value in core.iterate(payload, _IFINFO.size):
        if number == _IFLA_IFNAME:
            name = core.text(value)
        elif number == _IFLA_OPERSTATE:
            operstate = value[0]
        elif number == _IFLA_ADDRESS:
            hardware = value
        elif number == _IFLA_LINK and len(value) == 4:
            (lower,) = _U32.unpack(value)
        elif number == _IFLA_MASTER and len(value) == 4:
            master = _U32.unpack(value)[0]
        elif number == _IFLA_LINKINFO:
            driver = core.text(core.parse(value).get(_IFLA_INFO_KIND, b""))
        elif number == _IFLA_AF_SPEC:
            families = core.parse(value)
            promote = _setting(families, _AF_INET, _IFLA_INET_CONF, _IPV4_DEVCONF_PROMOTE_SECONDARIES - 1)
            forwards6 = bool(_setting(families, _AF_INET6, _IFLA_INET6_CONF, _DEVCONF_FORWARDING))
    return LinkMessage(index, name, flags, operstate, hardware, kind, promote, forwards6, master, driver, lower)


def _setting(families: dict[int, bytes], family: int, array: int, place: int) -> bool | None:
    """A switch of /proc/sys/net/ipv[46]/conf/<interface>, from the array in a link message."""
    settings = core.parse(families.get(family, b"")).get(array, b"")
    if len(settings) < 4 * place + 4:
        return None
    return bool(_U32.unpack_from(settings, 4 * place)[0])


def links(sock: NetlinkSocket) -> list[LinkMessage]:
    """All interfaces of the namespace. Raises NetlinkError."""
    request = _IFINFO.pack(0, 0, 0, 0, 0) + core.attribute(_IFLA_EXT_MASK, _U32.pack(_RTEXT_FILTER_SKIP_STATS))
    found = (parse_link(m.payload) for m in sock.dump(RTM_GETLINK, request, "cannot list the network interfaces"))
    return [link for link in found if link is not None]


def link(sock: NetlinkSocket, name: str) -> LinkMessage:
    """One interface, in the socket's namespace. Raises NetlinkError (ENODEV without an interface of that name)."""
    # The kernel accepts names of at most 15 bytes, and answers ERANGE.
    wanted = name.encode()[:16]
    request = (
        _IFINFO.pack(0, 0, 0, 0, 0)
        + core.attribute(_IFLA_IFNAME, wanted + b"\0")
        + core.attribute(_IFLA_EXT_MASK, _U32.pack(_RTEXT_FILTER_SKIP_STATS))
    )
    try:
        found = parse_link(sock.get(RTM_GETLINK, request, f"cannot read interface {name!r}").payload)
    except NetlinkError as problem:
        if problem.errno in (errno.ENODEV, errno.ERANGE, errno.EINVAL):
            raise NetlinkError(f"no network interface {name!r}", errno.ENODEV) from None
        raise
    if found is None or found.name != name:
        raise NetlinkError(f"no network interface {name!r}", errno.ENODEV)
    return found


def set_promote_secondaries(sock: NetlinkSocket, index: int, name: str) -> None:
    """Switch the interface's ``promote_secondaries`` on. Netlink also works where /proc/sys is read-only (containers).
    Raises NetlinkError, PermissionRequired."""
    setting = core.attribute(_IPV4_DEVCONF_PROMOTE_SECONDARIES, _U32.pack(1))
    inet = core.nested(_AF_INET, core.nested(_IFLA_INET_CONF, setting))
    request = _IFINFO.pack(0, 0, index, 0, 0) + core.nested(_IFLA_AF_SPEC, inet)
    sock.request(RTM_SETLINK, 0, request, f"cannot set promote_secondaries on {name!r}")


# -- addresses -----------------------------------------------------------------------------------------------------


def parse_address(payload: bytes) -> AddressMessage | None:
    """The address in an ``RTM_NEWADDR``/``RTM_DELADDR`` payload; None for families other than IP."""
    if len(payload) < _IFADDR.size:
        return None
    family, bits, flags, scope, index = _IFADDR.unpack_from(payload)
    if family not in (_AF_INET, _AF_INET6):
        return None
    attributes = core.parse(payload, _IFADDR.size)
    # On point-to-point links IFA_ADDRESS is the peer and IFA_LOCAL the address; else they are equal (IPv4), or only
    # IFA_ADDRESS is present (IPv6).
    raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
    if raw is None or len(raw) != (4 if family == _AF_INET else 16):
        return None
    if _IFA_FLAGS in attributes:
        flags = _U32.unpack(attributes[_IFA_FLAGS])[0]
    valid: int | None = None
    preferred: int | None = None
    if _IFA_CACHEINFO in attributes:
        preferred, valid = _CACHEINFO.unpack(attributes[_IFA_CACHEINFO])[:2]
    broadcast = attributes.get(_IFA_BROADCAST)
    other = attributes.get(_IFA_ADDRESS, raw)
    return AddressMessage(
        family,
        index,
        socket.inet_ntop(family, raw),
        bits,
        flags,
        scope,
        None if valid == FOREVER else valid,
        None if preferred == FOREVER else preferred,
        socket.inet_ntoa(broadcast) if broadcast is not None and len(broadcast) == 4 else None,
        socket.inet_ntop(family, other) if other != raw and len(other) == len(raw) else None,
    )


def addresses(sock: NetlinkSocket, index: int = 0, family: int = 0) -> list[AddressMessage]:
    """The addresses of one interface (0: of all), of one family (0: of both). Raises NetlinkError."""
    request = _IFADDR.pack(family, 0, 0, 0, index)
    try:
        answer = sock.dump(RTM_GETADDR, request, "cannot list the addresses")
    except NetlinkError as problem:
        if problem.errno == errno.ENODEV:  # with strict checking: an interface has just disappeared
            return []
        raise
    found = (parse_address(message.payload) for message in answer if message.type == RTM_NEWADDR)
    # Kernels without strict checking (before 4.20) send everything.
    return [a for a in found if a is not None and index in (0, a.ifindex) and family in (0, a.family)]


def new_address(
    address: str,
    bits: int,
    index: int,
    *,
    valid: int,
    preferred: int,
    flags: int = 0,
    scope: int = 0,
    broadcast: bytes | None = None,
) -> Request:
    """The request that adds an address, or sets its lifetimes when the interface has it with these bits.

    Even without ``NLM_F_CREATE`` the kernel adds an absent address (``inet_rtm_newaddr``, ``inet6_rtm_newaddr`` ignore
    that flag): it has no request that only renews.
    """
    raw = packed(address)
    parts = [
        _IFADDR.pack(family_of(address), bits, flags & 0xFF, scope, index),
        core.attribute(_IFA_LOCAL, raw),
        core.attribute(_IFA_ADDRESS, raw),
        core.attribute(_IFA_FLAGS, _U32.pack(flags)),
        core.attribute(_IFA_CACHEINFO, _CACHEINFO.pack(preferred, valid, 0, 0)),
    ]
    if broadcast is not None:
        parts.append(core.attribute(_IFA_BROADCAST, broadcast))
    return Request(RTM_NEWADDR, core.NLM_F_CREATE | core.NLM_F_REPLACE, b"".join(parts))


def delete_address(address: str, bits: int, index: int, peer: str | None = None) -> Request:
    """The request that removes an address from an interface; for IPv4 the kernel also needs the ``peer``, if any."""
    payload = (
        _IFADDR.pack(family_of(address), bits, 0, 0, index)
        + core.attribute(_IFA_LOCAL, packed(address))
        + core.attribute(_IFA_ADDRESS, packed(peer or address))
    )
    return Request(RTM_DELADDR, 0, payload)


def delete_found(found: AddressMessage) -> Request:
    """The request that removes a listed address."""
    return delete_address(found.address, found.bits, found.ifindex, found.peer)
