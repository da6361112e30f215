"""The first time that the cluster takes an address: whether another machine on the network has it.

Rules of this file: it knows which addresses the cluster has held before (``held/<address>``) and which were asked for
on the wire. A failover never waits for a probe, because the first holder has left that key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from locum.rules.context import Context
from locum.rules.effects import ProbeAddresses


class FirstTime:
    """The probes of one node."""

    def __init__(self, context: Context) -> None:
        self._context = context
        #: Whether the configuration wants addresses to be asked for.
        self.wanted = False
        # Address → the request of the probe under way; 0: it found no other machine.
        self._probes: dict[str, int] = {}

    def unproven(self, address: str) -> bool:
        """Whether nothing tells that the address is this cluster's: none of its nodes has held it."""
        return self.wanted and self._context.view.revision_of(f"held/{address}") == 0

    def passed(self, address: str) -> bool:
        """Whether ``address`` may be taken as far as other machines are concerned."""
        return not self.unproven(address) or self._probes.get(address) == 0

    def ask(self, missing: Collection[str], ready: Callable[[str], str | None]) -> None:
        """Ask for those of ``missing`` that were never held here: all at once, before any is taken.

        ``ready`` returns the interface for an address that has a firm claim, None for any other.
        """
        if not missing and not self._probes:
            return
        missing = set(missing)
        self._probes = {address: request for address, request in self._probes.items() if address in missing}
        items = []
        for address in sorted(missing - self._probes.keys()):
            interface = ready(address)
            if interface is not None and self.unproven(address):
                items.append((address, interface))
        if items:
            request = self._context.new_request()
            self._probes |= dict.fromkeys((address for address, _ in items), request)
            self._context.emit(ProbeAddresses(request, tuple(items)))

    def probed(self, request: int, found: Mapping[str, str]) -> dict[str, str]:
        """The answer to ``request``; returns address → what was heard, for those that another machine has."""
        occupied = {}
        for address in [address for address, asked in self._probes.items() if asked == request]:
            heard = found.get(address)
            if heard is None:
                self._probes[address] = 0
            else:
                del self._probes[address]
                occupied[address] = heard
        return occupied

    def forget(self) -> None:
        """The hold is over: whatever was asked for is asked again."""
        self._probes.clear()
