"""Decide whether every address was served when it had to be.

Pure: attempts of the probe in, verdicts out. Time counts only in a *phase*: from an instant on, no act is applied any
longer, and a node must be able to serve. Within the phase's bound every address must be answered, and from then on it
may be without an answer only for moments (while it moves to another node).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import msgspec

from locum_lab.probe import Attempt


class Phase(msgspec.Struct, frozen=True):
    """No act was applied from ``start`` to ``end`` (boot time). ``bound``: seconds until every address must be served;
    ``pause``: how long it may be without an answer afterwards. ``what``: for people.
    """

    what: str
    start: float
    end: float
    bound: float
    pause: float


class Stretch(msgspec.Struct, frozen=True):
    """No attempt sent between ``start`` and ``end`` was answered; ``allowed`` seconds are correct, ``late`` of them
    because of the machine's lateness. ``phase``: the phase's description.
    """

    address: str
    start: float
    end: float
    allowed: float
    phase: str
    late: float = 0.0

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    @property
    def too_long(self) -> bool:
        """Whether it is a violation."""
        return self.seconds > self.allowed


def _punctual(_start: float, _end: float) -> float:
    return 0.0


def stretches(
    phase: Phase,
    addresses: Iterable[str],
    attempts: Iterable[Attempt],
    late: Callable[[float, float], float] = _punctual,
) -> list[Stretch]:
    """For each address the first stretch of the phase without an answer, and the longest later one.

    ``late`` gives the machine's lateness in seconds between two boot times; bounds grow by it.
    """

    def stretch(address: str, start: float, end: float, allowed: float) -> Stretch:
        more = late(start, end)
        return Stretch(address, start, end, allowed + more, phase.what, more)

    answered: dict[str, list[float]] = {address: [] for address in addresses}
    for attempt in attempts:
        if attempt.ok and phase.start <= attempt.t <= phase.end:
            answered[attempt.address].append(attempt.t)
    found = []
    for address, moments in answered.items():
        times = [*sorted(moments), phase.end]
        found.append(stretch(address, phase.start, times[0], phase.bound))
        later = max(itertools.pairwise(times), key=lambda pair: pair[1] - pair[0], default=None)
        if later is not None:
            found.append(stretch(address, *later, phase.pause))
    return found


def silent(addresses: Iterable[str], attempts: Iterable[Attempt], since: float) -> tuple[str, ...]:
    """The addresses without an answer to any attempt sent at ``since`` or later."""
    answered = {attempt.address for attempt in attempts if attempt.ok and attempt.t >= since}
    return tuple(address for address in addresses if address not in answered)
