"""The one activity of a node: an event, or the take, release or update of an address.

Rules of this file: at most one activity is under way, because events must not overlap (I5). It knows neither why an
activity was started nor what its end means; the part that starts it brings a function for that.
"""

from __future__ import annotations

from collections.abc import Callable

from locum.cluster.context import Context
from locum.cluster.effects import CancelActivity

#: Called with (whether it succeeded, the reason when it did not).
Done = Callable[[bool, str], None]


class Activity:
    """The activity under way on one node, if there is one."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ticket = 0
        self._done: Done | None = None
        #: The event or kind of the activity under way; None when there is none.
        self.name: str | None = None
        #: Whether the activity under way, or the last one, was asked to end early.
        self.cancelling = False

    @property
    def idle(self) -> bool:
        """Whether no activity is under way."""
        return self.name is None

    def begin(self, name: str, done: Done) -> int:
        """Start the one activity; returns the ticket for its effect. ``done(ok, reason)`` is called at its end."""
        assert self.name is None, f"I5: {name} must not start while {self.name} runs"
        self._ticket = self._context.ticket()
        self.name, self._done = name, done
        self.cancelling = False
        return self._ticket

    def cancel(self) -> None:
        """Ask for the early end of the activity under way. Only ``startup`` and ``monitor`` are ever cancelled."""
        if self.name is not None and not self.cancelling:
            self.cancelling = True
            self._context.emit(CancelActivity(self._ticket))

    def ended(self, ticket: int, ok: bool, reason: str) -> None:
        """The activity of ``ticket`` has ended. An answer to any other ticket is ignored."""
        done = self._done
        if done is None or self._ticket != ticket:
            return
        self.name = self._done = None
        done(ok, reason)
