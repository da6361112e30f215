"""Remove public addresses from the machine at once, from whichever interface they are on.

The guard runs this when a hold's deadline passes and at its own start. So this file imports only the netlink core (no
asyncio, no msgspec), keeps no state, and waits for no other process.
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
    """An address that was found; ``problem`` is "" when it was removed, else the reason."""

    address: str
    bits: int
    interface: str
    problem: str = ""


def remove_public(addresses: Iterable[str], interfaces: Iterable[str] | None = None) -> list[Removed]:
    """Remove all ``addresses`` from every interface (or from ``interfaces``), with any bits.

    Other addresses stay, secondaries of a removed one included. A failed removal does not stop the others: the caller
    reads ``problem`` and tries again. Raises NetlinkError when the kernel does not answer, ValueError for an invalid
    address (nothing is removed then).
    """
    wanted = {route.canonical(address) for address in addresses}
    only = None if interfaces is None else set(interfaces)
    with route.open_socket() as netlink:
        # Usually one pass suffices. Another one finds addresses that were moved or added meanwhile.
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
    """Ensure that secondaries stay when their primary is removed."""
    for index in indexes:
        try:
            if not route.link(netlink, names[index]).promote:
                route.set_promote_secondaries(netlink, index, names[index])
        except LocumError:  # removing a public address is more important
            continue
