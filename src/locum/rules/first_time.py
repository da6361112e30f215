"""The first take of an address by the cluster: the probe for another machine that has it.

Rules of this file: it knows the addresses that the cluster has held before (``held/<address>``) and those that were
probed. A failover never waits for a probe, because the first holder has written that key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from locum.rules.context import Context
from locum.rules.effects import ProbeAddresses


class FirstTime:
    """The probes of one node."""

    def __init__(self, context: Context) -> None:
        self._context = context
        #: Whether the configuration asks for probes.
        self.wanted = False
        # Address → the request of the probe under way; 0: it found no other machine.
        self._probes: dict[str, int] = {}

    def unproven(self, address: str) -> bool:
        """Whether no node of this cluster has held the address, so that it may be another machine's."""
        return self.wanted and self._context.view.revision_of(f"held/{address}") == 0

    def passed(self, address: str) -> bool:
        """Whether other machines leave ``address`` free, as far as is known."""
        return not self.unproven(address) or self._probes.get(address) == 0

    def ask(self, missing: Collection[str], ready: Callable[[str], str | None]) -> None:
        """Probe those of ``missing`` that this cluster never held: all at once, before any is taken.

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
        """The answer to ``request``; returns address → the evidence, for those that another machine has."""
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
        """The hold has ended: probe again whatever was probed."""
        self._probes.clear()
