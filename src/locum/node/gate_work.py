"""The agent's work at the gate, with its repair after a failure.

Everything here runs on the gate's thread (:mod:`locum.node.kernel_calls`), one call after the other, in the order in
which the event loop handed them over; the loop reads only ``gone``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from locum.clock import Clock
from locum.errors import LocumError, NetlinkError
from locum.machine.gate.gate import ArmedSlot
from locum.node.ports import GatePort

#: Pause between attempts to put the gate back, in seconds.
GATE_PAUSE = 1.0


class GateWork:
    """The gate of one node."""

    def __init__(self, gate: GatePort, clock: Clock) -> None:
        self._gate = gate
        self._clock = clock
        # Addresses that the gate lets through although it had to mute them. While there are any, it is not armed.
        self._unmuted: set[str] = set()
        self._next = 0.0
        #: Why the gate could not be put back; "" while it is present.
        self.gone = ""

    def arm(self, slot: int, hold: float) -> ArmedSlot:
        """See Gate.arm. Raises LocumError, also while an earlier failure cannot be repaired."""
        self._repair()
        return self._gate.arm(slot, hold)

    def confirm(self, armed: ArmedSlot) -> bool:
        """See Gate.confirm. Raises LocumError."""
        return self._gate.confirm(armed)

    def allow(self, address: str) -> None:
        """Let ``address`` through. Raises LocumError."""
        self._change(self._gate.allow, {address})
        self._unmuted.discard(address)

    def deny(self, address: str) -> None:
        """Mute ``address``. Raises LocumError; then the gate is not armed again before the address is muted."""
        self._mute([address])

    def judge(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        """See Gate.configure. Raises LocumError."""
        self._gate.configure(public, interfaces)

    def drop(self) -> list[str]:
        """Shut the gate and mute all addresses, also those known only to a predecessor. Returns the failures."""
        problems = []
        held = self._gate.held
        try:
            self._gate.shut()
        except LocumError as error:
            problems.append(f"the kernel's gate cannot be shut: {error}; it closes when its timer ends")
        try:
            self._mute(held)
        except LocumError as error:
            problems.append(f"the kernel's gate cannot be emptied: {error}; it is not opened before that")
        return problems

    def restore(self) -> None:
        """Restore rules that another program removed or changed, shut. Raises LocumError; then :meth:`arm` retries."""
        try:
            self._gate.restore()
        except LocumError as error:
            self.gone = f"it cannot be put back: {error}"
            raise

    def _mute(self, addresses: Iterable[str]) -> None:
        unwanted = set(addresses)
        self._unmuted |= unwanted
        self._change(self._gate.deny, unwanted)
        self._unmuted -= unwanted

    def _change(self, change: Callable[[Iterable[str]], object], addresses: set[str]) -> None:
        """Change the gate's sets. Raises LocumError.

        The kernel reports rules that another program removes some milliseconds later. A change in that time puts them
        back, shut: ``releaseip`` must not run while its address still answers.
        """
        try:
            change(addresses)
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise
            self.restore()
            change(addresses)

    def _repair(self) -> None:
        """Repair earlier failures before the gate may open: put it back, and mute addresses. Raises LocumError."""
        if self.gone:
            now = self._clock.boot()
            if now < self._next:
                raise NetlinkError(self.gone, errno.EAGAIN)
            self._next = now + GATE_PAUSE
            self._gate.restore()
            self.gone = ""
        if self._unmuted:
            self._gate.deny(self._unmuted)
            self._unmuted.clear()
