"""Every condition of every commit of the rules, left out one at a time (I8).

``MISSING`` names each by what is committed and the key that is not looked at. The simulation must find each within
the bounded seeds of its :class:`tests.sim.mutations.Mutation`; ``IMPLIED`` has those that another condition of the
same commit implies, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from locum.rules.commit_kinds import (
    BanSelf,
    Claim,
    CommitKind,
    CorrectClaims,
    Expire,
    Farewell,
    ForgetHeld,
    FreeKeys,
    Join,
    LiftBan,
    Reclaim,
    RepairKeys,
    TakeLead,
    Unclaim,
    WriteHealth,
    WriteNode,
    WriteNumber,
    WritePhase,
    WritePlan,
)
from locum.store.base import Condition
from locum_sim.run import Knobs
from tests.sim.commit_conditions import change_conditions

#: Kinds of commits → how the tests call them.
COMMITS: dict[type[CommitKind], str] = {
    TakeLead: "lead",
    Expire: "expire",
    WritePlan: "plan",
    LiftBan: "lift",
    FreeKeys: "free",
    ForgetHeld: "free",
    RepairKeys: "repair",
    Claim: "claim",
    Unclaim: "unclaim",
    Reclaim: "reclaim",
    CorrectClaims: "mend",
    WritePhase: "phase",
    WriteHealth: "health",
    Join: "join",
    WriteNode: "node",
    WriteNumber: "number",
    Farewell: "farewell",
    BanSelf: "ban",
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

        def change(kind: CommitKind, name: str, conditions: Sequence[Condition]) -> Sequence[Condition] | None:
            if COMMITS[type(kind)] != self.commit:
                return None
            return [c for c in conditions if not self._is(c.key, name)]

        change_conditions(patch, change)

    def _is(self, key: str, me: str) -> bool:
        kind, _, name = key.partition("/")
        return kind == self.condition and (not self.whose or (self.whose == "own_") == (name == me))


#: Another writes once more what a decision was made from, while nodes are killed, cut off, moved, banned or restarted.
_AGENTS = Knobs(only=("meddle", "late_release", "kill_agent"), nodes=3, calm=0.15)
_MACHINES = Knobs(only=("meddle", "delete_key", "spoil_key", "kill_all", "cut"), nodes=3, calm=0.15)
_ADMINS = Knobs(only=("meddle", "admin", "scripts_fail"), nodes=3, calm=0.1)
_LEAVING = Knobs(only=("meddle", "leave", "reload", "kill_all", "change_hold"), nodes=3, calm=0.1)
_JOINING = Knobs(only=("meddle", "kill_all", "power_off"), nodes=3, calm=0.1, hold=0.5)
_ORPHANS = Knobs(only=("meddle", "delete_key", "abandon", "spoil_key"), nodes=3, addresses=8, calm=0.05, hold=0.25)
_MIDWAY = Knobs(only=("meddle", "kill_agent_midway", "link_down"), nodes=3, calm=0.1)
_STRAYS = Knobs(only=("meddle", "spoil_key", "abandon"), nodes=3, calm=0.08, hold=0.25)
_REPAIRS = Knobs(only=("meddle", "spoil_key", "abandon", "store_restart", "link_down"), nodes=3, calm=0.08)

MISSING = (
    Missing("lead", "member", _MACHINES),
    Missing("lead", "leader", _AGENTS),
    Missing("expire", "member", _AGENTS, whose="own_"),
    Missing("expire", "member", _MACHINES, whose="other_"),
    Missing("expire", "leader", _AGENTS),
    Missing("expire", "beat", _MACHINES),
    Missing("expire", "claim", _AGENTS),
    Missing("plan", "member", _AGENTS),
    Missing("plan", "leader", _AGENTS),
    Missing("plan", "plan", _AGENTS),
    Missing("lift", "member", _ADMINS),
    Missing("lift", "leader", _ADMINS),
    Missing("lift", "admin", _ADMINS),
    Missing("free", "member", _ORPHANS, whose="own_"),
    Missing("free", "leader", _ORPHANS),
    Missing("free", "claim", _ORPHANS),
    Missing("repair", "member", _REPAIRS, whose="own_"),
    Missing("repair", "node", _STRAYS),
    Missing("repair", "claim", _REPAIRS),
    Missing("claim", "member", _AGENTS),
    Missing("claim", "plan", _AGENTS),
    Missing("unclaim", "member", _AGENTS),
    Missing("unclaim", "claim", _AGENTS),
    Missing("reclaim", "member", _AGENTS),
    Missing("reclaim", "claim", _MIDWAY),
    Missing("mend", "member", _AGENTS),
    Missing("mend", "claim", _AGENTS),
    Missing("phase", "member", _AGENTS),
    Missing("phase", "phase", _AGENTS),
    Missing("health", "member", _AGENTS),
    Missing("health", "health", _AGENTS),
    Missing("join", "member", _MACHINES),
    Missing("join", "beat", _JOINING),
    Missing("join", "node", _AGENTS),
    Missing("join", "number", _AGENTS),
    Missing("join", "claim", _JOINING),
    Missing("node", "node", _MACHINES),
    Missing("farewell", "member", _LEAVING),
    Missing("farewell", "leader", _LEAVING, seeds=90),
    Missing("ban", "admin", _ADMINS),
)

#: Conditions that no history of the simulation needs, and what stands for them.
IMPLIED = {
    "claim_without_claim": "one plan gives an address to one node and the plan is a condition; without both of them "
    "the mutation claim_not_conditional is found",
    "number_without_number": "only a stranger's hand makes a node write its number anew: "
    "tests/unit/rules/test_joining.py",
    "free_without_other_member": "an incarnation never returns, so the claim itself (a condition) tells all",
    "repair_without_other_member": "whoever ends a membership deletes its claims, each of which is a condition",
    "repair_without_leader": "what is repaired is written as it was, and each key is a condition",
    **{
        f"{commit}_without_beat": "holds in one history always; without it on every commit the mutation "
        "last_beat_not_demanded is found"
        for commit in ("lead", "plan", "lift", "repair", "claim", "unclaim", "reclaim", "mend", "phase", "health")
    },
    "join_without_history": "written once, when it is absent: tests/unit/rules/test_history.py",
    "ban_without_member": "a ban that comes after the end of the membership is about the same node, and has the same "
    "reason; the key of the ban is a condition",
    "mend_without_held": "says only that an address was held before: tests/unit/rules/test_first_time.py",
    "free_without_beat": "garbage of a node that is not a member, which that membership (a condition) alone replaces",
    "free_without_health": "as free_without_beat",
    "free_without_phase": "as free_without_beat",
}


def watch_conditions(patch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """A set that fills with (commit, kind of a key that it has a condition on) while the simulation runs."""
    seen = set[tuple[str, str]]()

    def look(kind: CommitKind, _name: str, conditions: Sequence[Condition]) -> None:
        seen.update((COMMITS[type(kind)], condition.key.partition("/")[0]) for condition in conditions)

    change_conditions(patch, look)
    return seen
