"""What is to happen in the midst of a simulated process's work: it is stopped, or killed."""

from __future__ import annotations

from collections.abc import Callable


class Trap:
    """Something that is to happen after a number of a process's steps."""

    def __init__(self) -> None:
        #: Steps until it happens; 0: never.
        self.steps = 0
        self._snare: Callable[[], None] | None = None

    def set(self, steps: int, snare: Callable[[], None]) -> None:
        """Call ``snare`` after this number of steps."""
        self.steps, self._snare = max(1, steps), snare

    def clear(self) -> None:
        """Nothing happens."""
        self.steps, self._snare = 0, None

    def count(self) -> Callable[[], None] | None:
        """The process has made a step; what is to happen now, if anything is."""
        self.steps -= 1
        if self.steps:
            return None
        snare, self._snare = self._snare, None
        return snare
