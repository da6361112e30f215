"""Spare descriptors for times without free ones.

A daemon without free descriptors must still be able to read its script directory: the runner, a process with its own
descriptor table, starts the scripts, and these are unaffected. Without the reserve, a shortage in the daemon would look
like the failure of every script, and the node would become unhealthy, and banned, although its services are healthy.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

#: A directory and a file in it, at one time.
_KEPT = 2


class SpareDescriptors:
    """A few open descriptors that serve only to be closed. Not for use from several threads."""

    def __init__(self) -> None:
        self._kept: list[int] = []
        self._fill()

    @contextlib.contextmanager
    def spent(self) -> Iterator[None]:
        """Within the block, this number of descriptors is free; no other code may open one meanwhile."""
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
            pass  # other code was short as well; retried the next time
