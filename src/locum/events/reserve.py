"""Descriptors kept back for a time when there are no others.

A daemon that has run out of descriptors must still be able to look into its script directory: scripts are started by
the runner, a process with a table of its own, and they are fine. Without a reserve a shortage in the daemon would look
as if every script had failed, and the node would be unhealthy, and banned, for what is no fault of its services.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

#: A directory and a file in it, at one time.
_KEPT = 2


class Reserve:
    """A few open descriptors that are of no use but to be closed. Not for use from several threads."""

    def __init__(self) -> None:
        self._kept: list[int] = []
        self._fill()

    @contextlib.contextmanager
    def spent(self) -> Iterator[None]:
        """Within the block so many descriptors are free; nobody else may open one meanwhile."""
        self.close()
        try:
            yield
        finally:
            self._fill()

    def close(self) -> None:
        """Give all of them back."""
        while self._kept:
            os.close(self._kept.pop())

    def _fill(self) -> None:
        try:
            while len(self._kept) < _KEPT:
                self._kept.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            pass  # somebody else was short as well; the next time may be better
