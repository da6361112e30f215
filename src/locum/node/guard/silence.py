"""Silencing the node: the gate is shut and the addresses are removed, by two threads of their own.

Each asks for a lock of the kernel that another program may hold for seconds (nftables' for a large ruleset, rtnetlink's
for the end of a large network namespace). The threads are there from the beginning: when the node must fall silent, the
system may have no process or thread left. Neither waits for the other, and the guard's loop for none: the kernel's
timers have silenced the node by themselves, the agent is to be watched, and signals are to be heard.

A part that failed is repeated (:meth:`Silencer.again`) until it succeeds or a new hold has begun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from locum.node.guard.ports import Log, WakeupsPort, WorkerPort
from locum.threads import NoAnswer

#: Seconds that the end of the guard waits for both.
LIMIT = 20.0
#: Silencing calls that wait for each thread, at most.
ROOM = 2

#: Does a part of the silencing; returns what went wrong, one line each. Does not raise.
Work = Callable[[], Iterable[str]]


class _Part:
    """One half of the silencing. ``failed`` and ``said`` belong to its thread; the loop only reads ``failed``."""

    def __init__(self, worker: WorkerPort, what: str, work: Work) -> None:
        self.worker = worker
        self.what = what
        self.work = work
        self.failed = False
        self.said: frozenset[str] = frozenset()


class Silencer:
    """``shut`` shuts the gate on the thread ``gate``, ``clear`` removes the addresses on the thread ``addresses``.

    A call that was requested earlier does nothing when ``due`` is false by then: a hold that came back meanwhile is not
    to be cut short. Raises NoAnswer when the system has no threads for it.
    """

    def __init__(
        self, gate: WorkerPort, addresses: WorkerPort, shut: Work, clear: Work, due: Callable[[], bool], log: Log
    ) -> None:
        self._due = due
        self._log = log
        self._parts = (
            _Part(gate, "shutting the gate", shut),
            _Part(addresses, "removing the public addresses", clear),
        )
        for part in self._parts:
            part.worker.prepare()

    def begin(self) -> None:
        """Silence the node; does not wait."""
        for part in self._parts:
            self._submit(part)

    def again(self) -> None:
        """Repeat what failed; does not wait."""
        for part in self._parts:
            if part.failed:
                part.failed = False
                self._submit(part)

    def finish(self, wakeups: WakeupsPort, limit: float = LIMIT) -> bool:
        """Silence the node for good, and wait for it, ``limit`` seconds at most; whether no public address is left."""
        try:
            pending = [part.worker.submit(part.what, self._carry_out, part) for part in self._parts]
        except NoAnswer as error:
            self._log(str(error), "error")
            return False
        _, clear = self._parts
        return wakeups.await_calls(pending, limit) and not clear.failed

    def _submit(self, part: _Part) -> None:
        try:
            part.worker.submit(part.what, self._if_due, part)
        except NoAnswer as error:
            self._log(str(error), "error")

    def _if_due(self, part: _Part) -> None:
        if self._due():
            self._carry_out(part)
        else:
            part.failed = False

    def _carry_out(self, part: _Part) -> None:
        problems = frozenset(part.work())
        # A kernel that goes on to refuse is reported once.
        for problem in sorted(problems - part.said):
            self._log(problem, "error")
        part.said = problems
        part.failed = bool(problems)
