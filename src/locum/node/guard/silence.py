"""Silencing the node: the gate is shut and the addresses are removed, by two threads of their own.

Each asks for a lock of the kernel that another program may hold for seconds (nftables' for a large ruleset, rtnetlink's
for the end of a large network namespace). The threads are there from the beginning: when the node must fall silent, the
system may have no process or thread left. Neither waits for the other, and the guard's loop for none: the kernel's
timers have silenced the node by themselves, the agent is to be watched, and signals are to be heard.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import wait

from locum.threads import NoAnswer, Worker

#: Seconds that the end of the guard waits for both.
LIMIT = 20.0


class Silencer:
    """``shut`` shuts the gate, ``clear`` removes the addresses; neither raises. What was asked for is not done any more
    when ``due`` says so by then: a hold that came back meanwhile is not to be cut short.

    Raises NoAnswer when the system has no threads for it.
    """

    def __init__(
        self,
        shut: Callable[[], None],
        clear: Callable[[], None],
        due: Callable[[], bool],
        log: Callable[[str, str], None],
    ) -> None:
        self._shut = shut
        self._clear = clear
        self._due = due
        self._log = log
        self._workers = (Worker("gate", room=2), Worker("addresses", room=2))
        for worker in self._workers:
            worker.prepare()

    def begin(self) -> None:
        """Silence the node; does not wait."""
        for worker, what, work in zip(
            self._workers,
            ("shutting the gate", "removing the public addresses"),
            (self._shut, self._clear),
            strict=True,
        ):
            try:
                worker.submit(what, self._if_due, work)
            except NoAnswer as error:
                self._log(str(error), "error")

    def finish(self, limit: float = LIMIT) -> bool:
        """Silence the node for good, and wait for it, ``limit`` seconds at most; whether it was done."""
        try:
            pending = [
                worker.submit(what, work)
                for worker, what, work in zip(
                    self._workers,
                    ("shutting the gate", "removing the public addresses"),
                    (self._shut, self._clear),
                    strict=True,
                )
            ]
        except NoAnswer as error:
            self._log(str(error), "error")
            return False
        return not wait(pending, limit).not_done

    def _if_due(self, work: Callable[[], None]) -> None:
        if self._due():
            work()
