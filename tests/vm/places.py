"""Where a lab of guests serves its addresses, as its store has it."""

from __future__ import annotations

from locum_lab.vm.lab import VmLab


def all_on(lab: VmLab, node: str) -> bool:
    """Whether the node serves every address. An address without a server is missing in :meth:`VmLab.served`."""
    return lab.served() == {public.address: node for public in lab.layout.public_addresses}


def wait_all_on(lab: VmLab, node: str) -> None:
    """Wait until the node serves every address."""
    lab.wait_for(f"{node} serves every address", lambda: all_on(lab, node))


def without(lab: VmLab, node: str) -> bool:
    """Whether others serve every address."""
    served = lab.served()
    return len(served) == lab.layout.addresses and node not in served.values()
