"""Trouble with held addresses: the kernel loses them, refuses them, or loses state that scripts had attached to them.

Rules of this file: addresses, reasons and times (seconds of the boot-time clock); nothing of plans, claims or the
store. A lost address is restored at once. When the kernel refuses it several times in a row, this node gives it up so
that another node gets it. ``takeip`` runs again for each restored address: soon after the first loss, less often when
losses repeat.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

#: A held address is given up after this many failures in a row to configure it or to renew its lifetime.
TRIES = 3
#: Pause before the second attempt to configure it, in seconds; it doubles.
RESTORE_PAUSE = 0.2
#: Failures further apart than this are not "in a row", in seconds.
FORGET = 5.0
#: Shortest time between two ``takeip`` of a held address, in seconds. It doubles up to the longest, and is reset when
#: nothing has happened for :data:`CALM` seconds.
RETAKE_PAUSE, LONGEST_RETAKE_PAUSE, CALM = 1.0, 60.0, 300.0


class _Failing(msgspec.Struct):
    """Failures in a row: their number, and the time of the latest."""

    times: int
    latest: float


class _Retake(msgspec.Struct):
    """When ``takeip`` last ran for an address (how often, and the pause after it), and when it is to run next."""

    due: float
    pause: float
    latest: float


class Upkeep:
    """The troubles of one node's held addresses."""

    def __init__(self) -> None:
        # Address → when to configure it again; infinite while that is under way.
        self._missing: dict[str, float] = {}
        self._failing: dict[str, _Failing] = {}
        self._retakes: dict[str, _Retake] = {}

    def lost(self, address: str, now: float) -> bool:
        """The kernel no longer has ``address``; False when that is known already."""
        if address in self._missing:
            return False
        self._missing[address] = now
        return True

    def restored(self, address: str, now: float) -> None:
        """It is configured again; its scripts must run."""
        self._missing.pop(address, None)
        self._failing.pop(address, None)
        self.forgotten(address, now)

    def failed(self, address: str, now: float) -> bool:
        """The kernel refused ``address``; returns whether to give it up."""
        failing = self._failing.get(address)
        if failing is None or now - failing.latest > FORGET:
            failing = self._failing[address] = _Failing(0, now)
        failing.times += 1
        failing.latest = now
        if address in self._missing:
            self._missing[address] = now + RESTORE_PAUSE * 2 ** (failing.times - 1)
        return failing.times >= TRIES

    def forgotten(self, address: str, now: float) -> None:
        """State that scripts attached to ``address`` may be gone: they must run again."""
        retake = self._retakes.get(address)
        if retake is None or now - retake.latest > CALM:
            self._retakes[address] = _Retake(now, RETAKE_PAUSE, -math.inf)
        elif retake.due == math.inf:
            retake.due = max(now, retake.latest + retake.pause)

    def retaken(self, address: str, now: float) -> None:
        """``takeip`` has run for ``address`` in its present state, and it is configured."""
        self._missing.pop(address, None)
        retake = self._retakes.get(address)
        if retake is not None:
            if retake.latest > -math.inf:
                retake.pause = min(2 * retake.pause, LONGEST_RETAKE_PAUSE)
            retake.latest = now
            retake.due = math.inf

    def released(self, address: str) -> None:
        """``address`` is no longer held, or was taken again."""
        self._missing.pop(address, None)
        self._failing.pop(address, None)
        self._retakes.pop(address, None)

    def clear(self) -> None:
        """No address is held."""
        self._missing.clear()
        self._failing.clear()
        self._retakes.clear()

    def to_restore(self, now: float, possible: Callable[[str], bool]) -> list[str]:
        """The addresses to configure now, if ``possible``; each is returned once until its answer has come."""
        due = [address for address, when in self._missing.items() if when <= now and possible(address)]
        for address in due:
            self._missing[address] = math.inf
        return due

    def retakes_due(self, now: float) -> list[str]:
        """The addresses for which ``takeip`` must run now, the longest waiting first."""
        if not self._retakes:
            return []
        due = [(retake.due, address) for address, retake in self._retakes.items() if retake.due <= now]
        return [address for _, address in sorted(due)]

    def latest_retake(self) -> float:
        """When the last pending ``takeip`` is due; 0 without any."""
        return max((retake.due for retake in self._retakes.values() if retake.due < math.inf), default=0.0)

    def next_due(self, since: float) -> float:
        """When time alone makes something due that was not at ``since``."""
        if not self._missing and not self._retakes:
            return math.inf
        waiting = [*self._missing.values(), *(retake.due for retake in self._retakes.values())]
        return min((when for when in waiting if when > since), default=math.inf)
