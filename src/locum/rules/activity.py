"""The one activity of a node: an event, or the take, release or update of an address.

Rules of this file: at most one activity is under way, because events must not overlap (I5). It knows neither the reason
of an activity nor the meaning of its end; the part that starts the activity passes a function for that.
"""

from __future__ import annotations

from collections.abc import Callable

from locum.rules.context import Context
from locum.rules.effects import CancelActivity

#: Called with (whether it succeeded, the reason when it did not).
Done = Callable[[bool, str], None]


class Activity:
    """The activity under way on one node, if there is one."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._request = 0
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
        """Start the one activity; returns the request for its effect. ``done(ok, reason)`` is called at its end."""
        assert self.name is None, f"I5: {name} must not start while {self.name} runs"
        self._request = self._context.new_request()
        self.name, self._done = name, done
        self.cancelling = False
        return self._request

    def cancel(self) -> None:
        """Ask the activity under way to end early. Only ``startup`` and ``monitor`` are ever cancelled."""
        if self.name is not None and not self.cancelling:
            self.cancelling = True
            self._context.emit(CancelActivity(self._request))

    def ended(self, request: int, ok: bool, reason: str) -> None:
        """The activity of ``request`` has ended. An answer to any other request is ignored."""
        done = self._done
        if done is None or self._request != request:
            return
        self.name = self._done = None
        done(ok, reason)
