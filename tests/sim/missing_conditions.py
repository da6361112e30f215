"""Every condition of every commit of the rules, left out one at a time (I8).

``MISSING`` names each by what is committed and the key that is not looked at. The simulation must find each within
the bounded seeds of its :class:`tests.sim.mutations.Mutation`; ``IMPLIED`` has those that another condition of the
same commit implies, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pytest

from locum.cluster.desk import NO_REASONS, Desk
from locum.sim.run import Knobs
from locum.store.base import Condition, Delete, Operation, Put

#: Names of commits → whether a commit of kind ``sort`` with ``operations`` is one.
Match = Callable[[str, Sequence[Operation]], bool]


def _deletes(operations: Sequence[Operation], kind: str) -> bool:
    return any(isinstance(o, Delete) and o.key.startswith(kind) for o in operations)


def _puts(operations: Sequence[Operation], kind: str) -> bool:
    return any(isinstance(o, Put) and o.key.startswith(kind) for o in operations)


def _expires(operations: Sequence[Operation]) -> bool:
    return _deletes(operations, "member/") and _deletes(operations, "beat/")


def _kind(name: str) -> Match:
    return lambda sort, _: sort == name


COMMITS: dict[str, Match] = {
    "lead": lambda sort, o: sort == "lead" and [x.key for x in o] == ["leader"] and _puts(o, "leader"),
    "expire": lambda sort, o: sort == "lead" and _expires(o),
    "plan": lambda sort, o: sort == "lead" and _puts(o, "plan"),
    "lift": lambda sort, o: sort == "lead" and _puts(o, "admin/"),
    "free": lambda sort, o: sort == "lead" and not _expires(o) and all(isinstance(x, Delete) for x in o),
    "claim": _kind("claim"),
    "unclaim": lambda sort, _: sort.startswith("unclaim"),
    "reclaim": lambda sort, _: sort.startswith("reclaim"),
    "mend": _kind("mend"),
    "phase": _kind("phase"),
    "health": _kind("health"),
    "join": _kind("join"),
    "node": _kind("node"),
    "number": _kind("number"),
    "farewell": _kind("farewell"),
    "ban": _kind("ban"),
}


class Missing(NamedTuple):
    """``condition``: kind of the key that is not looked at; ``own`` and ``other`` tell two memberships apart."""

    commit: str
    condition: str
    knobs: Knobs = Knobs()
    seeds: int = 60
    whose: str = ""

    @property
    def name(self) -> str:
        """As the test is called."""
        return f"{self.commit}_without_{self.whose}{self.condition}"

    def apply(self, patch: pytest.MonkeyPatch) -> None:
        """Leave the condition out."""
        original, match = Desk.commit, COMMITS[self.commit]

        def commit(
            desk: Desk,
            sort: str,
            conditions: Sequence[Condition],
            operations: Sequence[Operation],
            unguarded: Mapping[str, str] = NO_REASONS,
        ) -> bool:
            if match(sort, operations):
                conditions = [c for c in conditions if not self._is(c.key, desk.name)]
                unguarded = dict.fromkeys((operation.key for operation in operations), "a deliberate defect")
            return original(desk, sort, conditions, operations, unguarded)

        patch.setattr(Desk, "commit", commit)

    def _is(self, key: str, me: str) -> bool:
        kind, _, name = key.partition("/")
        return kind == self.condition and (not self.whose or (self.whose == "own_") == (name == me))


_LATE = Knobs(only=("delay_messages", "freeze_all", "delete_key", "cut_up"), nodes=3, calm=0.2)

MISSING = tuple(
    Missing(commit, condition, whose=whose)
    for commit, condition, whose in (
        ("lead", "member", ""),
        ("lead", "leader", ""),
        ("expire", "member", "own_"),
        ("expire", "member", "other_"),
        ("expire", "leader", ""),
        ("expire", "beat", ""),
        ("expire", "claim", ""),
        ("plan", "member", ""),
        ("plan", "leader", ""),
        ("plan", "plan", ""),
        ("lift", "member", ""),
        ("lift", "leader", ""),
        ("lift", "admin", ""),
        ("free", "member", "own_"),
        ("free", "member", "other_"),
        ("free", "leader", ""),
        ("free", "claim", ""),
        ("free", "beat", ""),
        ("free", "health", ""),
        ("free", "phase", ""),
        ("claim", "member", ""),
        ("claim", "plan", ""),
        ("claim", "claim", ""),
        ("unclaim", "member", ""),
        ("unclaim", "claim", ""),
        ("reclaim", "member", ""),
        ("reclaim", "claim", ""),
        ("mend", "member", ""),
        ("mend", "claim", ""),
        ("phase", "member", ""),
        ("phase", "phase", ""),
        ("health", "member", ""),
        ("health", "health", ""),
        ("join", "member", ""),
        ("join", "beat", ""),
        ("join", "node", ""),
        ("join", "number", ""),
        ("join", "claim", ""),
        ("node", "node", ""),
        ("number", "number", ""),
        ("farewell", "member", ""),
        ("farewell", "leader", ""),
        ("ban", "admin", ""),
    )
)
