"""A process with one loop, whose work is made of micro-steps between which it may be stopped or killed.

Rules of this file: it knows nothing of nodes. An act is a generator; at each ``yield`` the process may be stopped,
which is wherever a real process reads a clock, makes a system call, or returns to its loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from locum.sim.host import Host

Work = Iterator[None]


class Process:
    """One process, from its start until it ends or is killed."""

    def __init__(self, machine: Host) -> None:
        self.machine = machine
        self.world = machine.world
        self.clock = machine.clock
        self.kernel = machine.kernel
        self.alive = True
        self._inbox: deque[tuple[str, Callable[..., Work], tuple[Any, ...]]] = deque()
        self._current: Work | None = None
        self._pumping = False

    def post(self, source: str, act: Callable[..., Work], *arguments: Any) -> None:
        """Something for the loop to do; in order with everything else from ``source``."""
        if self.alive:
            self._inbox.append((source, act, arguments))
            if not self._pumping:
                self.pump()

    def pump(self) -> None:
        """Run until there is nothing left to do or the process is stopped in the midst of something."""
        machine = self.machine
        if self._pumping or machine.agent_stopped:
            return
        self._pumping = True
        inbox = self._inbox
        while self.alive:
            if self._current is None:
                if not inbox:
                    break
                _, act, arguments = inbox.popleft()
                self._current = act(*arguments)
            for _ in self._current:
                if machine.trap and machine.sprung():
                    self._pumping = False
                    return
            self._current = None
        self._pumping = False

    def thawed(self) -> None:
        """Whatever came meanwhile is waiting; the loop takes it in any order, but each stream in its own."""
        if len(self._inbox) > 1:
            streams: dict[str, deque[tuple[str, Callable[..., Work], tuple[Any, ...]]]] = {}
            for item in self._inbox:
                streams.setdefault(item[0], deque()).append(item)
            self._inbox.clear()
            random = self.machine.random
            names = list(streams)
            while names:
                name = random.choice(names)
                self._inbox.append(streams[name].popleft())
                if not streams[name]:
                    names.remove(name)
        self.pump()

    def die(self) -> None:
        """SIGKILL."""
        self.alive = False
        self._inbox.clear()
        self._current = None

    def say(self, text: str) -> None:
        """A line for the timeline."""
        self.world.trace.say(self.machine.name, text)
