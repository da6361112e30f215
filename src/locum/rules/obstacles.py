"""Obstacles that keep a whole node from serving, and warnings for its admins.

Rules of this file: reasons and times (seconds of the boot-time clock), reported by the agent and published in the
node's health record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

#: Limits on the number and length of published warnings: they are in every node's view.
MOST_WARNINGS, LONGEST_WARNING = 12, 400


class Obstacles:
    """The obstacles and warnings of one node; ``hold`` in seconds.

    An obstacle counts once it has lasted for half a hold. While the kernel's gate cannot be armed, its earlier timer
    continues, so a single failure has no effect.
    """

    def __init__(self, hold: float) -> None:
        self._patience = hold / 2
        # Kind → (since when, the latest reason).
        self._obstacles: dict[str, tuple[float, str]] = {}
        self._warnings: dict[str, tuple[str, ...]] = {}

    def seen(self, kind: str, problem: str, now: float) -> None:
        """``kind`` has failed with ``problem``, or ("") works."""
        if problem:
            since, _ = self._obstacles.get(kind, (now, ""))
            self._obstacles[kind] = (since, problem)
        else:
            self._obstacles.pop(kind, None)

    def unable(self, now: float) -> str:
        """Why the node can serve no address, "" when it can."""
        if not self._obstacles:
            return ""
        return "; ".join(problem for since, problem in self._obstacles.values() if now - since >= self._patience)

    def next_due(self, since: float) -> float:
        """When an obstacle that did not count at ``since`` begins to count."""
        if not self._obstacles:
            return math.inf
        times = [began + self._patience for began, _ in self._obstacles.values()]
        return min((time for time in times if time > since), default=math.inf)

    def warn(self, source: str, texts: tuple[str, ...]) -> None:
        """Replace the warnings of ``source``."""
        if texts:
            self._warnings[source] = texts
        else:
            self._warnings.pop(source, None)

    def warnings(self) -> tuple[str, ...]:
        """All warnings, in a fixed order."""
        return published(self._warnings) if self._warnings else ()


def published(warnings: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The warnings of all sources, as in the health record."""
    texts = [text for source in sorted(warnings) for text in warnings[source]]
    shown = [text if len(text) <= LONGEST_WARNING else text[: LONGEST_WARNING - 3] + "..." for text in texts]
    if len(shown) > MOST_WARNINGS:
        left = len(shown) - MOST_WARNINGS + 1
        shown = [*shown[: MOST_WARNINGS - 1], f"and {left} more; 'locum doctor' on that node lists all"]
    return tuple(shown)
