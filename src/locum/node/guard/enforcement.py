"""The kernel's gate as guard and agent share it: the guard installs it shut, the agent takes it over as it is.

Without nftables the hold is enforced by address lifetimes alone, which the kernel keeps to the second only; the
margin that the others wait is then longer, and everybody is told (design, "Holding an address").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from locum.config.model import Settings
from locum.errors import NetlinkError
from locum.machine.gate.gate import GateState, GateUnavailable
from locum.machine.gate.lifetimes import lifetime_for, lifetime_without_gate, margin_without_gate
from locum.node.guard.ports import GatePort, Log
from locum.rules.hold import margin_for
from locum.rules.identity import Identity

WITHOUT_GATE = (
    "the kernel's packet filter does not enforce the hold here (nftables cannot be used); "
    "address lifetimes do, to the second: others wait longer before they take over"
)


def public_interfaces(configured: Settings | Identity) -> list[str]:
    """Every interface that carries public addresses, sorted."""
    return sorted({name for address in configured.addresses for name in address.interfaces})


def judged_before(open_gate: Callable[[], GatePort]) -> tuple[str, ...]:
    """The public addresses of the gate that an earlier daemon left here, () when there is none. Raises NetlinkError."""
    try:
        gate = open_gate()
    except GateUnavailable:
        return ()
    try:
        return gate.judged()
    finally:
        gate.close()


class GuardGate:
    """The guard's use of the gate: install it, and shut it when the hold has ended."""

    def __init__(
        self, public: Iterable[str], interfaces: Iterable[str], log: Log, open_gate: Callable[[], GatePort]
    ) -> None:
        self._log = log
        self._gate: GatePort | None = None
        try:
            self._gate = open_gate()
            self._gate.install(public, interfaces)
        except GateUnavailable as error:
            log(f"{WITHOUT_GATE}: {error}", "warning")
            if self._gate is not None:
                self._gate.close()
            self._gate = None

    def shut(self) -> Sequence[str]:
        """Silence every public address at once; returns what went wrong, one line each."""
        if self._gate is not None:
            try:
                self._gate.shut()
            except NetlinkError as error:
                return (f"cannot shut the gate: {error}",)
        return ()

    def remove(self) -> None:
        """Take the rules away, after an orderly end: no public address is here any more."""
        if self._gate is not None:
            try:
                self._gate.remove()
            except NetlinkError as error:
                self._log(f"cannot remove the gate: {error}", "error")


class AgentGate(GatePort, Protocol):
    """The agent's begin with the gate; see :class:`locum.machine.gate.gate.Gate`."""

    def adopt(self, public: Iterable[str], interfaces: Iterable[str]) -> bool:
        """Take over the rules as they are; False when they are not there."""
        ...

    def state(self) -> GateState:
        """What the kernel has now."""
        ...


G = TypeVar("G", bound=AgentGate)


class Enforcement(msgspec.Struct, Generic[G], frozen=True):
    """How this node's hold is enforced when no process of ours runs.

    ``gate``: the kernel's, or None. ``margin``: seconds that the others wait beyond the hold. ``lifetime``: whole
    seconds that addresses are configured for. ``warning``: what an admin should know, or "".
    """

    gate: G | None
    margin: float
    lifetime: int
    warning: str


def enforcement_of(
    hold: float, public: Sequence[str], interfaces: Sequence[str], log: Log, open_gate: Callable[[], G]
) -> Enforcement[G]:
    """The gate that the guard installed, taken over as it is; installed anew (shut) when another program removed it; or
    what there is without it. Raises PermissionRequired, NetlinkError.

    ``public``: the configured addresses, and those that are still here though the configuration has them no longer.
    """
    gate = None
    try:
        gate = open_gate()
        if not gate.adopt(public, interfaces):
            gate.install(public, interfaces)
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
