"""Addresses that this node could not take: the reasons, and the times of the next attempts.

Rules of this file: it knows addresses, reasons and times (seconds of the boot-time clock), but no plan and no store. An
address that fails here must neither delay others nor disturb the node that serves it instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

#: Pause before the next attempt to take an address that failed, and the limit of its doubling, in seconds.
REFUSAL_PAUSE, LONGEST_REFUSAL_PAUSE = 5.0, 300.0
#: While another node serves the address, retry no sooner than this multiple of the failed take's duration: an attempt
#: interrupts that service, and a script that hangs makes the interruption long.
PATIENCE = 10.0
#: After a failed take, start no other take for this time, in seconds: the leader gives the waiting addresses to nodes
#: that do not fail. Otherwise a script that hangs would delay each address by a full time limit.
HANDOVER_PAUSE = 0.5
#: An address that fails again within this number of seconds after its take continues with its earlier pauses.
PROVEN = 60.0


class Refusal(msgspec.Struct):
    """An address that could not be taken: its failures, and until when it is left to other nodes. ``latest``: the same
    if another node has taken it. ``occupied``: another machine has the address."""

    reason: str
    until: float
    times: int
    latest: float
    occupied: bool = False


class Refusals:
    """The addresses that one node could not take.

    ``address in refusals`` is true while it is not to be retried. Its failures are counted until it was taken and has
    worked for :data:`PROVEN` seconds, so that an address that fails soon after each take does not move back and forth.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Refusal] = {}
        self._history: dict[str, Refusal] = {}
        # Address → when it was taken after failures.
        self._taken: dict[str, float] = {}
        #: No take of any address begins before this time.
        self.next_take = 0.0

    def __contains__(self, address: str) -> bool:
        return address in self._pending

    def reasons(self) -> dict[str, str]:
        """Address → the reason of its failure, for those that are not to be retried yet."""
        return {address: refusal.reason for address, refusal in self._pending.items() if not refusal.occupied}

    def occupied(self) -> dict[str, str]:
        """Address → the other machine that has it, for those that are not to be retried yet."""
        return {address: refusal.reason for address, refusal in self._pending.items() if refusal.occupied}

    def failures(self) -> dict[str, int]:
        """Address → the number of failures since it was last taken."""
        return {a: refusal.times for a, refusal in self._history.items() if a not in self._taken}

    def next_due(self) -> float:
        """When the first of them may be retried; infinite without any."""
        return min((refusal.until for refusal in self._pending.values()), default=math.inf)

    def latest_due(self) -> float:
        """The latest time at which the last of them is retried, even if another node serves it; 0 without any."""
        return max((refusal.latest for refusal in self._pending.values()), default=0.0)

    def add(self, address: str, reason: str, began: float, now: float, *, occupied: bool = False) -> float:
        """``address`` could not be taken; the attempt lasted from ``began`` to ``now``. Returns the pause in seconds.

        ``occupied``: another machine has it, which does not affect the other addresses.
        """
        taken = self._taken.pop(address, None)
        if taken is not None and now - taken > PROVEN:
            del self._history[address]
        old = self._history.get(address)
        times = old.times + 1 if old is not None else 1
        pause: float = min(REFUSAL_PAUSE * 2 ** (times - 1), LONGEST_REFUSAL_PAUSE)
        longest = min(PATIENCE * (now - began), LONGEST_REFUSAL_PAUSE)
        refusal = Refusal(reason, now + pause, times, now + max(pause, longest), occupied)
        self._pending[address] = self._history[address] = refusal
        if not occupied:
            self.next_take = now + HANDOVER_PAUSE
        return pause

    def taken(self, address: str, now: float) -> None:
        """``address`` was taken; its failures are kept until it has proven itself."""
        if address in self._history:
            self._taken[address] = now

    def lapse(self, now: float, served: Callable[[str], bool]) -> None:
        """Forget those that may be retried; those that another node has taken since (``served``) wait longer."""
        for address, refusal in [(a, r) for a, r in self._pending.items() if r.until <= now]:
            if now < refusal.latest and served(address):
                refusal.until = min(now + REFUSAL_PAUSE, refusal.latest)
            else:
                del self._pending[address]
