"""Records which scripts have had their ``startup``: a script that joins a running node gets it before any other event.

Rules of this file: names, and one small file. It begins to count when ``startup`` has succeeded for all scripts, and
ends with ``init``. A script that is removed or disabled is dropped: when it returns, it counts as new. A script
whose content changes is not dropped: its service is running already.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence

import msgspec

from locum.events.directory import Script
from locum.events.model import Event

_decoder = msgspec.json.Decoder(set[str])


class Started:
    """The scripts that have had their ``startup``, on file for an agent that restarts. ``later`` carries out what
    writes the file, in order; only that and :meth:`adopt` touch it."""

    def __init__(self, runtime: str, later: Callable[[Callable[[], None]], None]) -> None:
        self._later = later
        self._file = os.path.join(runtime, "events", "started.json")
        self._names: set[str] | None = None

    def adopt(self) -> None:
        """Adopt the record of an earlier agent."""
        try:
            with open(self._file, "rb") as file:
                self._names = _decoder.decode(file.read())
        except (OSError, msgspec.DecodeError):
            self._names = None

    def forget(self) -> None:
        """The node starts: nothing counts until ``startup`` has succeeded for all scripts."""
        self._names = None
        self._later(self._remove)

    def all_started(self, scripts: Iterable[Script]) -> None:
        """``startup`` has succeeded for ``scripts``: all of the directory."""
        self._names = {script.name for script in scripts if _needs(script)}
        self._write()

    def started(self, name: str) -> None:
        """The script ``name`` has had its own ``startup``."""
        if self._names is not None:
            self._names.add(name)
            self._write()

    def keep(self, scripts: Sequence[Script]) -> None:
        """Drop scripts that are missing, or disabled, among the ``scripts`` in use."""
        if self._names is not None and (gone := self._names - {script.name for script in scripts if _needs(script)}):
            self._names -= gone
            self._write()

    def late(self, scripts: Iterable[Script]) -> list[Script]:
        """Those of ``scripts`` that need a ``startup`` first."""
        if self._names is None:
            return []
        return [script for script in scripts if _needs(script) and script.name not in self._names]

    def _write(self) -> None:
        data = msgspec.json.encode(sorted(self._names or ()))
        self._later(lambda: self._replace(data))

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._file)

    def _replace(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a restarted agent starts a running service: harmless
            os.makedirs(os.path.dirname(self._file), exist_ok=True)
            with open(self._file + ".new", "wb") as file:
                file.write(data)
            os.replace(self._file + ".new", self._file)


def _needs(script: Script) -> bool:
    return script.enabled and script.handles(Event.STARTUP)
