"""Changes the conditions of commits as they are started: for deliberate defects, and to see which ones there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from locum.rules.commit_kinds import CommitKind
from locum.rules.commits import NO_REASONS, Commits
from locum.store.base import Condition, Operation

#: Called with a commit's kind, the name of its node and its conditions; returns those that it has instead, or None to
#: leave the commit as it is.
Change = Callable[[CommitKind, str, Sequence[Condition]], Sequence[Condition] | None]


def change_conditions(patch: pytest.MonkeyPatch, change: Change) -> None:
    """Let ``change`` decide on the conditions of every commit."""
    original = Commits.start

    def start(
        self: Commits,
        kind: CommitKind,
        conditions: Sequence[Condition],
        operations: Sequence[Operation],
        unguarded: Mapping[str, str] = NO_REASONS,
    ) -> bool:
        changed = change(kind, self._context.name, conditions)
        if changed is not None:
            conditions = changed
            unguarded = dict.fromkeys((operation.key for operation in operations), "a deliberate defect")
        return original(self, kind, conditions, operations, unguarded)

    patch.setattr(Commits, "start", start)
