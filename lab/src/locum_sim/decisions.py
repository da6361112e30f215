"""I8: a decision takes effect only while everything that it read is unchanged.

This file knows what a node's view showed at the decision (:func:`as_read`) and what the store contains when the commit
takes effect (:func:`stale`). It ignores the conditions of the commit, so a missing condition shows as soon as another
commit comes in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from locum.errors import StoreCorrupt
from locum.rules import schema
from locum.rules.schema import ClaimRecord
from locum.rules.view import View
from locum.store.base import Batch, Operation
from locum.store.keyvalue import KeyValue

#: Written only while the membership lasts under which they were decided.
OF_MEMBERS = frozenset({"beat", "health", "phase", "claim", "plan", "leader"})
#: End with the membership that they belong to, in any state.
ENDS_WITH_MEMBER = frozenset({"beat", "health", "phase"})


def as_read(view: View, name: str, operations: Iterable[Operation]) -> dict[str, int]:
    """The revisions on which a decision of node ``name`` rests: of the written keys and of the state that allows it."""
    keys = [operation.key for operation in operations]
    members = [f"member/{schema.split_key(key)[1]}" for key in keys if schema.split_key(key)[0] in ENDS_WITH_MEMBER]
    holders = [
        f"member/{claim.record.node}"
        for key in keys
        if (claim := view.claims.get(key.removeprefix("claim/"))) is not None
    ]
    beats = [f"beat/{schema.split_key(key)[1]}" for key in keys if key.startswith("member/")]
    read = (*keys, *members, *holders, *beats, f"member/{name}", "leader", "plan")
    return {key: view.revision_of(key) for key in read}


def _of_another(name: str, key: str, before: KeyValue) -> bool:
    """Whether ``key`` belongs to another node than ``name``, so that only the leader may write it."""
    kind, subject = schema.split_key(key)
    if kind == "claim":
        return _holder(before, key) not in ("", name)
    return kind in ("member", "admin", "node", *ENDS_WITH_MEMBER) and subject != name


def _holder(before: KeyValue, key: str) -> str:
    """The node that has the claim at ``key``; "" without one, or when the claim cannot be read."""
    entry = before.get(key)
    try:
        record = schema.decode(key, entry.value) if entry is not None else None
    except StoreCorrupt:
        return ""
    return record.node if isinstance(record, ClaimRecord) else ""


def stale(name: str, read: Mapping[str, int], before: KeyValue, batch: Batch) -> str | None:
    """What node ``name`` writes although it has changed since the node read ``read``; None when nothing has."""

    def changed(key: str) -> bool:
        entry = before.get(key)
        return (0 if entry is None else entry.revision) != read.get(key, 0)

    written = {change.key for change in batch.changes}
    membership = f"member/{name}"
    for change in batch.changes:
        kind, subject = schema.split_key(change.key)
        ends = kind in ENDS_WITH_MEMBER and f"member/{subject}" in written
        own_beat = kind == "beat" and subject == name and change.value is not None
        if changed(change.key) and not ends and not own_beat:
            return f"{name} writes {change.key}, which has changed since it decided to"
        leaders = kind == "plan" or _of_another(name, change.key, before)
        if (kind in OF_MEMBERS or leaders) and membership not in written and changed(membership):
            return f"{name} writes {change.key} although its membership is not the one under which it decided to"
        if leaders and "leader" not in written and changed("leader"):
            return f"{name} writes {change.key} although the lead has changed since it decided to"
        if kind == "claim" and change.value is not None and before.get(change.key) is None and changed("plan"):
            return f"{name} claims {subject} by a plan that is not the present one"
        left = subject == name and change.value is None
        if kind == "member" and not left and changed(f"beat/{subject}"):
            return f"{name} ends the membership of {subject}, which has beaten since"
        holder = _holder(before, change.key) if kind == "claim" and change.value is None else name
        if holder != name and f"member/{holder}" not in written and changed(f"member/{holder}"):
            return f"{name} frees {subject} although the membership of {holder} has changed since"
    return None
