"""Remove public addresses from the machine at once, whatever interface they are on.

Rules of this file: the guard runs it when a hold's deadline passes and at its own start, so it imports nothing but
the netlink core (no asyncio, no msgspec), keeps no state and asks nobody.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import NamedTuple

from locum.errors import LocumError
from locum.machine.netlink import core, route
from locum.machine.netlink.core import NetlinkSocket


class Removed(NamedTuple):
    """An address that was removed; ``problem`` says why when it could not be."""

    address: str
    bits: int
    interface: str
    problem: str = ""


def remove_public(addresses: Iterable[str], interfaces: Iterable[str] | None = None) -> list[Removed]:
    """Remove every one of ``addresses`` from every interface (or from those named), with whatever bits it has there.

    Other addresses stay, secondaries of a removed one included. Returns what was found. Does not stop at one that
    cannot be removed: the caller looks at ``problem`` and tries again. Raises NetlinkError when the kernel cannot be
    asked at all, ValueError when an address is not one (nothing is removed then).
    """
    wanted = {route.canonical(address) for address in addresses}
    only = None if interfaces is None else set(interfaces)
    with route.open_socket() as netlink:
        # Usually one pass does. Another one finds what was moved or added meanwhile.
        results: dict[tuple[str, int, int], Removed] = {}
        for _attempt in range(3):
            found = [a for a in route.addresses(netlink) if a.address in wanted]
            names = {link.ifindex: link.name for link in route.links(netlink)} if found else {}
            found = [a for a in found if a.ifindex in names]
            found = [a for a in found if only is None or names[a.ifindex] in only]
            if not found:
                break
            _promote(netlink, {a.ifindex for a in found if a.family == socket.AF_INET}, names)
            answers = netlink.request_many([route.delete_found(a) for a in found])
            for a, (number, detail) in zip(found, answers, strict=True):
                gone = number in (0, errno.EADDRNOTAVAIL, errno.ENODEV)
                name = names[a.ifindex]
                problem = "" if gone else str(core.error(number, f"cannot remove {a.address} from {name!r}", detail))
                results[a.address, a.bits, a.ifindex] = Removed(a.address, a.bits, name, problem)
        return list(results.values())


def _promote(netlink: NetlinkSocket, indexes: set[int], names: dict[int, str]) -> None:
    """See to it that secondaries stay when their primary goes."""
    for index in indexes:
        try:
            if not route.link(netlink, names[index]).promote:
                route.set_promote_secondaries(netlink, index, names[index])
        except LocumError:  # no reason to keep a public address
            continue
