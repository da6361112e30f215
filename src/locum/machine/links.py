"""The state of network interfaces.

This file reads; it does not decide what a lost link means.
"""

from __future__ import annotations

import msgspec

from locum.machine.netlink import route
from locum.machine.netlink.core import NetlinkSocket
from locum.machine.netlink.route import LinkMessage


class LinkState(msgspec.Struct, frozen=True):
    """An interface. ``up``: it can carry traffic now; ``address``: its hardware address or ""."""

    name: str
    index: int
    up: bool
    address: str = ""


def usable(link: LinkMessage) -> bool:
    """Whether the interface can carry traffic: switched on, with carrier, and its operational state (RFC 2863) up.

    Many virtual drivers never set the operational state: "unknown" counts as up when there is carrier
    (``Documentation/networking/operstates.rst`` requires it).
    """
    return (
        bool(link.flags & route.IFF_UP)
        and bool(link.flags & route.IFF_LOWER_UP)
        and link.operstate in (route.IF_OPER_UNKNOWN, route.IF_OPER_UP)
    )


def state_of(link: LinkMessage) -> LinkState:
    """The :class:`LinkState` of a netlink message."""
    return LinkState(name=link.name, index=link.ifindex, up=usable(link), address=link.hardware.hex(":"))


class Links:
    """The interfaces of the network namespace in which the object was created."""

    def __init__(self) -> None:
        self._netlink: NetlinkSocket = route.open_socket()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._netlink.close()

    def list(self) -> dict[str, LinkState]:
        """Every interface by name. Raises NetlinkError."""
        return {link.name: state_of(link) for link in route.links(self._netlink)}
