"""Keeps on file which scripts have had their ``startup``: a script that joins a running node gets it before any other
event (:mod:`locum.events.decisions`).

Rules of this file: one value, and one small file for an agent that restarts. A script whose content changes stays: its
service is running already.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import msgspec

from locum.events.decisions import Started

_decoder = msgspec.json.Decoder(frozenset[str])


class StartedFile:
    """The scripts that have had their ``startup``. ``later`` carries out what writes the file, in order; only that and
    :meth:`adopt` touch it."""

    def __init__(self, runtime: str, later: Callable[[Callable[[], None]], None]) -> None:
        self._later = later
        self._file = os.path.join(runtime, "events", "started.json")
        self.names: Started = None

    def adopt(self) -> None:
        """Adopt the record of an earlier agent."""
        with contextlib.suppress(OSError, msgspec.DecodeError), open(self._file, "rb") as file:
            self.names = _decoder.decode(file.read())

    def keep(self, names: Started) -> None:
        """Remember ``names``."""
        if names != self.names:
            self.names = names
            self._later(self._remove if names is None else lambda: self._replace(msgspec.json.encode(sorted(names))))

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._file)

    def _replace(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a restarted agent starts a running service: harmless
            os.makedirs(os.path.dirname(self._file), exist_ok=True)
            with open(self._file + ".new", "wb") as file:
                file.write(data)
            os.replace(self._file + ".new", self._file)
