"""What keeps a node as a whole from serving, and what else its admins should know.

Rules of this file: reasons and times (seconds of the boot-time clock), told by the machine's side and published in the
node's health record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

#: As many warnings are published, each as long: they are in every node's view.
MOST_WARNINGS, LONGEST_WARNING = 12, 400


class Obstacles:
    """The obstacles and warnings of one node; ``hold`` in seconds.

    An obstacle counts once it has lasted for half a hold: while the kernel's gate cannot be armed, the time that it was
    armed for before goes on, so that a single failure costs nothing.
    """

    def __init__(self, hold: float) -> None:
        self._patience = hold / 2
        # Kind -> (since when, the latest reason).
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
        """Why the node can serve nothing, "" when it can."""
        if not self._obstacles:
            return ""
        return "; ".join(problem for since, problem in self._obstacles.values() if now - since >= self._patience)

    def next_due(self, since: float) -> float:
        """When an obstacle begins to count that did not at ``since``."""
        if not self._obstacles:
            return math.inf
        times = [began + self._patience for began, _ in self._obstacles.values()]
        return min((time for time in times if time > since), default=math.inf)

    def warn(self, source: str, texts: tuple[str, ...]) -> None:
        """What ``source`` has to tell, replacing what it told before."""
        if texts:
            self._warnings[source] = texts
        else:
            self._warnings.pop(source, None)

    def warnings(self) -> tuple[str, ...]:
        """All of it, in a fixed order."""
        return published(self._warnings) if self._warnings else ()


def published(warnings: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The warnings of all sources as the health record carries them."""
    texts = [text for source in sorted(warnings) for text in warnings[source]]
    shown = [text if len(text) <= LONGEST_WARNING else text[: LONGEST_WARNING - 3] + "..." for text in texts]
    if len(shown) > MOST_WARNINGS:
        left = len(shown) - MOST_WARNINGS + 1
        shown = [*shown[: MOST_WARNINGS - 1], f"and {left} more; 'locum doctor' on that node lists all"]
    return tuple(shown)
