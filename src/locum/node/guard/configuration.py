"""What the guard knows of the configuration: as of its start, or of the last reload.

Rules of this file: a thread reads the configuration. The file system that has it may hang, and a new agent must not
wait for that. A file that is wrong, or that has been edited and not reloaded, changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Generic, TypeVar

from locum.errors import LocumError
from locum.node.guard.ports import Log, WakeupsPort, WorkerPort
from locum.threads import NoAnswer

S = TypeVar("S")

#: Seconds that a new agent waits for a reload that is being read.
REREAD_PATIENCE = 0.5


class Configuration(Generic[S]):
    """``settings``: those in force. ``read`` makes those of a reload from the ones in force; raises LocumError.
    ``addresses_of``: the public addresses of settings. Raises NoAnswer when the system has no thread for it."""

    def __init__(
        self,
        settings: S,
        read: Callable[[S], S],
        addresses_of: Callable[[S], Iterable[str]],
        worker: WorkerPort,
        log: Log,
    ) -> None:
        self.settings = settings
        #: Every public address since the beginning.
        self.addresses = list(addresses_of(settings))
        self._read_settings = read
        self._addresses_of = addresses_of
        self._log = log
        self._worker = worker
        # What is reloaded while the system has no thread left must be known when its addresses are to be removed.
        self._worker.prepare()
        self._pending: Future[None] | None = None

    def reread(self) -> None:
        """Read it again soon; does not wait."""
        try:
            self._pending = self._worker.submit("reading the configuration", self._read)
        except NoAnswer as error:
            self._log(f"reload: {error}", "error")

    def await_reread(self, wakeups: WakeupsPort) -> None:
        """Let an agent that starts now have a reload of just now; a file system that hangs is not waited for."""
        if self._pending is not None:
            wakeups.await_calls([self._pending], REREAD_PATIENCE)

    def _read(self) -> None:
        try:
            # A new agent gets what the one before had: neither takes up what needs a restart.
            self.settings = self._read_settings(self.settings)
        except LocumError as error:
            self._log(f"reload: {error}", "error")
            return
        self.addresses = list(dict.fromkeys([*self.addresses, *self._addresses_of(self.settings)]))
