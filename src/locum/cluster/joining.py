"""Becoming a member: the node's own records, its number, and who else may have its name.

A member key of this name that is already there belongs to one of three: an earlier life in this very place
(same ``machine``; the guard's lock proves that it is over, and its addresses were removed at start), a node that
died (its hold is waited for), or another living node with the same name (then this one gives up).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from locum.cluster import schema
from locum.cluster.desk import Desk
from locum.cluster.schema import MemberRecord, NodeRecord, NumberRecord
from locum.store.base import Delete, Operation, Put

if TYPE_CHECKING:
    from locum.cluster.node import Identity

#: Old claims that one joining commit deletes; the leader frees any others.
CLAIMS_AT_JOIN = 60


def part_of_membership(name: str) -> dict[str, str]:
    """Why ``beat/``, ``health/`` and ``phase/`` of ``name`` may be deleted along with its membership without a look.

    Their writer is that membership alone, under a condition on ``member/<name>``. A commit that has the same
    condition and ends the membership therefore cannot delete a later one's.
    """
    reason = f"belongs to the membership that ends with this commit; member/{name} is a condition"
    return {f"{kind}/{name}": reason for kind in ("beat", "health", "phase")}


class Joining:
    """Writes ``node``, ``number`` and ``member``; keeps ``node`` true after a reload."""

    def __init__(self, desk: Desk, identity: Identity) -> None:
        self._desk = desk
        self.identity = identity
        #: The incarnation of the last try.
        self.tried = ""
        self._rival: tuple[int, int, float] | None = None
        self._due = math.inf

    def next_due(self) -> float:
        """When a silent member of our name will have lost its hold."""
        return self._due

    def step(self, incarnation: str) -> str | None:
        """Try to join as ``incarnation``; returns why this node can never join, if so."""
        desk, view, name = self._desk, self._desk.view, self._desk.name
        if not desk.free("join"):
            return None
        member = view.members.get(name)
        if member is not None and member.record.machine != self.identity.machine:
            problem = self._wait_for_rival(member.record)
            if problem is not None or desk.now < self._due:
                return problem
        elif member is None and f"member/{name}" in view.corrupt and not self._waited_for_unknown():
            return None
        number = self._number()
        if number is None:
            owner = view.numbers[str(self.identity.number)].record.node
            return (
                f"number {self.identity.number} belongs to node {owner!r}: give this node another number, "
                f"or none to get a free one (delete the store's key number/{self.identity.number} if {owner!r} is gone)"
            )
        conditions = [view.condition(f"{kind}/{name}") for kind in ("member", "beat", "node")]
        conditions.append(view.condition(f"number/{number}"))
        operations: list[Operation] = [Delete(f"{kind}/{name}") for kind in ("beat", "health", "phase")]
        operations.append(
            Put(
                f"member/{name}",
                schema.encode(
                    MemberRecord(
                        incarnation,
                        self.identity.hold,
                        self.identity.margin,
                        self.identity.machine,
                        self.identity.version,
                    )
                ),
            )
        )
        operations.append(Put(f"node/{name}", schema.encode(self._node_record(number, self.identity))))
        operations.append(Put(f"number/{number}", schema.encode(NumberRecord(name))))
        old = view.nodes.get(name)
        if old is not None and old.record.number != number:
            # A number that another node has meanwhile is not ours to free.
            freed = view.numbers.get(str(old.record.number))
            if freed is not None and freed.record.node == name:
                conditions.append(view.condition(f"number/{old.record.number}"))
                operations.append(Delete(f"number/{old.record.number}"))
        # Nothing is held here now, so claims of earlier incarnations are free.
        stale = [a for a, c in sorted(view.claims.items()) if c.record.node == name][:CLAIMS_AT_JOIN]
        conditions += [view.condition(f"claim/{address}") for address in stale[: CLAIMS_AT_JOIN // 2]]
        operations += [Delete(f"claim/{address}") for address in stale[: CLAIMS_AT_JOIN // 2]]
        self.tried = incarnation
        desk.commit("join", conditions, operations, part_of_membership(name))
        return None

    def refresh(self) -> None:
        """Write the node record anew when it is not what the configuration says."""
        view, key = self._desk.view, f"node/{self._desk.name}"
        known = view.nodes.get(self._desk.name)
        number = self._present_number(known.record.number if known is not None else None)
        if number is None:
            return
        # The hold of a membership does not change with the configuration.
        member = view.members.get(self._desk.name)
        truth = self._node_record(number, self.identity if member is None else member.record)
        if known is None or known.record != truth or key in view.corrupt:
            self._desk.commit("node", [view.condition(key)], [Put(key, schema.encode(truth))])
        else:
            self._keep_number(number)

    def _present_number(self, recorded: int | None) -> int | None:
        """The number of a member, whatever somebody wrote into its record (``recorded``) or took from it."""
        if self.identity.number is not None or recorded is None:
            number = self._number()
            return recorded if number is None else number
        mine = [int(n) for n, v in self._desk.view.numbers.items() if v.record.node == self._desk.name and n.isdigit()]
        return recorded if recorded in mine or not mine else min(mine)

    def _keep_number(self, number: int) -> None:
        """Write the number's key anew when somebody deleted it, or gave it to a node that has another."""
        view, key = self._desk.view, f"number/{number}"
        owner = view.numbers.get(str(number))
        if owner is not None:
            other = view.nodes.get(owner.record.node)
            if owner.record.node == self._desk.name or (other is not None and other.record.number == number):
                return
        elif view.revision_of(key):
            # It cannot be read and never could: a number is not worth a quarrel.
            return
        self._desk.commit("number", [view.condition(key)], [Put(key, schema.encode(NumberRecord(self._desk.name)))])

    def _node_record(self, number: int, promise: Identity | MemberRecord) -> NodeRecord:
        wait = promise.hold + promise.margin
        return NodeRecord(number, self.identity.private_address, self.identity.addresses, wait)

    def _number(self) -> int | None:
        """The node's number: configured, or had before, or the lowest free one; None when it is another's."""
        view, name = self._desk.view, self._desk.name
        if self.identity.number is not None:
            owner = view.numbers.get(str(self.identity.number))
            return self.identity.number if owner is None or owner.record.node == name else None
        mine = [int(n) for n, v in view.numbers.items() if v.record.node == name and n.isdigit()]
        if mine:
            return min(mine)
        return next(n for n in range(len(view.numbers) + 1) if view.revision_of(f"number/{n}") == 0)

    def _waited_for_unknown(self) -> bool:
        """A member of our name that cannot be read may be on another machine: wait for the longest known promise."""
        desk, view = self._desk, self._desk.view
        revision = view.revision_of(f"member/{self._desk.name}")
        if self._rival is None or self._rival[0] != revision:
            self._rival = (revision, view.revision_of(f"beat/{self._desk.name}"), desk.now)
        waits = [node.record.wait for node in view.nodes.values()]
        self._due = self._rival[2] + max([*waits, self.identity.hold + self.identity.margin])
        return desk.now >= self._due

    def _wait_for_rival(self, member: MemberRecord) -> str | None:
        """Watch a member of our name: if it beats it lives; if it is silent for its hold it is dead."""
        desk, view, name = self._desk, self._desk.view, self._desk.name
        seen = (view.revision_of(f"member/{name}"), view.revision_of(f"beat/{name}"))
        if self._rival is None or self._rival[0] != seen[0]:
            self._rival = (*seen, desk.now)
        elif self._rival[1] != seen[1]:
            return (
                f"another node named {name!r} is alive (on {member.machine or 'an unknown machine'}): "
                "give one of the two another [node] name"
            )
        self._due = self._rival[2] + member.hold + member.margin
        return None
