"""The state that all parts of one node share: its name, its view of the store, the time, and the list of effects.

Rules of this file: it decides nothing. The time is that of the input under way, so everything that follows from one
input happens at one instant.
"""

from __future__ import annotations

from locum.config.tunables import Tunables
from locum.rules.effects import Effect, Note
from locum.rules.schema import TunableRecord
from locum.rules.view import Versioned, View
from locum.store.base import Condition


class Context:
    """Shared by the parts of one node; single-threaded. ``now``: CLOCK_BOOTTIME seconds; ``wall``: unix seconds."""

    def __init__(self, name: str, view: View) -> None:
        self.name = name
        self.view = view
        self.now = 0.0
        self.wall = 0.0
        self.effects: list[Effect] = []
        #: The present membership of this node, or the one that it tries to get; "" without one.
        self.incarnation = ""
        #: The revision of this membership's last accepted beat as known here, 0 without one.
        self.last_beat = 0
        self._requests = 0
        self._tunables_at = -1
        # The tunable records last read, and the tunables made from them.
        self._tunables_read: dict[str, Versioned[TunableRecord]] = {}
        self._tunables = Tunables()

    @property
    def tunables(self) -> Tunables:
        """The cluster's tunables as last seen."""
        if self._tunables_at != self.view.revision or self._tunables_at == 0:
            self._tunables_at = self.view.revision
            if self.view.tunables != self._tunables_read:
                self._tunables_read = dict(self.view.tunables)
                values = {name: read.record.value for name, read in self._tunables_read.items()}
                self._tunables = Tunables.from_values(values)
        return self._tunables

    def new_request(self) -> int:
        """A number that was never used before, for a request."""
        self._requests += 1
        return self._requests

    def emit(self, effect: Effect) -> None:
        """Add an effect for the caller to carry out."""
        self.effects.append(effect)

    def note(self, text: str, level: str = "info") -> None:
        """Add a message for the log."""
        self.effects.append(Note(text, level))

    def membership(self) -> list[Condition]:
        """The conditions that this node's membership still exists, in a history of the store with its last beat.

        A store that was restored from a copy may have the membership at the same revision, but not that beat. The
        node's decisions depend on its actions until then, above all on its claims.
        """
        beat = Condition(f"beat/{self.name}", self.last_beat, at_least=True)
        return [self.view.condition(f"member/{self.name}"), *([beat] if self.last_beat else [])]
