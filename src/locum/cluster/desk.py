"""The desk at which a node's rules work: its view, the time, and what is under way.

Every part of :mod:`locum.cluster.node` gets the same desk. It keeps two promises for them: of one kind of
commit at most one is under way, and a commit that was refused or not answered is not repeated in a tight loop;
of *activities* (event runs, which must not overlap, I5) at most one is under way at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from locum.cluster.effects import CancelActivity, CommitWork, Effect, Note
from locum.cluster.view import View
from locum.config.tunables import Tunables
from locum.store.base import Commit, CommitResult, Condition, Operation

#: Pause before a refused commit is tried again when the view does not move, in seconds.
REFUSED_PAUSE = 0.05
#: Pause after a commit that the store did not answer, in seconds.
UNANSWERED_PAUSE = 0.2

#: Every key of a commit has a condition, as it should be.
NO_REASONS: Mapping[str, str] = {}

Done = Callable[[bool, str], None]


class Desk:
    """State shared by the parts of one node; single-threaded."""

    def __init__(self, name: str, view: View) -> None:
        self.name = name
        self.view = view
        self.now = 0.0
        self.wall = 0.0
        self.effects: list[Effect] = []
        #: The revision of this membership's last accepted beat that is known here, 0 when there is none.
        self.last_beat = 0
        self._tickets = 0
        self._commits: dict[int, tuple[str, tuple[Operation, ...], int]] = {}
        self._busy: set[str] = set()
        self._paused: dict[str, tuple[int, float]] = {}
        self._activity: tuple[int, str, Done] | None = None
        self._cancelled = False
        self._tunables_at = -1
        self._tunables = Tunables()

    @property
    def tunables(self) -> Tunables:
        """The cluster's tunables as last seen."""
        if self._tunables_at != self.view.revision or self._tunables_at == 0:
            self._tunables_at = self.view.revision
            values = {name: v.record.value for name, v in self.view.tunables.items()}
            self._tunables = Tunables.from_values(values) if values else Tunables()
        return self._tunables

    def ticket(self) -> int:
        """A number never used before."""
        self._tickets += 1
        return self._tickets

    def emit(self, effect: Effect) -> None:
        """Ask the edge to do something."""
        self.effects.append(effect)

    def note(self, text: str, level: str = "info") -> None:
        """Tell the admin something."""
        self.effects.append(Note(text, level))

    # -- commits ---------------------------------------------------------------------------------------

    def membership(self) -> list[Condition]:
        """The conditions that this node's membership stands, in a history of the store that has its last beat.

        A store that was restored from a copy may have the membership at the same revision, but not that beat. What
        the node decides rests on what it did until then, its claims above all.
        """
        beat = Condition(f"beat/{self.name}", self.last_beat, at_least=True)
        return [self.view.condition(f"member/{self.name}"), *([beat] if self.last_beat else [])]

    def free(self, kind: str) -> bool:
        """Whether a commit of ``kind`` may be started now."""
        if kind in self._busy:
            return False
        paused = self._paused.get(kind)
        if paused is None:
            return True
        if self.view.revision >= paused[0] or self.now >= paused[1]:
            del self._paused[kind]
            return True
        return False

    def commit(
        self,
        kind: str,
        conditions: Sequence[Condition],
        operations: Sequence[Operation],
        unguarded: Mapping[str, str] = NO_REASONS,
    ) -> bool:
        """Start a commit of ``kind`` unless one is under way or pausing; tells whether it was started.

        ``unguarded``: see :class:`locum.store.base.Commit`.
        """
        if not self.free(kind):
            return False
        ticket = self.ticket()
        commit = Commit(tuple(conditions), tuple(operations), unguarded)
        self._busy.add(kind)
        self._commits[ticket] = (kind, commit.operations, self.view.known)
        self.emit(CommitWork(ticket, commit))
        return True

    def commit_done(self, ticket: int, result: CommitResult | None) -> tuple[str, bool, set[str]] | None:
        """A commit was answered: its kind, whether it took effect for all that is known, and the keys changed.

        An answer of another history of the store than the one known makes the view forget everything.
        """
        entry = self._commits.pop(ticket, None)
        if entry is None:
            return None
        kind, operations, known = entry
        self._busy.discard(kind)
        if result is None:
            # Nobody knows whether it took effect: the watch will tell. Decisions go on from what it shows.
            self._paused[kind] = (2**63, self.now + UNANSWERED_PAUSE)
            return kind, False, set()
        why = self.view.answered(result, operations, known)
        if why:
            changed = self.view.forget()
            self.view.another_history = why
            return kind, False, changed
        if not result.accepted:
            self._paused[kind] = (result.revision, self.now + REFUSED_PAUSE)
            return kind, False, set()
        return kind, True, self.view.applied(operations, result.revision)

    def forget(self) -> None:
        """The store has another history: what is under way there is not waited for."""
        self._commits.clear()
        self._busy.clear()
        self._paused.clear()

    @property
    def waiting(self) -> bool:
        """Whether a commit is under way."""
        return bool(self._commits)

    # -- activities ------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no activity is under way."""
        return self._activity is None

    @property
    def activity(self) -> str | None:
        """The kind of activity under way."""
        return self._activity[1] if self._activity is not None else None

    def begin(self, kind: str, done: Done) -> int:
        """Start the one activity; returns the ticket for its effect. ``done(ok, reason)`` is called at its end."""
        assert self._activity is None, f"I5: {kind} must not start while {self.activity} runs"
        ticket = self.ticket()
        self._activity = (ticket, kind, done)
        self._cancelled = False
        return ticket

    def cancel(self) -> None:
        """Ask for the end of the activity under way (only ``monitor`` is ever cancelled)."""
        if self._activity is not None and not self._cancelled:
            self._cancelled = True
            self.emit(CancelActivity(self._activity[0]))

    def activity_done(self, ticket: int, ok: bool, reason: str) -> None:
        """The activity under way has ended."""
        if self._activity is None or self._activity[0] != ticket:
            return
        _, _, done = self._activity
        self._activity = None
        done(ok, reason)

    @property
    def cancelling(self) -> bool:
        """Whether the activity under way was asked to end."""
        return self._cancelled

    def next_pause_end(self) -> float:
        """When the first pausing kind of commit may go again."""
        return min((until for _, until in self._paused.values()), default=math.inf)
