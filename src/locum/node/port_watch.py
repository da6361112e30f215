"""Ports that a service is expected to listen on, and whether it is news that nobody does.

Rules of this file: it reads what scripts have declared (one file per script, ``docs/events.md``) and decides nothing
but this: a service that is being stopped on purpose is no news. While the node leaves, every service is; while an
event runs other than ``monitor``, its scripts may stop and start what they look after, so that what counts is how it
is afterwards; and a port that was withdrawn, or whose script no longer runs, is expected to be closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

import msgspec

from locum.events.model import Event


class Situation(msgspec.Struct, frozen=True):
    """What the node does at the moment: whether it leaves, the event that runs, the names of the enabled scripts (None:
    not known yet)."""

    leaving: bool = False
    running: Event | None = None
    enabled: frozenset[str] | None = None


class PortWatch:
    """Tells ``closed(port)`` when nobody listens on a declared port who should.

    ``directory`` has the declarations; ``watch`` is given the ports to watch whenever they change; ``look`` is asked to
    say again (by :meth:`gone`) which of some ports nobody listens on. Files are read by every call, unless ``reads`` is
    false: then the caller has :meth:`load` called before, where waiting is allowed.
    """

    def __init__(
        self,
        directory: str,
        *,
        situation: Callable[[], Situation],
        watch: Callable[[Collection[int]], None],
        look: Callable[[Collection[int]], None],
        closed: Callable[[int], None],
        reads: bool = True,
    ) -> None:
        self._reads = reads
        self._directory = directory
        self._situation = situation
        self._watch = watch
        self._look = look
        self._closed = closed
        self._loaded: tuple[list[tuple[str, int]], frozenset[int]] | None = None
        self._stamp: object = None
        self._ports: frozenset[int] = frozenset()
        self._doubtful: set[int] = set()

    def load(self) -> None:
        """Read the files of scripts that run, if any has changed."""
        enabled = self._situation().enabled
        try:
            names = [n for n in sorted(os.listdir(self._directory)) if enabled is None or n in enabled]
            stamp = [(name, os.stat(os.path.join(self._directory, name)).st_mtime_ns) for name in names]
            if self._loaded is not None and stamp == self._loaded[0]:
                return
            ports = set()
            for name in names:
                with open(os.path.join(self._directory, name), encoding="utf-8", errors="replace") as file:
                    ports |= {int(word) for word in file.read().split() if word.isdecimal() and len(word) <= 5}
        except OSError:
            return
        self._loaded = stamp, frozenset(ports)

    def read(self) -> None:
        """Watch what is declared now, if that has changed."""
        if self._reads:
            self.load()
        if self._loaded is None or self._loaded[0] == self._stamp:
            return
        self._stamp, self._ports = self._loaded
        self._watch(self._ports)

    def gone(self, port: int) -> None:
        """Nobody listens on ``port`` any longer."""
        now = self._situation()
        if now.leaving or now.running is Event.SHUTDOWN:
            return
        self.read()
        if port not in self._ports:
            return
        if now.running in (None, Event.MONITOR):
            self._closed(port)
        else:
            self._doubtful.add(port)

    def event_ended(self) -> None:
        """An event has ended: what its scripts declared counts, and what they stopped should run again."""
        self.read()
        doubtful, self._doubtful = self._doubtful & self._ports, set()
        if doubtful:
            self._look(doubtful)
