"""The ports whose connections are registered: those of the configuration, and those that event scripts have declared.

A script declares the ports of its service in a file of its own in ``<runtime>/listen`` (``docs/events.md``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable


class DeclaredPorts:
    """Reads ``directory`` again only when something in it has changed."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._stamp: object = None
        self._ports: frozenset[int] = frozenset()

    def read(self) -> frozenset[int]:
        """The ports in force; those of the last reading when the directory cannot be read."""
        try:
            with os.scandir(self._directory) as entries:
                stamp = sorted((e.name, e.stat().st_mtime_ns, e.stat().st_size) for e in entries)
            if stamp != self._stamp:
                self._ports = _ports(os.path.join(self._directory, name) for name, _, _ in stamp)
                self._stamp = stamp
        except FileNotFoundError:
            self._ports, self._stamp = frozenset(), None
        except OSError:
            pass
        return self._ports


def _ports(files: Iterable[str]) -> frozenset[int]:
    found: set[int] = set()
    for name in files:
        with open(name, encoding="utf-8", errors="replace") as file:
            found.update(int(word) for word in file.read().split() if word.isascii() and word.isdigit())
    return frozenset(port for port in found if 0 < port < 65536)
