"""No confirmed write is lost (I9): the values that the cluster may have for each of the admins' settings.

Pure. Commands overlap and some of them get no answer, so that more than one value may be right. A write is superseded
when another one is confirmed that began after it had ended; every other may be the last one. A write without a
confirmation may take effect at any time after its request, or never.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

#: The value that is written and read: a truth value, a node's name, a number, or None for "never set".
Value = bool | str | float | None

#: A write without an answer may still take effect for this long, in seconds: a thawed daemon finds it in its socket.
LATE = 60.0
#: By how much a ban's end may differ from the request, beside the command's duration, in seconds.
_CLOCK = 1.5


class Write(msgspec.Struct, frozen=True):
    """``key`` was to become ``value``; requested at ``begun`` (unix time), confirmed at ``ended`` or never."""

    key: str
    value: Value
    begun: float
    ended: float = math.inf


def writes_of(arguments: tuple[str, ...], now: float) -> tuple[Write, ...]:
    """The writes of a ``locum`` command when it is confirmed; none for a command without a durable effect."""
    match arguments:
        case ("node", "disable" | "enable" as verb, node):
            return (Write(f"disabled {node}", verb == "disable", now),)
        case ("node", "stop" | "continue" as verb, node):
            return (Write(f"stopped {node}", verb == "stop", now),)
        case ("node", "ban", node, "--seconds", seconds):
            return (Write(f"banned {node}", now + float(seconds), now),)
        case ("node", "unban", node):
            return (Write(f"banned {node}", 0.0, now),)
        case ("ip", "move", address, node):
            return (Write(f"preferred {address}", node, now),)
        case ("ip", "auto", address):
            return (Write(f"preferred {address}", None, now),)
        case ("tunable", "set", name, value):
            return (Write(f"tunable {name}", float(value), now),)
    return ()


class ConfirmedWrites:
    """All relevant writes, by key."""

    def __init__(self) -> None:
        self._writes: dict[str, list[Write]] = {}

    def begin(self, write: Write) -> None:
        """A command was given."""
        self._writes.setdefault(write.key, []).append(write)

    def end(self, write: Write, now: float) -> None:
        """It was confirmed."""
        found = self._writes.get(write.key, [])
        found[found.index(write)] = msgspec.structs.replace(write, ended=now)

    def refused(self, write: Write) -> None:
        """It was answered, without an effect."""
        self._writes[write.key].remove(write)

    def forget(self) -> None:
        """The store went back: confirmed writes may be lost. Others may still take effect."""
        for key, writes in self._writes.items():
            self._writes[key] = [write for write in writes if write.ended == math.inf]

    def candidates(self, key: str) -> tuple[Write, ...]:
        """The writes of which each may be the last; empty when nothing is known about the key."""
        found = self._writes.get(key, [])
        confirmed = [write for write in found if write.ended < math.inf]
        return tuple(write for write in found if not any(other.begun > write.ended for other in confirmed))

    def lost(self, seen: Mapping[str, Value], now: float) -> tuple[str, ...]:
        """Differences from confirmed writes, in words; ``seen`` is the state shown by an up-to-date node."""
        return tuple(
            f"{key}: {' or '.join(sorted({str(write.value) for write in candidates}))} was confirmed, "
            f"and it is {seen.get(key)}"
            for key in sorted(self._writes)
            if (candidates := self._certain(key)) and not _right(candidates, seen.get(key), now)
        )

    def take(self, seen: Mapping[str, Value], now: float) -> None:
        """Continue from the (correct) seen state; writes long without an answer will no longer take effect."""
        for key, value in seen.items():
            kept = [
                write for write in self._writes.get(key, ()) if write.ended == math.inf and now - write.begun < LATE
            ]
            self._writes[key] = [Write(key, value, now, now), *kept]

    def _certain(self, key: str) -> tuple[Write, ...]:
        """The candidates, when one of them is confirmed: otherwise the value before them is right as well."""
        candidates = self.candidates(key)
        return candidates if any(write.ended < math.inf for write in candidates) else ()


def _right(candidates: tuple[Write, ...], seen: Value, now: float) -> bool:
    if not candidates[0].key.startswith("banned "):
        return any(write.value == seen for write in candidates)
    # A ban ends by time; and a node on which events keep failing bans itself, for a time that it chooses.
    until = float(seen or 0.0)
    ends = [float(write.value or 0.0) for write in candidates]
    return min(ends) <= now + _CLOCK or until >= min(ends) - _CLOCK
