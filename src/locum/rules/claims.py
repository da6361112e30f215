"""A node's claims: ``claim/<address>`` in the store is the right to take an address.

Rules of this file: it writes claims and knows which of them are reliable. The caller says which addresses are wanted
and which are here. A claim is deleted only when its address is certainly gone from this node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from locum.rules import schema
from locum.rules.commit_kinds import Claim, CorrectClaims, Reclaim, Unclaim
from locum.rules.commits import Commits
from locum.rules.context import Context
from locum.rules.schema import ClaimRecord, HeldRecord
from locum.store.base import Condition, Delete, Operation, Put

#: Claims made by one commit. Small enough for the transaction limit of any store.
CLAIMS_PER_COMMIT = 32


class Local(msgspec.Struct):
    """An address that is, or may be, configured here. ``held``: it was taken completely."""

    interface: str
    bits: int
    held: bool


class Claims:
    """The claims of one node. ``interface_for``: the interface on which an address would be taken; None without one."""

    def __init__(self, context: Context, commits: Commits, interface_for: Callable[[str], str | None]) -> None:
        self._context = context
        self._commits = commits
        self._interface_for = interface_for
        self._chunk = CLAIMS_PER_COMMIT
        # Address → the revision of its claim that this node has asked to be deleted (or may have, before a crash).
        # The deletion may still take effect at any time, so such a claim does not permit a take.
        self._given_up: dict[str, int] = {}

    def mine(self, address: str) -> bool:
        """Whether this membership has the claim on ``address``."""
        return self._context.view.claim_of(address) == (self._context.name, self._context.incarnation)

    def firm(self, address: str) -> bool:
        """Whether this membership has a claim on ``address`` that no deletion under way can end."""
        return self.mine(address) and self._given_up.get(address) != self._revision(address)

    def adopt_unsure(self, address: str) -> None:
        """The previous agent has the claim but not the address: it may have asked for the deletion of the claim."""
        self._given_up[address] = self._revision(address)

    def forget(self) -> None:
        """The store has another history: revisions of claims are meaningless there."""
        self._given_up.clear()

    def refused(self) -> None:
        """A commit of claims was refused: claim one by one, so that one conflict does not block the others."""
        self._chunk = 1

    def claim(self, wanted: frozenset[str], plan_revision: int) -> None:
        """Claim the addresses that the plan at ``plan_revision`` gives this node and that no other node has claimed."""
        view = self._context.view
        if not self._commits.free(Claim()):
            return
        free = []
        for address in sorted(wanted):
            if view.revision_of(f"claim/{address}") == 0:
                interface = self._interface_for(address)
                if interface is not None:
                    free.append((address, interface))
        if not free:
            self._chunk = CLAIMS_PER_COMMIT
            return
        chunk = free[: self._chunk]
        conditions = [*self._context.membership(), Condition("plan", plan_revision)]
        conditions += [Condition(f"claim/{address}", 0) for address, _ in chunk]
        puts = [Put(f"claim/{address}", schema.encode(self._truth(interface))) for address, interface in chunk]
        self._commits.start(Claim(), conditions, puts)

    def give_up(self, wanted: frozenset[str], local: Mapping[str, Local]) -> None:
        """Delete the claims on addresses that are neither ``wanted`` nor here."""
        view = self._context.view
        for address in [a for a, c in view.claims.items() if c.record.node == self._context.name]:
            if address in local or address in wanted or not self.mine(address):
                continue
            conditions = [*self._context.membership(), view.condition(f"claim/{address}")]
            if self._commits.start(Unclaim(address), conditions, [Delete(f"claim/{address}")]):
                self._given_up[address] = self._revision(address)

    def reclaim(self, wanted: frozenset[str]) -> None:
        """Rewrite the claims that a deletion under way could end, for addresses that are wanted again."""
        for address in [a for a in self._given_up if a in wanted]:
            interface = self._interface_for(address)
            if not self.mine(address):
                del self._given_up[address]
            elif interface is not None and not self.firm(address):
                truth = self._truth(interface)
                self._commits.write(Reclaim(address), f"claim/{address}", truth, self._context.membership())

    def correct(self, local: Mapping[str, Local], unproven: Callable[[str], bool]) -> None:
        """Rewrite claims that say less than the truth, or that were overwritten with something unreadable.

        The first claim of an address that says "serving" also records that the address is the cluster's (``unproven``).
        """
        view = self._context.view
        operations: list[Operation] = []
        conditions: list[Condition] = []
        for address, here in local.items():
            key = f"claim/{address}"
            claim = view.claims.get(address)
            if claim is None and key in view.corrupt and here.held:
                # After a gap and a full read it could be any node's; but a member that holds the address has the claim.
                pass
            elif not self.mine(address) or not (here.held or key in view.corrupt):
                continue
            truth = self._truth(here.interface, serving=here.held)
            if claim is None or claim.record != truth or key in view.corrupt:
                conditions.append(view.condition(key))
                operations.append(Put(key, schema.encode(truth)))
            if here.held and unproven(address):
                conditions.append(view.condition(f"held/{address}"))
                operations.append(Put(f"held/{address}", schema.encode(HeldRecord(self._context.name))))
        if operations:
            all_of_them = [*self._context.membership(), *conditions[:CLAIMS_PER_COMMIT]]
            self._commits.start(CorrectClaims(), all_of_them, operations[:CLAIMS_PER_COMMIT])

    def _truth(self, interface: str, *, serving: bool = False) -> ClaimRecord:
        return ClaimRecord(self._context.name, self._context.incarnation, interface, serving=serving)

    def _revision(self, address: str) -> int:
        return self._context.view.revision_of(f"claim/{address}")
