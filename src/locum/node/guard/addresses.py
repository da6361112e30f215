"""The kernel's addresses as the guard uses them, without a socket that stays open.

Rules of this file: effects only; which addresses, and when, is decided in :mod:`locum.node.guard.life`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from locum.connections.destroy import destroy
from locum.machine.addresses import Address, AddressTable
from locum.machine.clean_slate import Removed, remove_public

Addresses = list[Address]


class KernelAddresses:
    """See :class:`locum.node.guard.ports.AddressesPort`. The methods may be called from any thread."""

    def list(self) -> Addresses:
        """See AddressesPort."""
        with contextlib.closing(AddressTable()) as table:
            return table.list()

    def remove(self, addresses: Iterable[str]) -> Sequence[Removed]:
        """See AddressesPort."""
        return remove_public(addresses)

    def end_connections(self, addresses: Sequence[str]) -> int:
        """See AddressesPort."""
        return destroy(addresses).destroyed
