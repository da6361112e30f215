"""Do two nodes answer for one address? The verdict on what the observer heard (I1).

Pure: fed with (time, address, speaker) in order of time, it says when the invariant is broken.

The criterion. All packets that speak for an address, in order of time, are a sequence of speakers. An honest move
from A to B reads ``A A A B B B``. Whenever A is heard, then B, then A again, either the address was moved twice in
between, or both answered at once. Two moves take two releases and two takes with their scripts; so

    A, B, A with less than ``window`` seconds between the two packets of A is a violation.

Everyone is asked for every address every few milliseconds, so that whoever holds an address is heard in each such
interval. Therefore the criterion misses nothing that lasts:

- A keeps answering after B has begun: A is heard, B is heard, A is heard again one interval later.
- A was silent for long (frozen, thawed), B took the address, and A speaks once more: then B, A, B are heard within an
  interval, and that is the same pattern with the names exchanged.

With a window of three asking intervals, every overlap of two intervals or more is found so. A shorter one has only one
question in it, which both answer: A, B and nothing to tell it from a move, when A happens to answer first. Hence

    A, B with less than ``echo`` seconds between the two packets is a violation as well.

Both answer one question within the time that a kernel takes to do so: a fraction of a millisecond, somewhat more on a
busy machine. Whoever hands an address over honestly falls silent, runs its scripts, and deletes its claim in the store
before the other may make its own: two commits and a script lie between the last packet of one and the first of the
other. So every overlap of *one* interval or more is found, and a shorter one when a question falls into it. The
shortest time between two speakers that was no violation is kept (``closest``), to show that honest moves stay away from
``echo``.

That an address moves there and back within the window is possible in theory; give ``window`` less than the fastest
round trip that the cluster can do.
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


#: Two answers to one question are not further apart, in seconds.
ECHO = 0.002


class Judge:
    """Keeps what was heard last for each address; ``window`` and ``echo`` in seconds.

    ``closest``: the shortest time between two speakers for one address, in seconds; infinite before there were two.
    """

    def __init__(self, window: float, echo: float = ECHO) -> None:
        self.window = window
        self.echo = echo
        self.closest = math.inf
        self._current: dict[str, Tenure] = {}
        self._heard: dict[tuple[str, str], float] = {}

    def hear(self, t: float, address: str, speaker: str) -> tuple[Tenure | None, Violation | None]:
        """Take note of one packet; ``t`` never decreases.

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
        """Who is heard for each address; None when nobody was within ``silence`` seconds."""
        return {
            address: tenure.speaker if now - tenure.last <= silence else None
            for address, tenure in self._current.items()
        }
