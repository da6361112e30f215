"""Joining the cluster: the node's own records, its number, and other nodes with its name.

An existing member key with this name has one of three origins. An earlier life in this very place (same ``machine``):
the guard's lock proves that it has ended, and its addresses were removed at start. A node that died: this node waits
for the end of its hold. Another living node with the same name: this node waits and says why. No content of the store
ends a node: otherwise anyone with write access to the store could stop every daemon for good.

Rules of this file: it writes the records of this node's name only. It knows no plan and no address of other nodes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from locum.rules import schema
from locum.rules.commit_kinds import Join, WriteNode, WriteNumber
from locum.rules.commits import Commits
from locum.rules.context import Context
from locum.rules.schema import HistoryRecord, MemberRecord, NodeRecord, NumberRecord
from locum.store.base import Delete, Operation, Put

if TYPE_CHECKING:
    from locum.rules.identity import Identity

#: Nodes of a cluster have numbers below this.
NUMBERS = 1000
#: Maximum of old claims that one joining commit deletes; the leader frees the others.
CLAIMS_AT_JOIN = 60


def part_of_membership(name: str) -> dict[str, str]:
    """Why ``beat/``, ``health/`` and ``phase/`` of ``name`` may be deleted with its membership without a condition.

    Only that membership writes them, under a condition on ``member/<name>``. So a commit with the same condition that
    ends the membership cannot delete those of a later one.
    """
    reason = f"belongs to the membership that ends with this commit; member/{name} is a condition"
    return {f"{kind}/{name}": reason for kind in ("beat", "health", "phase")}


def is_number(text: str) -> bool:
    """Whether ``text`` is a node's number as Locum writes it in a key: decimal, 0 to 999."""
    return text.isascii() and text.isdigit() and len(text) <= 3 and text == str(int(text))


