"""The outbox of commits: which commits are under way, and when a kind may be tried again.

Rules of this file: it decides no commit. It keeps two promises. Of the kinds that share a lane, at most one commit is
under way. A refused or unanswered commit is not repeated in a tight loop: its lane pauses until the view has caught up
with the refusal, or for a short time.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from locum.rules import schema
from locum.rules.commit_kinds import CommitKind
from locum.rules.context import Context
from locum.rules.effects import CommitWork
from locum.rules.schema import Record
from locum.store.base import Commit, CommitResult, Condition, Operation, Put

#: Longest pause after a refused commit, in seconds; it ends sooner when the view catches up.
REFUSED_PAUSE = 0.05
#: Pause after an unanswered commit, in seconds.
UNANSWERED_PAUSE = 0.2
#: No view catches up with a missing answer: only time ends that pause.
NEVER_SEEN = 2**63

#: Every key that the commit writes has a condition.
NO_REASONS: Mapping[str, str] = {}


class _UnderWay(NamedTuple):
    """A commit without an answer. ``known``: the highest revision known at its start."""

    kind: CommitKind
    operations: tuple[Operation, ...]
    known: int


class _Pause(NamedTuple):
    """A pause that lasts until the view has reached ``revision``, or until ``end`` (seconds)."""

    revision: int
    end: float


class Answer(NamedTuple):
    """An answered commit: its kind, whether it certainly took effect, and the keys of the view that it changed."""

    kind: CommitKind
    accepted: bool
    keys: set[str]


class Commits:
    """The commits of one node."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._under_way: dict[int, _UnderWay] = {}
        self._busy: set[Hashable] = set()
        self._pauses: dict[Hashable, _Pause] = {}

    def free(self, kind: CommitKind) -> bool:
        """Whether a commit of ``kind`` may be started now."""
        lane = kind.lane
        if lane in self._busy:
            return False
        pause = self._pauses.get(lane)
        if pause is None:
            return True
        if self._context.view.revision >= pause.revision or self._context.now >= pause.end:
            del self._pauses[lane]
            return True
        return False

    def start(
        self,
        kind: CommitKind,
        conditions: Sequence[Condition],
        operations: Sequence[Operation],
        unguarded: Mapping[str, str] = NO_REASONS,
    ) -> bool:
        """Start a commit of ``kind`` if its lane is free; returns whether it was started.

        ``unguarded``: see :class:`locum.store.base.Commit`.
        """
        if not self.free(kind):
            return False
        request = self._context.new_request()
        commit = Commit(tuple(conditions), tuple(operations), unguarded)
        self._busy.add(kind.lane)
        self._under_way[request] = _UnderWay(kind, commit.operations, self._context.view.known)
        self._context.emit(CommitWork(request, commit, kind, self._context.incarnation))
        return True

    def write(self, kind: CommitKind, key: str, record: Record, conditions: Sequence[Condition] = ()) -> bool:
        """As :meth:`start`: write ``record`` at ``key`` if the key is still as seen, and ``conditions`` hold."""
        own = self._context.view.condition(key)
        return self.start(kind, [*conditions, own], [Put(key, schema.encode(record))])

    def answered(self, request: int, result: CommitResult | None) -> Answer | None:
        """Take the store's answer, None when it gave none; returns None for a commit that was forgotten.

        When the answer belongs to another history of the store, the view forgets everything.
        """
        entry = self._under_way.pop(request, None)
        if entry is None:
            return None
        view, lane = self._context.view, entry.kind.lane
        self._busy.discard(lane)
        if result is None:
            # The commit may have taken effect; then the watch shows it.
            self._pauses[lane] = _Pause(NEVER_SEEN, self._context.now + UNANSWERED_PAUSE)
            return Answer(entry.kind, False, set())
        why = view.answered(result, entry.operations, entry.known)
        if why:
            changed = view.forget()
            view.another_history = why
            return Answer(entry.kind, False, changed)
        if not result.accepted:
            self._pauses[lane] = _Pause(result.revision, self._context.now + REFUSED_PAUSE)
            return Answer(entry.kind, False, set())
        return Answer(entry.kind, True, view.applied(entry.operations, result.revision))

    def forget(self) -> None:
        """The store has another history: answers from the earlier one no longer matter."""
        self._under_way.clear()
        self._busy.clear()
        self._pauses.clear()

    @property
    def waiting(self) -> bool:
        """Whether a commit is under way."""
        return bool(self._under_way)

    def next_pause_end(self, since: float) -> float:
        """When the first pause that lasted at ``since`` ends by time alone; infinite without any.

        Earlier ends do not matter: no part has tried those commits again.
        """
        return min((pause.end for pause in self._pauses.values() if pause.end > since), default=math.inf)
