"""What a node does about each public address: claim and take what the plan gives it, release the rest.

Per address a node knows one of three things. Nothing: the address is not here. ``held``: ``takeip`` succeeded
and the address is here. ``unsure``: it may be here, after a crash of the agent or a hold that ran out; then it
is taken anew if the plan still gives it to this node, else released properly. The claim in the store is the
right to take; it is deleted only when the address is certainly gone.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from locum.cluster import schema
from locum.cluster.desk import Desk
from locum.cluster.effects import ReleaseAddress, Restore, TakeAddress, UpdateAddress
from locum.cluster.refusals import Refusals
from locum.cluster.schema import ClaimRecord, HostedAddress, PlanRecord
from locum.store.base import Condition, Delete, Put

#: Claims made by one commit. Small enough for any store's limits on a transaction.
CLAIMS_PER_COMMIT = 32
#: An address that could not be taken, here or elsewhere, lets those that a new plan brings along go first for so many
#: seconds: their claims may still be on their way.
PRECEDENCE = 5.0


class Local(msgspec.Struct):
    """An address that is, or may be, configured here."""

    interface: str
    bits: int
    held: bool


class Serving:
    """The addresses of one node."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.hosted: dict[str, HostedAddress] = {}
        self.local: dict[str, Local] = {}
        self.links: dict[str, bool] = {}
        self.refusals = Refusals()
        #: Count of takes, releases and updates; the follower compares it to know whether anything moved (I3).
        self.changes = 0
        self._chunk = CLAIMS_PER_COMMIT
        # Address → the revision of its claim that this node has asked to be deleted (or may have, before a crash).
        # The deletion may still take effect, however late: such a claim is no ground to take the address.
        self._given_up: dict[str, int] = {}
        self._moving: str | None = None
        self._doubted = False
        self._began = 0.0
        # The plan's revision, and until when it is new.
        self._plan = (0, 0.0)

    # -- inputs ----------------------------------------------------------------------------------------

    def configure(self, hosted: tuple[HostedAddress, ...]) -> None:
        """The configured addresses (at start and at reload). One that is configured no more is released."""
        self.hosted = {h.address: h for h in hosted}

    def down(self) -> tuple[str, ...]:
        """Configured interfaces without link, sorted."""
        names = {name for hosted in self.hosted.values() for name in hosted.interfaces}
        return tuple(sorted(name for name in names if not self.links.get(name, False)))

    def adopt(self, held: Mapping[str, str], claims: Mapping[str, ClaimRecord]) -> None:
        """After a restart of the agent: ``held`` (address → interface) is what it had taken completely."""
        for address, claim in claims.items():
            interface = held.get(address, claim.interface)
            self.local[address] = Local(interface, self._bits(address), held=address in held)
            if address not in held:
                self._given_up[address] = self._desk.view.revision_of(f"claim/{address}")
        for address, interface in held.items():
            if address not in claims:
                # Somebody deleted the claim or made it unreadable: whoever knows less than we did may free it.
                self.local[address] = Local(interface, self._bits(address), held=False)

    def inherit(self, held: Mapping[str, str]) -> None:
        """After a restart of the agent that lost its membership: what it had must be released."""
        for address, interface in held.items():
            self.local[address] = Local(interface, self._bits(address), held=False)

    def doubt(self) -> None:
        """The hold is over: nothing is held any more, but scripts must still be told."""
        self._doubted = True
        for local in self.local.values():
            local.held = False

    def address_removed(self, address: str, interface: str) -> None:
        """An address vanished from the kernel; if it is held there, it comes back."""
        local = self.local.get(address)
        if local is not None and local.held and local.interface == interface and self._moving != address:
            self._desk.note(f"{address} was removed from {interface} by somebody else: restoring it", "warning")
            self._desk.emit(Restore(address, local.bits, interface))

    # -- what there is to do ---------------------------------------------------------------------------

    def interface_for(self, address: str) -> str | None:
        """The first configured interface of ``address`` with link."""
        hosted = self.hosted.get(address)
        if hosted is None:
            return None
        return next((name for name in hosted.interfaces if self.links.get(name, False)), None)

    def step(self, mine: frozenset[str], plan_revision: int, incarnation: str, may_take: bool) -> None:
        """Start the commits that are due.

        ``mine``: what the plan of ``plan_revision`` gives this node. ``may_take``: the hold is valid and the
        plan's preparations are complete.
        """
        if plan_revision != self._plan[0]:
            self._plan = (plan_revision, self._desk.now + PRECEDENCE)
        self.refusals.lapse(self._desk.now, self._served)
        self._unclaim(mine, incarnation)
        self._mend(incarnation)
        if may_take:
            self._reclaim(mine, incarnation)
            self._claim(mine, plan_revision, incarnation)

    def claimed(self, address: str, incarnation: str) -> bool:
        """Whether this incarnation has the claim on ``address``."""
        claim = self._desk.view.claims.get(address)
        return claim is not None and claim.record.node == self._desk.name and claim.record.incarnation == incarnation

    def _firmly_claimed(self, address: str, incarnation: str) -> bool:
        """Whether this incarnation has a claim on ``address`` that no deletion under way can end."""
        given_up = self._given_up.get(address)
        return self.claimed(address, incarnation) and given_up != self._desk.view.revision_of(f"claim/{address}")

    def release_due(self, mine: frozenset[str], hold_valid: bool, may_release: bool, incarnation: str) -> str | None:
        """The next address to release, if any. Without a hold everything is, at once; else when the plan says so."""
        for address in self.local:
            if not hold_valid or address not in self.hosted:
                return address
            if not self.claimed(address, incarnation) and (
                not self.local[address].held or self._desk.view.claim_holder(address) is not None
            ):
                return address
            if may_release and (address not in mine or self._left_elsewhere(address)):
                return address
        return None

    def _left_elsewhere(self, address: str) -> bool:
        """Whether what may be left of ``address`` is on another interface than the one on which it would be taken."""
        local = self.local[address]
        return not local.held and self.interface_for(address) not in (None, local.interface)

    def release(self, address: str) -> None:
        """Begin to release ``address``."""
        local = self.local[address]
        self._start(address)
        ticket = self._desk.begin("releaseip", lambda ok, reason: self._released(address, ok, reason))
        self._desk.emit(ReleaseAddress(ticket, address, local.bits, local.interface))

    def take_due(self, mine: frozenset[str], incarnation: str) -> str | None:
        """The next address that is claimed and must be taken; those that could not be taken before are last."""
        if self._desk.now < self.refusals.next_take:
            return None
        missing = [a for a in mine if a not in self.refusals and not ((local := self.local.get(a)) and local.held)]
        failures = self._failures()
        others_first = self._desk.now < self._plan[1] and any(address not in failures for address in missing)
        for address in sorted(missing, key=lambda address: (failures.get(address, 0), address)):
            if others_first and address in failures:
                return None
            if self._firmly_claimed(address, incarnation) and self.interface_for(address) is not None:
                return address
        return None

    def _failures(self) -> dict[str, int]:
        """What could not be taken → how often here, and at how many other nodes at present."""
        found = self.refusals.failures()
        for name, health in self._desk.view.health.items():
            for address in health.record.refused if name != self._desk.name else ():
                found[address] = found.get(address, 0) + 1
        return found

    def take(self, address: str) -> None:
        """Begin to take ``address``."""
        interface = self.interface_for(address)
        assert interface is not None, "take_due looked"
        bits = self.hosted[address].bits
        self._start(address)
        # From now on it may be here: whatever interrupts the take must lead to a release.
        self.local[address] = Local(interface, bits, held=False)
        ticket = self._desk.begin("takeip", lambda ok, reason: self._taken(address, ok, reason))
        self._desk.emit(TakeAddress(ticket, address, bits, interface))

    def update_due(self, mine: frozenset[str]) -> str | None:
        """The next held address whose interface has lost its link while another of its interfaces has it."""
        for address, local in self.local.items():
            linked = self.links.get(local.interface, False)
            if local.held and address in mine and not linked and self.interface_for(address) is not None:
                return address
        return None

    def update(self, address: str) -> None:
        """Begin to move ``address`` to the interface that it should be on."""
        local = self.local[address]
        new = self.interface_for(address)
        assert new is not None, "update_due looked"
        self._start(address)
        ticket = self._desk.begin("updateip", lambda ok, reason: self._updated(address, new, ok, reason))
        self._desk.emit(UpdateAddress(ticket, address, local.bits, local.interface, new))

    def settled(self, mine: frozenset[str]) -> bool:
        """Whether what the plan gives this node is held where it belongs (or refused), and nothing else is here."""
        if self._moving is not None or self.update_due(mine) is not None:
            return False
        if any(address not in mine for address in self.local):
            return False
        for address, claim in self._desk.view.claims.items():
            if claim.record.node == self._desk.name and address not in self.local:
                return False
        for address in mine:
            local = self.local.get(address)
            if address not in self.refusals and (local is None or not local.held):
                return False
        return True

    def next_due(self) -> float:
        """When a refused address may be tried again, or another one taken."""
        waits = [time for time in (self.refusals.next_take, self._plan[1]) if time > self._desk.now]
        return min([self.refusals.next_due(), *waits])

    # -- commits ---------------------------------------------------------------------------------------

    def claim_failed(self, kind: str) -> None:
        """A commit of claims was refused: one by one, so that a single conflict does not keep the others back."""
        if kind == "claim":
            self._chunk = 1

    def _claim(self, mine: frozenset[str], plan_revision: int, incarnation: str) -> None:
        view = self._desk.view
        if not mine or not self._desk.free("claim"):
            return
        wanted = []
        for address in sorted(mine):
            if view.revision_of(f"claim/{address}") == 0 and address not in self.refusals:
                interface = self.interface_for(address)
                if interface is not None:
                    wanted.append((address, interface))
        if not wanted:
            self._chunk = CLAIMS_PER_COMMIT
            return
        chunk = wanted[: self._chunk]
        conditions = [view.condition(f"member/{self._desk.name}"), Condition("plan", plan_revision)]
        conditions += [Condition(f"claim/{address}", 0) for address, _ in chunk]
        self._desk.commit(
            "claim",
            conditions,
            [
                Put(f"claim/{address}", schema.encode(ClaimRecord(self._desk.name, incarnation, interface)))
                for address, interface in chunk
            ],
        )

    def _unclaim(self, mine: frozenset[str], incarnation: str) -> None:
        """Give up the claims on addresses that are not here and should not be."""
        view = self._desk.view
        for address in [a for a, c in view.claims.items() if c.record.node == self._desk.name]:
            unwanted = address not in mine or address in self.refusals
            if address in self.local or not unwanted or not self.claimed(address, incarnation):
                continue
            conditions = [view.condition(f"member/{self._desk.name}"), view.condition(f"claim/{address}")]
            if self._desk.commit(f"unclaim {address}", conditions, [Delete(f"claim/{address}")]):
                self._given_up[address] = view.revision_of(f"claim/{address}")

    def _reclaim(self, mine: frozenset[str], incarnation: str) -> None:
        """Write those claims anew that a deletion under way could end, when the address is wanted after all."""
        view = self._desk.view
        for address in [a for a in self._given_up if a in mine and a not in self.refusals]:
            interface = self.interface_for(address)
            if not self.claimed(address, incarnation):
                del self._given_up[address]
            elif interface is not None and not self._firmly_claimed(address, incarnation):
                record = ClaimRecord(self._desk.name, incarnation, interface)
                conditions = [view.condition(f"member/{self._desk.name}"), view.condition(f"claim/{address}")]
                self._desk.commit(f"reclaim {address}", conditions, [Put(f"claim/{address}", schema.encode(record))])

    def _mend(self, incarnation: str) -> None:
        """Write claims anew that say less than the truth, or that somebody overwrote with something unreadable."""
        view = self._desk.view
        operations, conditions = [], []
        for address, local in self.local.items():
            key = f"claim/{address}"
            claim = view.claims.get(address)
            if claim is None and key in view.corrupt and local.held:
                # Read anew after a gap, it could be anybody's; but who holds an address and is still a member has it.
                pass
            elif not self.claimed(address, incarnation) or not (local.held or key in view.corrupt):
                continue
            truth = ClaimRecord(self._desk.name, incarnation, local.interface, serving=local.held)
            if claim is None or claim.record != truth or key in view.corrupt:
                conditions.append(view.condition(key))
                operations.append(Put(key, schema.encode(truth)))
        if operations:
            member = view.condition(f"member/{self._desk.name}")
            self._desk.commit("mend", [member, *conditions[:CLAIMS_PER_COMMIT]], operations[:CLAIMS_PER_COMMIT])

    # -- ends of activities ----------------------------------------------------------------------------

    def _start(self, address: str) -> None:
        self._moving = address
        self._began = self._desk.now
        self._doubted = False
        self.changes += 1

    def _released(self, address: str, ok: bool, reason: str) -> None:
        self._moving = None
        self.local.pop(address, None)
        if not ok:
            self._desk.note(f"releaseip {address}: {reason}; the address is gone all the same", "warning")

    def _taken(self, address: str, ok: bool, reason: str) -> None:
        self._moving = None
        if ok:
            # A hold that ended meanwhile took the address away again, whatever the take says.
            self.local[address].held = not self._doubted
            self.refusals.taken(address)
            return
        del self.local[address]
        if not self._doubted:
            self._refuse(address, f"takeip: {reason}")

    def _updated(self, address: str, interface: str, ok: bool, reason: str) -> None:
        self._moving = None
        if ok:
            self.local[address].interface = interface
            return
        del self.local[address]
        if not self._doubted:
            self._refuse(address, f"updateip: {reason}")

    def _refuse(self, address: str, reason: str) -> None:
        pause = self.refusals.add(address, reason, self._began, self._desk.now)
        self._desk.note(f"cannot take {address} ({reason}); next try in {pause:.0f} s", "error")

    def _served(self, address: str) -> bool:
        """Whether some node says in its claim that it serves ``address``."""
        claim = self._desk.view.claims.get(address)
        return claim is not None and claim.record.serving

    def _bits(self, address: str) -> int:
        hosted = self.hosted.get(address)
        if hosted is not None:
            return hosted.bits
        return 128 if ":" in address else 32


def assigned(plan: PlanRecord | None, name: str, incarnation: str) -> frozenset[str]:
    """The addresses that ``plan`` gives to this incarnation of ``name``."""
    if plan is None or plan.participants.get(name) != incarnation:
        return frozenset()
    return frozenset(address for address, node in plan.assignment.items() if node == name)
