"""The figures of the demo: gaps, moves and holders per fault, compared with targets.

Pure: attempts and records in, rows out. The targets are the project's own, for the embedded store; figures that miss
their target are marked.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from locum_lab.gaps import Gap, longest, moves
from locum_lab.observer import Record
from locum_lab.probe import Attempt

#: Row → its target in seconds; ``hold`` is added where True. Killed agent: no attempt may fail.
TARGETS: dict[str, tuple[float, bool]] = {
    "start": (2.0, True),
    "planned move": (0.04, False),
    "killed service": (0.3, False),
    "lost link": (0.15, False),
    "cut host": (0.5, True),
    "killed agent": (0.0, False),
    "killed everything": (0.5, True),
}


#: A gap at the end counts as lost service only if requests were sent for this long, in seconds. A shorter gap may come
#: from a busy machine.
SILENCE = 0.25


class Round(msgspec.Struct, frozen=True):
    """One application of a fault: ``addresses`` are those that ``node`` served, watched from ``start`` to ``end`` (boot
    time).

    ``recovered``: every address was served again by ``end``.
    """

    fault: str
    node: str
    addresses: tuple[str, ...]
    start: float
    end: float
    recovered: bool = True


class Row(msgspec.Struct, frozen=True):
    """All rounds of one fault. ``gaps`` in seconds, one per affected address and round; 0 without a failed attempt.

    ``moves``: addresses that changed their node, and ``others``: those among them that the node had not served.
    ``holders``: the most nodes that answered for one address at once. ``unserved``: addresses without an answer at the
    end of a round.
    """

    fault: str
    rounds: int
    gaps: tuple[float, ...]
    median: float
    longest: float
    moves: int
    others: int
    holders: int
    unserved: tuple[str, ...]
    target: float
    reached: bool


def target(fault: str, hold: float) -> float:
    """The target, in seconds."""
    seconds, with_hold = TARGETS[fault]
    return seconds + hold if with_hold else seconds


def row(
    fault: str, rounds: Sequence[Round], attempts: Sequence[Attempt], records: Sequence[Record], hold: float
) -> Row:
    """The figures of one fault over all of its rounds."""
    values: list[float] = []
    moved = others = 0
    unserved: set[str] = set()
    for one in rounds:
        found = longest(attempts, one.start, one.end)
        for address in one.addresses:
            gap = found.get(address, Gap(address, one.start, one.end, open=True, failed=1))
            values.append(gap.seconds if gap.failed else 0.0)
        unserved.update(gap.address for gap in found.values() if gap.open and (gap.failed or gap.seconds > SILENCE))
        changed = moves(attempts, one.start, one.end)
        moved += len(changed)
        others += len([address for address in changed if address not in one.addresses])
    median = statistics.median(values) if values else 0.0
    aim = target(fault, hold)
    return Row(
        fault=fault,
        rounds=len(rounds),
        gaps=tuple(round(value, 4) for value in values),
        median=median,
        longest=max(values, default=0.0),
        moves=moved,
        others=others,
        holders=max((holders(records, one.start, one.end) for one in rounds), default=1),
        unserved=tuple(sorted(unserved)),
        target=aim,
        reached=bool(values) and median <= aim and not unserved,
    )


def start_row(
    addresses: Iterable[str],
    attempts: Sequence[Attempt],
    records: Iterable[Record],
    start: float,
    end: float,
    hold: float,
) -> Row:
    """From ``start``, the start of the daemons, until every address was answered; ``end``: when all were served."""
    firsts: dict[str, float] = {}
    for attempt in attempts:
        if attempt.ok and attempt.t >= start:
            firsts.setdefault(attempt.address, attempt.t - start)
    unserved = tuple(address for address in addresses if address not in firsts)
    last = max(firsts.values(), default=0.0)
    aim = target("start", hold)
    return Row(
        fault="start",
        rounds=1,
        gaps=tuple(round(value, 4) for value in firsts.values()),
        median=last,
        longest=last,
        moves=0,
        others=0,
        holders=holders(records, start, end),
        unserved=unserved,
        target=aim,
        reached=not unserved and last <= aim,
    )


def holders(records: Iterable[Record], start: float, end: float) -> int:
    """The most nodes that answered for one address at once between ``start`` and ``end``; 1 is correct."""
    by_address: dict[str, set[str]] = {}
    for record in records:
        if record.event == "violation" and start <= record.t <= end:
            by_address.setdefault(record.address, set()).update((record.node, record.other))
    return max([1, *map(len, by_address.values())])
