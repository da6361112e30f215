"""Detect two nodes that answer for one address, from the packets that the observer heard (I1).

Pure: fed with (time, address, speaker) in order of time, it reports when the invariant is broken.

The criterion. The packets that speak for an address, in order of time, form a sequence of speakers. An honest move from
A to B reads ``A A A B B B``. If A is heard, then B, then A again, either the address moved twice in between, or both
answered at once. Two moves need two releases and two takes with their scripts; so

    A, B, A with less than ``window`` seconds between the two packets of A is a violation.

Every node is asked for every address every few milliseconds, so each holder is heard in each such interval. Therefore
the criterion misses no lasting overlap:

- A continues to answer after B has begun: A is heard, B is heard, A is heard again one interval later.
- A was silent for long (frozen, thawed), B took the address, and A speaks once more: then B, A, B are heard within an
  interval, the same pattern with exchanged names.

With a window of three asking intervals, this finds every overlap of two intervals or more. A shorter one contains only
one question, which both answer: if A answers first, the sequence A, B looks like a move. Hence

    A, B with less than ``echo`` seconds between the two packets is a violation as well.

Both answer a question within the kernel's response time: a fraction of a millisecond, slightly more on a busy machine.
A node that hands an address over falls silent, runs its scripts, and deletes its claim in the store before the other
node may make its own: two commits and a script lie between the last packet of one and the first of the other. So every
overlap of *one* interval or more is found, and a shorter one when a question falls into it. ``closest`` keeps the
shortest time between two speakers without a violation, to show that honest moves stay away from ``echo``.

In theory an address can move there and back within the window; choose ``window`` shorter than the cluster's fastest
round trip.
"""

from __future__ import annotations

import math

import msgspec


class Violation(msgspec.Struct, frozen=True):
    """``speaker`` was heard for ``address`` at ``before`` and at ``t`` (seconds, boot time), and ``other`` between; or,
    when ``before`` is ``t``, ``other`` was heard less than an echo before.
    """

    address: str
    speaker: str
    other: str
    before: float
    t: float


class Tenure(msgspec.Struct):
    """An uninterrupted run of packets by one speaker for one address; ``first`` and ``last`` are boot times."""

    address: str
    speaker: str
    first: float
    last: float
    packets: int = 1


#: The longest time between two answers to one question, in seconds.
ECHO = 0.002


class Judge:
    """Remembers the last packets for each address; ``window`` and ``echo`` in seconds.

    ``closest``: the shortest time between two speakers for one address, in seconds; infinite before there were two.
    """

    def __init__(self, window: float, echo: float = ECHO) -> None:
        self.window = window
        self.echo = echo
        self.closest = math.inf
        self._current: dict[str, Tenure] = {}
        self._heard: dict[tuple[str, str], float] = {}

    def hear(self, t: float, address: str, speaker: str) -> tuple[Tenure | None, Violation | None]:
        """Record one packet; ``t`` never decreases.

        Returns the tenure that begins with it (None when the speaker is the same as before), and a violation.
        """
        current = self._current.get(address)
        if current is not None and current.speaker == speaker:
            current.last = t
            current.packets += 1
            return None, None
        violation = None
        if current is not None:
            self._heard[address, current.speaker] = current.last
            before = self._heard.get((address, speaker))
            if before is not None and t - before < self.window:
                violation = Violation(address, speaker, current.speaker, before, t)
            elif t - current.last < self.echo:
                violation = Violation(address, speaker, current.speaker, t, t)
            else:
                self.closest = min(self.closest, t - current.last)
        begun = Tenure(address, speaker, t, t)
        self._current[address] = begun
        return begun, violation

    def holders(self, now: float, silence: float) -> dict[str, str | None]:
        """The speaker of each address; None after ``silence`` seconds without a packet."""
        return {
            address: tenure.speaker if now - tenure.last <= silence else None
            for address, tenure in self._current.items()
        }
