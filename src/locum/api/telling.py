"""The occurrences of the history in sentences. Pure functions of values; times are in the reader's zone.

``10.0.0.7 moved from n2 to n1, 38 ms unserved, because n2 is UNHEALTHY (50.samba: port 445 is not open)``
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from locum.rules.occurrences import Moves, Occurrence

#: How many addresses a sentence names before it counts the rest.
NAMED = 3


def stamp(at: float) -> str:
    """``2026-11-28 09:18:04.512``, local time of ``at`` (unix time in seconds)."""
    milliseconds = round(at * 1000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(milliseconds // 1000))}.{milliseconds % 1000:03d}"


def sentences(one: Occurrence, named: int = NAMED) -> list[str]:
    """What happened: a sentence, and one more for each further group of addresses that went the same way."""
    match one.kind:
        case "moves":
            return _moves(one, named)
        case "state":
            why = f": {one.cause}" if one.cause else ""
            return [f"{one.node} became {one.state} (was {one.was}){why}"]
        case "refused":
            return [f"{one.node} did not take {_names(one.addresses, named)}: {one.cause}"]
        case "leader":
            return [f"{one.node} became the leader"]
        case "command":
            by = f" (by {one.by})" if one.by else ""
            return [f"command at {one.node}: {one.command}{by}"]


def _moves(one: Occurrence, named: int) -> list[str]:
    because = f", because {one.cause}" if one.cause else ""
    unfinished = "; it had not ended when this was written" if one.open else ""
    unfinished = "; another plan came before it had ended" if one.replaced else unfinished
    if not one.moves:
        return [f"plan {one.epoch}: no address moved{because}{unfinished}"]
    return [f"{_group(group, named)}{because}{unfinished}" for group in one.moves]


def _group(group: Moves, named: int) -> str:
    names = _names(group.addresses, named)
    if not group.target:
        return f"{names} went from {group.source} to no node"
    if group.source == group.target:
        return f"{names} returned at {group.target}{_unserved(group.unserved)}"
    if not group.source:
        return f"{names} came to {group.target}{_unserved(group.unserved)}"
    return f"{names} moved from {group.source} to {group.target}{_unserved(group.unserved)}"


def _unserved(lasted: Sequence[int]) -> str:
    known = [one for one in lasted if one >= 0]
    if not known:
        return ""
    return f", {'up to ' if len(lasted) > 1 else ''}{_duration(max(known))} unserved"


def _duration(milliseconds: int) -> str:
    """``38 ms``, ``4.1 s``, ``12 min``, ``3.5 h``."""
    if milliseconds < 1000:
        return f"{milliseconds} ms"
    seconds = milliseconds / 1000
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _names(addresses: Sequence[str], named: int) -> str:
    shown = ", ".join(addresses[:named])
    rest = len(addresses) - named
    return f"{shown} and {rest} more" if rest > 0 else shown
