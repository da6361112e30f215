"""Ports on which services should listen, and whether a missing listener is a failure.

This file reads scripts' declarations (one file per script, ``docs/events.md``) and decides only this: a service that is
stopped on purpose is not a failure. While the node leaves, all services are. While an event other than ``monitor``
runs, its scripts may stop and start services, so the state after the event counts. A port that was withdrawn, or whose
script no longer runs, is expected to be closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

import msgspec

from locum.events.model import Event


class Situation(msgspec.Struct, frozen=True):
    """The node's present activity: whether it leaves, the running event, the names of the enabled scripts (None:
    unknown yet)."""

    leaving: bool = False
    running: Event | None = None
    enabled: frozenset[str] | None = None


class PortWatch:
    """Calls ``closed(port)`` when a declared port that should be open has no listener.

    ``directory`` has the declarations. ``watch`` receives the ports to watch whenever they change. ``look`` reports
    (by calling :meth:`gone`) which of some ports have no listener. Before every other call, the caller runs
    :meth:`load` where waiting is allowed: it reads the files.
    """

    def __init__(
        self,
        directory: str,
        *,
        situation: Callable[[], Situation],
        watch: Callable[[Collection[int]], None],
        look: Callable[[Collection[int]], None],
        closed: Callable[[int], None],
    ) -> None:
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
        """Read the files of running scripts, if any has changed."""
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
        """Watch the declared ports, if they have changed."""
        if self._loaded is None or self._loaded[0] == self._stamp:
            return
        self._stamp, self._ports = self._loaded
        self._watch(self._ports)

    def gone(self, port: int) -> None:
        """``port`` has no listener any longer."""
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
        """An event has ended: read the declarations of its scripts; their services should run again."""
        self.read()
        doubtful, self._doubtful = self._doubtful & self._ports, set()
        if doubtful:
            self._look(doubtful)
