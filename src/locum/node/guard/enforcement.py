"""The kernel's gate as guard and agent share it: the guard installs it shut, the agent takes it over as it is.

Without nftables the hold is enforced by address lifetimes alone, which the kernel keeps to the second only; the
margin that the others wait is then longer, and everybody is told (design, "Holding an address").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from locum.config.model import Settings
from locum.errors import NetlinkError
from locum.machine.gate.gate import Gate, GateUnavailable
from locum.machine.gate.lifetimes import lifetime_for, lifetime_without_gate, margin_without_gate
from locum.rules.hold import margin_for

WITHOUT_GATE = (
    "the kernel's packet filter does not enforce the hold here (nftables cannot be used); "
    "address lifetimes do, to the second: others wait longer before they take over"
)


def public_interfaces(settings: Settings) -> list[str]:
    """Every interface that carries public addresses, sorted."""
    return sorted({name for address in settings.addresses for name in address.interfaces})


def judged_before() -> tuple[str, ...]:
    """The public addresses of the gate that an earlier daemon left here, () when there is none. Raises NetlinkError."""
    try:
        gate = Gate()
    except GateUnavailable:
        return ()
    try:
        return gate.judged()
    finally:
        gate.close()


class GuardGate:
    """The guard's use of the gate: install it, and shut it when the hold has ended."""

    def __init__(self, settings: Settings, log: Callable[[str, str], None]) -> None:
        self._log = log
        self._gate: Gate | None = None
        try:
            self._gate = Gate()
            self._gate.install([a.address for a in settings.addresses], public_interfaces(settings))
        except GateUnavailable as error:
            log(f"{WITHOUT_GATE}: {error}", "warning")
            if self._gate is not None:
                self._gate.close()
            self._gate = None

    def shut(self) -> None:
        """Silence every public address at once."""
        if self._gate is not None:
            try:
                self._gate.shut()
            except NetlinkError as error:
                self._log(f"cannot shut the gate: {error}", "error")

    def remove(self) -> None:
        """Take the rules away, after an orderly end: no public address is here any more."""
        if self._gate is not None:
            try:
                self._gate.remove()
            except NetlinkError as error:
                self._log(f"cannot remove the gate: {error}", "error")


class Enforcement(msgspec.Struct, frozen=True):
    """How this node's hold is enforced when no process of ours runs.

    ``gate``: the kernel's, or None. ``margin``: seconds that the others wait beyond the hold. ``lifetime``: whole
    seconds that addresses are configured for. ``warning``: what an admin should know, or "".
    """

    gate: Gate | None
    margin: float
    lifetime: int
    warning: str


def enforcement_of(settings: Settings, log: Callable[[str, str], None], leaving: Iterable[str] = ()) -> Enforcement:
    """The gate that the guard installed, taken over as it is; put there anew (shut) when somebody removed it; or what
    there is without it. Raises PermissionRequired, NetlinkError.

    ``leaving``: addresses that are still here though the configuration has them no more; they are judged as well.
    """
    hold = settings.cluster.hold
    public = [*(a.address for a in settings.addresses), *leaving]
    gate = None
    try:
        gate = Gate()
        if not gate.adopt(public, public_interfaces(settings)):
            gate.install(public, public_interfaces(settings))
    except GateUnavailable as error:
        log(f"{WITHOUT_GATE}: {error}", "warning")
        if gate is not None:
            gate.close()
        margin = margin_for(hold) + margin_without_gate(hold)
        return Enforcement(None, margin, lifetime_without_gate(hold), WITHOUT_GATE)
    missing = gate.state().egress_missing
    warning = ""
    if missing:
        warning = f"packet sockets on {', '.join(missing)} go past the kernel's gate (no egress hook there)"
        log(warning, "warning")
    return Enforcement(gate, margin_for(hold), lifetime_for(hold), warning)
