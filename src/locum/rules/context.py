"""What all parts of one node share: its name, its view of the store, the time, and the way out for effects.

Rules of this file: it decides nothing. The time is that of the input under way, so everything that one input leads to
happens at one instant.
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
        #: The present membership of this node, or the one that it tries to get; "" without.
        self.incarnation = ""
        #: The revision of this membership's last accepted beat that is known here, 0 when there is none.
        self.last_beat = 0
        self._tickets = 0
        self._tunables_at = -1
        # What was read from the store, and what it means.
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
        """A number that was never used before."""
        self._tickets += 1
        return self._tickets

    def emit(self, effect: Effect) -> None:
        """Ask the caller to do something."""
        self.effects.append(effect)

    def note(self, text: str, level: str = "info") -> None:
        """Tell the admin something."""
        self.effects.append(Note(text, level))

    def membership(self) -> list[Condition]:
        """The conditions that this node's membership stands, in a history of the store that has its last beat.

        A store that was restored from a copy may have the membership at the same revision, but not that beat. What
        the node decides rests on what it did until then, its claims above all.
        """
        beat = Condition(f"beat/{self.name}", self.last_beat, at_least=True)
        return [self.view.condition(f"member/{self.name}"), *([beat] if self.last_beat else [])]
