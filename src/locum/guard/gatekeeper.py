"""The kernel's gate as guard and agent share it: the guard installs it shut, the agent takes it over as it is.

Without nftables the hold is enforced by address lifetimes alone, which the kernel keeps to the second only; the
margin that the others wait is then longer, and everybody is told (design, "Holding an address").
"""

from __future__ import annotations

from collections.abc import Callable

from locum.addresses.gate import Gate, GateUnavailable
from locum.addresses.lifetimes import fallback_margin
from locum.config.model import Settings
from locum.errors import NetlinkError

WITHOUT_GATE = (
    "the kernel's packet filter does not enforce the hold here (nftables cannot be used); "
    "address lifetimes do, to the second: others wait longer before they take over"
)


def public_interfaces(settings: Settings) -> list[str]:
    """Every interface that carries public addresses, sorted."""
    return sorted({name for address in settings.addresses for name in address.interfaces})


class GuardGate:
    """The guard's use of the gate: install it, and shut it when the hold has ended."""

    def __init__(self, settings: Settings, log: Callable[[str, str], None]) -> None:
        self._log = log
        self._gate: Gate | None = Gate()
        try:
            self._gate.install([a.address for a in settings.addresses], public_interfaces(settings))
        except GateUnavailable as error:
            log(f"{WITHOUT_GATE}: {error}", "warning")
            self._gate.close()
            self._gate = None

    def shut(self) -> None:
        """Silence every public address at once."""
        if self._gate is not None:
            try:
                self._gate.shut()
            except NetlinkError as error:
                self._log(f"cannot shut the gate: {error}", "error")


def attach_gate(settings: Settings, margin: float) -> tuple[Gate | None, float, str]:
    """The gate that the guard installed, as it is, or None; the margin in seconds that others must wait; a warning.

    ``margin`` is what suffices when the gate enforces the hold.
    """
    gate = Gate()
    if gate.adopt([a.address for a in settings.addresses], public_interfaces(settings)):
        return gate, margin, ""
    gate.close()
    return None, margin + fallback_margin(settings.cluster.hold), WITHOUT_GATE
