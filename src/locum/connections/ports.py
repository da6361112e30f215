"""The ports whose connections are recorded: from the configuration, and declared by event scripts.

A script declares the ports on which its service listens in its own file in ``<runtime>/listen``. Ports without a
permanent listener whose connections are to be recorded go to ``<runtime>/connections`` (``docs/connections.md``).
A line has one port or ``FIRST-LAST``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable


class DeclaredPorts:
    """The ports of all files in ``listen`` and in ``connections`` beside it; read again only after a change."""

    def __init__(self, listen: str) -> None:
        self._directories = (listen, os.path.join(os.path.dirname(listen), "connections"))
        self._stamp: object = None
        #: The ports of the last reading.
        self.ports: frozenset[int] = frozenset()

    def read(self) -> frozenset[int]:
        """The ports in force; those of the last reading when the directories cannot be read."""
        try:
            stamp = [line for directory in self._directories for line in _stamp(directory)]
            if stamp != self._stamp:
                self.ports = _ports(path for path, _, _ in stamp)
                self._stamp = stamp
        except OSError:
            pass
        return self.ports


def _stamp(directory: str) -> list[tuple[str, int, int]]:
    """A value that changes with every change of a file in the directory."""
    try:
        with os.scandir(directory) as entries:
            return sorted((e.path, e.stat().st_mtime_ns, e.stat().st_size) for e in entries)
    except FileNotFoundError:
        if os.path.isdir(directory):
            raise  # a file has just vanished
        return []


def _ports(files: Iterable[str]) -> frozenset[int]:
    found: set[int] = set()
    for name in files:
        with open(name, encoding="utf-8", errors="replace") as file:
            for word in file.read().split():
                first, dash, last = word.partition("-")
                if _is_port(first) and (not dash or _is_port(last)):
                    found.update(range(int(first), int(last if dash else first) + 1))
    return frozenset(found)


def _is_port(word: str) -> bool:
    return word.isascii() and word.isdigit() and 0 < int(word) < 65536
