"""Interfaces and their addresses, for 10.interface and for scripts that replace it.

:mod:`locum.machine` handles the kernel's tables; it is imported where needed, since few scripts use it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from locum.clock import boottime
from locum.errors import LocumError
from locum.script.failure import Fail


def link_is_up(interface: str) -> bool:
    """Whether ``interface`` can carry traffic: switched on, with a carrier. Raises Fail when the interface does not
    exist."""
    from locum.machine.links import Links  # noqa: PLC0415

    with contextlib.closing(Links()) as links:
        state = links.list().get(interface)
    if state is None:
        raise Fail(f"there is no interface {interface}")
    return state.up


def add_address(interface: str, address: str, bits: int | str) -> None:
    """Configure ``address`` on ``interface``, with the daemon's lifetime; an existing address is not an error.

    Raises Fail when the kernel refuses, and when the node's right to hold addresses has ended (LOCUM_DEADLINE):
    a script that was stopped and continues later must not bring an address back.
    """
    from locum.machine.addresses import AddressTable  # noqa: PLC0415

    _refuse_if_late()
    lifetime = os.environ.get("LOCUM_LIFETIME")
    with _refusals(), contextlib.closing(AddressTable()) as table:
        table.add(address, _bits(bits), interface, int(lifetime) if lifetime else None)
        try:
            _refuse_if_late()  # stopped in between?
        except Fail:
            table.remove(address, _bits(bits), interface)
            raise


def remove_address(interface: str, address: str, bits: int | str) -> bool:
    """Remove ``address`` from ``interface``; False when it was not there. Other addresses of the interface stay.
    Raises Fail when the kernel refuses."""
    from locum.machine.addresses import AddressTable  # noqa: PLC0415

    with _refusals(), contextlib.closing(AddressTable()) as table:
        return table.remove(address, _bits(bits), interface)


def announce_address(interface: str, address: str) -> None:
    """Announce to the neighbours that ``address`` is here now (gratuitous ARP, unsolicited neighbour advertisement).

    Under a daemon this does nothing: the daemon announces after the event, more than once, through a socket that it
    keeps open (the kernel takes some 10 ms to close one: synchronize_net() in net/packet/af_packet.c). A send error
    is logged and is not a failure.
    """
    if os.environ.get("LOCUM_DEADLINE"):
        return
    from locum.machine.announcements import Announcer  # noqa: PLC0415

    try:
        with contextlib.closing(Announcer()) as announcer:
            announcer.announce(interface, address)
    except LocumError as error:
        print(f"not announced: {error}", flush=True)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (LocumError, ValueError) as error:
        raise Fail(str(error)) from None


def _bits(bits: int | str) -> int:
    try:
        return int(bits)
    except ValueError:
        raise Fail(f"{bits!r} is not a prefix length") from None


def _refuse_if_late() -> None:
    deadline = os.environ.get("LOCUM_DEADLINE")
    if deadline and boottime() >= float(deadline):
        raise Fail("the node's hold has ended: no address may be added")
