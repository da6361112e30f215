"""Gaps in service, measured from a probe's attempts.

The *gap* of an address around a fault is the longest time between the sending of two answered attempts, as in the
project's baselines. No attempt between them was answered, so the service was away no longer than that. Pure; no I/O.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence

import msgspec

from locum_lab.probe import Attempt


class Gap(msgspec.Struct, frozen=True):
    """The longest gap of one address. ``start`` and ``end`` are the sends before and after (boot time); ``before`` and
    ``after`` the nodes that answered them. ``failed``: attempts within it; with none, the gap is only the time between
    two attempts, and the service was not interrupted. ``open``: no answer came until the end of the examined time.
    """

    address: str
    start: float
    end: float
    before: str = ""
    after: str = ""
    failed: int = 0
    open: bool = False

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    @property
    def moved(self) -> bool:
        """Whether another node answered afterwards."""
        return not self.open and self.before != self.after


def longest(attempts: Iterable[Attempt], start: float, end: float) -> dict[str, Gap]:
    """The longest gap of each address between ``start`` and ``end``; of equal gaps the first.

    A gap that contains ``start`` or ``end`` is cut there. An address without any answer has an open gap of the whole
    time.
    """
    by_address: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if start <= attempt.t <= end:
            by_address.setdefault(attempt.address, []).append(attempt)
    result: dict[str, Gap] = {}
    for address, tried in sorted(by_address.items()):
        gap = _longest_of(address, sorted((a for a in tried if a.ok), key=lambda a: a.t), start, end)
        failed = sum(1 for a in tried if not a.ok and gap.start <= a.t <= gap.end)
        result[address] = msgspec.structs.replace(gap, failed=failed)
    return result


def _longest_of(address: str, sends: Sequence[Attempt], start: float, end: float) -> Gap:
    if not sends:
        return Gap(address, start, end, open=True)
    best = Gap(address, start, sends[0].t, sends[0].node, sends[0].node)
    for one, other in itertools.pairwise(sends):
        if other.t - one.t > best.seconds:
            best = Gap(address, one.t, other.t, one.node, other.node)
    last = sends[-1]
    return Gap(address, last.t, end, last.node, open=True) if end - last.t > best.seconds else best


def moves(attempts: Iterable[Attempt], start: float, end: float) -> dict[str, tuple[str, str]]:
    """Addresses that another node answered for at the end than at the beginning: address → (from, to)."""
    first: dict[str, str] = {}
    last: dict[str, str] = {}
    for attempt in sorted((a for a in attempts if a.ok and start <= a.t <= end), key=lambda attempt: attempt.t):
        first.setdefault(attempt.address, attempt.node)
        last[attempt.address] = attempt.node
    return {address: (first[address], node) for address, node in last.items() if first[address] != node}


class Measure(msgspec.Struct, frozen=True):
    """Gaps of a fault over addresses and rounds, in seconds."""

    median: float
    longest: float
    count: int


def measure(values: Sequence[float]) -> Measure | None:
    """Median and maximum; None when there is nothing to measure."""
    return Measure(statistics.median(values), max(values), len(values)) if values else None