class Joining:
    """Writes ``node``, ``number`` and ``member``; keeps ``node`` correct after a reload."""

    def __init__(self, context: Context, commits: Commits, identity: Identity) -> None:
        self._context = context
        self._commits = commits
        self.identity = identity
        #: The incarnation of the last attempt.
        self.tried = ""
        self._rival: tuple[int, int, float] | None = None
        # The view (View.changes) and configuration for which the node's records were found to be right.
        self._right: tuple[int, Identity] | None = None
        #: When a silent member with this node's name will have lost its hold.
        self.next_due = math.inf
        #: Why the node cannot join at present; "" without an obstacle.
        self.obstacle = ""

    def step(self, incarnation: str) -> None:
        """Try to join as ``incarnation``; :attr:`obstacle` has the reason when this is not possible."""
        context, view, name = self._context, self._context.view, self._context.name
        if not self._commits.free(Join()):
            return
        member = view.members.get(name)
        if member is not None and member.record.machine != self.identity.machine:
            rival = self._wait_for_rival(member.record)
            if context.now < self.next_due:
                self.blocked(rival)
                return
        elif member is None and f"member/{name}" in view.corrupt and not self._waited_for_unknown():
            return
        number = self._number()
        if number is None:
            if self.identity.number is None:
                self.blocked(f"all {NUMBERS} node numbers are taken: remove nodes that are gone")
                return
            owner = view.numbers[str(self.identity.number)].record.node
            self.blocked(
                f"number {self.identity.number} belongs to node {owner!r}: give this node another number, or none to "
                f"get a free one ('locum node remove {owner}' frees the number if that node is gone)"
            )
            return
        self.blocked("")
        conditions = [view.condition(f"{kind}/{name}") for kind in ("member", "beat", "node")]
        conditions += [view.condition(f"number/{number}"), view.condition("history")]
        operations: list[Operation] = [Delete(f"{kind}/{name}") for kind in ("beat", "health", "phase")]
        own = self.identity
        member_record = MemberRecord(incarnation, own.hold, own.margin, own.machine, own.version)
        operations.append(Put(f"member/{name}", schema.encode(member_record)))
        operations.append(Put(f"node/{name}", schema.encode(self._node_record(number, self.identity))))
        operations.append(Put(f"number/{number}", schema.encode(NumberRecord(name))))
        if view.history is None:
            # Absent or unreadable.
            operations.append(Put("history", schema.encode(HistoryRecord(incarnation))))
        old = view.nodes.get(name)
        if old is not None and old.record.number != number:
            # If another node has the number by now, this node may not free it.
            freed = view.numbers.get(str(old.record.number))
            if freed is not None and freed.record.node == name:
                conditions.append(view.condition(f"number/{old.record.number}"))
                operations.append(Delete(f"number/{old.record.number}"))
        # Nothing is held here at this point, so claims of earlier incarnations are free.
        stale = [a for a, c in sorted(view.claims.items()) if c.record.node == name][:CLAIMS_AT_JOIN]
        conditions += [view.condition(f"claim/{address}") for address in stale[: CLAIMS_AT_JOIN // 2]]
        operations += [Delete(f"claim/{address}") for address in stale[: CLAIMS_AT_JOIN // 2]]
        owner_record = view.numbers.get(str(number))
        if owner_record is not None and owner_record.record.node != name:
            # The number is void as long as its owner does not have it.
            conditions += [view.condition(f"{kind}/{owner_record.record.node}") for kind in ("node", "member")]
        self.tried = incarnation
        self._commits.start(Join(), conditions, operations, part_of_membership(name))

    def blocked(self, why: str, waits: str = "") -> None:
        """Set the obstacle to joining, or ("") clear it.

        ``waits``: what joining waits for without an obstacle, "" for nothing; it is in the log already.
        """
        if why and why != self.obstacle:
            self._context.note(f"cannot join: {why}; this node joins as soon as that is over", "error")
        self.obstacle = why or waits

    def refresh(self) -> None:
        """Rewrite the node record when it differs from the configuration."""
        view, key = self._context.view, f"node/{self._context.name}"
        if self._right == (view.changes, self.identity):
            return
        known = view.nodes.get(self._context.name)
        number = self._present_number(known.record.number if known is not None else None)
        if number is None:
            return
        # The hold of a membership does not change with the configuration.
        member = view.members.get(self._context.name)
        truth = self._node_record(number, self.identity if member is None else member.record)
        if known is None or known.record != truth or key in view.corrupt:
            self._commits.write(WriteNode(), key, truth)
        elif self._keep_number(number):
            self._right = (view.changes, self.identity)

    def _present_number(self, recorded: int | None) -> int | None:
        """The number of a member, even if its record (``recorded``) was changed by a foreign writer."""
        if self.identity.number is not None or recorded is None:
            number = self._number()
            return recorded if number is None else number
        mine = self._own_numbers()
        return recorded if recorded in mine or not mine else min(mine)

    def _own_numbers(self) -> list[int]:
        numbers = self._context.view.numbers.items()
        return [int(n) for n, found in numbers if found.record.node == self._context.name and is_number(n)]

    def _keep_number(self, number: int) -> bool:
        """Rewrite the number's key when it was deleted, or assigned to a node that has another number.

        Returns whether nothing needs to be written.
        """
        view, key = self._context.view, f"number/{number}"
        owner = view.numbers.get(str(number))
        if owner is not None:
            other = view.nodes.get(owner.record.node)
            if owner.record.node == self._context.name or (other is not None and other.record.number == number):
                return True
        elif view.revision_of(key):
            # It is unreadable and was never readable: a number is not worth a conflict.
            return True
        self._commits.write(WriteNumber(), key, NumberRecord(self._context.name))
        return False

    def _node_record(self, number: int, promise: Identity | MemberRecord) -> NodeRecord:
        wait = promise.hold + promise.margin
        return NodeRecord(number, self.identity.private_address, self.identity.addresses, wait)

    def _number(self) -> int | None:
        """The node's number: configured, or from before, or the lowest free one; None when another node owns it."""
        view, name = self._context.view, self._context.name
        if self.identity.number is not None:
            owner = view.numbers.get(str(self.identity.number))
            if owner is None or owner.record.node == name or self._void(self.identity.number, owner.record.node):
                return self.identity.number
            return None
        mine = self._own_numbers()
        if mine:
            return min(mine)
        free = next((n for n in range(NUMBERS) if view.revision_of(f"number/{n}") == 0), None)
        if free is None:
            owners = [(n, view.numbers.get(str(n))) for n in range(NUMBERS)]
            free = next((n for n, owner in owners if owner is None or self._void(n, owner.record.node)), None)
        return free

    def _void(self, number: int, owner: str) -> bool:
        """Whether ``owner`` has no right to ``number``, whatever the number's own key says.

        Its right is void when its node record does not have the number: a join writes both in one commit. It is also
        void when the owner is not a member and this node had the number before: admins know this node by it.
        """
        view = self._context.view
        other, own = view.nodes.get(owner), view.nodes.get(self._context.name)
        if other is None or other.record.number != number:
            return f"node/{owner}" not in view.corrupt
        return own is not None and own.record.number == number and view.revision_of(f"member/{owner}") == 0

    def _waited_for_unknown(self) -> bool:
        """An unreadable member with this node's name may be on another machine: wait for the longest known promise."""
        context, view = self._context, self._context.view
        revision = view.revision_of(f"member/{self._context.name}")
        if self._rival is None or self._rival[0] != revision:
            self._rival = (revision, view.revision_of(f"beat/{self._context.name}"), context.now)
        waits = [node.record.wait for node in view.nodes.values()]
        self.next_due = self._rival[2] + max([*waits, self.identity.hold + self.identity.margin])
        return context.now >= self.next_due

    def _wait_for_rival(self, member: MemberRecord) -> str:
        """Watch a member with this node's name: it is alive if it beats, dead if it is silent for its hold.

        Returns why this node must wait when the other is alive, "" until that is certain.
        """
        context, view, name = self._context, self._context.view, self._context.name
        seen = (view.revision_of(f"member/{name}"), view.revision_of(f"beat/{name}"))
        alive = ""
        if self._rival is None or self._rival[0] != seen[0]:
            self._rival = (*seen, context.now)
        elif self._rival[1] != seen[1]:
            self._rival = (*seen, context.now)
            alive = (
                f"another node named {name!r} is alive (on {member.machine or 'an unknown machine'}): "
                "give one of the two nodes another [node] name"
            )
        self.next_due = self._rival[2] + member.hold + member.margin
        return alive or self.obstacle
