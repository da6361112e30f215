"""What befalls held addresses: the kernel loses them, refuses them, or loses what scripts had attached to them.

Rules of this file: addresses, reasons and times (seconds of the boot-time clock); nothing of plans, claims or the
store. An address that is lost comes back at once. When the kernel refuses it some times in a row, the node gives it up,
so that another one gets it. Scripts hear of each address that came back (``takeip`` once more), soon after the first
time, and less often when it happens again and again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

#: A held address is given up after this many failures in a row to configure it or to renew its lifetime.
TRIES = 3
#: Pause before the second try to configure it, in seconds; it doubles.
RESTORE_PAUSE = 0.2
#: Failures further apart than this are not "in a row", in seconds.
FORGET = 5.0
#: Shortest time between two ``takeip`` of a held address, in seconds; it doubles up to the longest, and is forgotten
#: when nothing has happened for :data:`CALM` seconds.
TELL_PAUSE, LONGEST_TELL_PAUSE, CALM = 1.0, 60.0, 300.0


class _Failing(msgspec.Struct):
    """Failures in a row: how many, and when the latest was."""

    times: int
    latest: float


class _Telling(msgspec.Struct):
    """When scripts were told of an address last (how often, with which pause after it), and when to tell them next."""

    due: float
    pause: float
    told: float


class Upkeep:
    """The troubles of one node's held addresses."""

    def __init__(self) -> None:
        # Address -> when to configure it again; infinite while that is under way.
        self._missing: dict[str, float] = {}
        self._failing: dict[str, _Failing] = {}
        self._telling: dict[str, _Telling] = {}

    def lost(self, address: str, now: float) -> bool:
        """The kernel does not have ``address`` any longer; False when that is known."""
        if address in self._missing:
            return False
        self._missing[address] = now
        return True

    def restored(self, address: str, now: float) -> None:
        """It is there again; its scripts must hear of it."""
        self._missing.pop(address, None)
        self._failing.pop(address, None)
        self.forgotten(address, now)

    def failed(self, address: str, now: float) -> bool:
        """The kernel refused ``address``: whether that is to be borne no longer."""
        failing = self._failing.get(address)
        if failing is None or now - failing.latest > FORGET:
            failing = self._failing[address] = _Failing(0, now)
        failing.times += 1
        failing.latest = now
        if address in self._missing:
            self._missing[address] = now + RESTORE_PAUSE * 2 ** (failing.times - 1)
        return failing.times >= TRIES

    def forgotten(self, address: str, now: float) -> None:
        """What scripts attached to ``address`` may be gone: they must hear of it."""
        telling = self._telling.get(address)
        if telling is None or now - telling.told > CALM:
            self._telling[address] = _Telling(now, TELL_PAUSE, -math.inf)
        elif telling.due == math.inf:
            telling.due = max(now, telling.told + telling.pause)

    def told(self, address: str, now: float) -> None:
        """Scripts have heard of ``address`` as it is now, and it is configured."""
        self._missing.pop(address, None)
        telling = self._telling.get(address)
        if telling is not None:
            if telling.told > -math.inf:
                telling.pause = min(2 * telling.pause, LONGEST_TELL_PAUSE)
            telling.told = now
            telling.due = math.inf

    def released(self, address: str) -> None:
        """``address`` is not held any longer, or was taken anew."""
        self._missing.pop(address, None)
        self._failing.pop(address, None)
        self._telling.pop(address, None)

    def clear(self) -> None:
        """Nothing is held."""
        self._missing.clear()
        self._failing.clear()
        self._telling.clear()

    def to_restore(self, now: float, possible: Callable[[str], bool]) -> list[str]:
        """The addresses to configure now, if ``possible``; each is returned once until its answer has come."""
        due = [address for address, when in self._missing.items() if when <= now and possible(address)]
        for address in due:
            self._missing[address] = math.inf
        return due

    def to_tell(self, now: float) -> list[str]:
        """The addresses of which scripts must hear now, the longest waiting first."""
        if not self._telling:
            return []
        due = [(telling.due, address) for address, telling in self._telling.items() if telling.due <= now]
        return [address for _, address in sorted(due)]

    def latest_tell(self) -> float:
        """When the last of the scripts' news is due; 0 when there is none to tell."""
        return max((telling.due for telling in self._telling.values() if telling.due < math.inf), default=0.0)

    def next_due(self, since: float) -> float:
        """When time alone makes something due that was not at ``since``."""
        if not self._missing and not self._telling:
            return math.inf
        waiting = [*self._missing.values(), *(telling.due for telling in self._telling.values())]
        return min((when for when in waiting if when > since), default=math.inf)
