"""File descriptors that belong together and are closed together."""

from __future__ import annotations

import os


class Descriptors:
    """A set of open descriptors of this process."""

    def __init__(self) -> None:
        self._open: list[int] = []

    def keep(self, descriptor: int) -> int:
        """Take ``descriptor`` in."""
        self._open.append(descriptor)
        return descriptor

    def pipe(self) -> tuple[int, int]:
        """A new pipe: its reading and its writing end."""
        reading, writing = os.pipe()
        return self.keep(reading), self.keep(writing)

    def shut(self, descriptor: int) -> None:
        """Close one of them."""
        self._open.remove(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        """Close all that are still open."""
        while self._open:
            os.close(self._open.pop())
