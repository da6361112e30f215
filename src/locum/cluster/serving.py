"""What a node does about each public address: claim and take what the plan gives it, release the rest.

Per address a node knows one of three things. Nothing: the address is not here. ``held``: ``takeip`` succeeded
and the address is here. ``unsure``: it may be here, after a crash of the agent or a hold that ran out; then it
is taken anew if the plan still gives it to this node, else released properly. The claim in the store is the
right to take; it is deleted only when the address is certainly gone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from locum.cluster import schema
from locum.cluster.activity import Activity
from locum.cluster.commit_kinds import Claim, CorrectClaims, Reclaim, Unclaim
from locum.cluster.commits import Commits
from locum.cluster.context import Context
from locum.cluster.damping import Damper, Rule, link_rule
from locum.cluster.effects import ProbeAddresses, ReleaseAddress, Restore, TakeAddress, TakeAgain, UpdateAddress
from locum.cluster.identity import Identity
from locum.cluster.refusals import Refusals
from locum.cluster.schema import ClaimRecord, HeldRecord, HostedAddress, PlanRecord
from locum.cluster.upkeep import Upkeep
from locum.store.base import Condition, Delete, Put

#: Claims made by one commit. Small enough for any store's limits on a transaction.
CLAIMS_PER_COMMIT = 32
#: An address that could not be taken, here or elsewhere, lets those that a new plan brings along go first for so many
#: seconds: their claims may still be on their way.
PRECEDENCE = 5.0
#: Pause before the release of an address is tried again that could be neither removed nor muted, in seconds. Its
#: lifetime ends soon, because it is not renewed.
STUCK_PAUSE = 1.0


class Local(msgspec.Struct):
    """An address that is, or may be, configured here."""

    interface: str
    bits: int
    held: bool


class Serving:
    """The addresses of one node."""

    def __init__(self, context: Context, commits: Commits, activity: Activity) -> None:
        self._context = context
        self._commits = commits
        self._activity = activity
        self.hosted: dict[str, HostedAddress] = {}
        self._interfaces: list[str] = []
        self.local: dict[str, Local] = {}
        self.links: dict[str, bool] = {}
        self.refusals = Refusals()
        self.upkeep = Upkeep()
        self._dampers: dict[str, Damper] = {}
        #: Count of takes, releases and updates; the follower compares it to know whether anything moved (I3).
        self.changes = 0
        # Whether an address that no node of the cluster has held is looked for on the wire first.
        self._probing = False
        self._chunk = CLAIMS_PER_COMMIT
        # Claimed for the first time ever → the ticket of the probe under way; 0: it found no other machine.
        self._probes: dict[str, int] = {}
        # Address → the revision of its claim that this node has asked to be deleted (or may have, before a crash).
        # The deletion may still take effect, however late: such a claim is no ground to take the address.
        self._given_up: dict[str, int] = {}
        self._moving: str | None = None
        self._taking = False
        self._doubted = False
        self._began = 0.0
        # Address -> when to try again to remove it: the kernel neither removed nor muted it.
        self._stuck: dict[str, float] = {}
        # A plan, and what it gives to which incarnation of this node.
        self._assigned: tuple[PlanRecord | None, str, frozenset[str]] = (None, "", frozenset())
        # The plan's revision, and until when it is new.
        self._plan = (0, 0.0)

    # -- inputs ----------------------------------------------------------------------------------------

    def configure(self, identity: Identity) -> None:
        """The configured addresses (at start and at reload). One that is not configured any longer is released."""
        self.hosted = {hosted.address: hosted for hosted in identity.addresses}
        self._probing = identity.probe
        self._interfaces = sorted({name for hosted in identity.addresses for name in hosted.interfaces})

    def down(self) -> tuple[str, ...]:
        """Configured interfaces without link, sorted."""
        return tuple(name for name in self._interfaces if not self.links.get(name, False))

    def unsteady(self) -> tuple[str, ...]:
        """Configured interfaces that have had a link for too short a time after they had lost it, sorted."""
        return tuple(name for name in self._interfaces if self._is_unsteady(name))

    def _is_unsteady(self, name: str) -> bool:
        damper = self._dampers.get(name)
        return damper is not None and damper.unsteady(self._context.now, self._rule())

    def _rule(self) -> Rule:
        return link_rule(self._context.tunables)

    def adopt(self, held: Mapping[str, str], claims: Mapping[str, ClaimRecord]) -> None:
        """After a restart of the agent: ``held`` (address → interface) is what it had taken completely."""
        for address, claim in claims.items():
            interface = held.get(address, claim.interface)
            self.local[address] = Local(interface, self._bits(address), held=address in held)
            if address not in held:
                self._given_up[address] = self._context.view.revision_of(f"claim/{address}")
        for address, interface in held.items():
            if address not in claims:
                # Somebody deleted the claim or made it unreadable: whoever knows less than we did may free it.
                self.local[address] = Local(interface, self._bits(address), held=False)

    def adopt_links(self, down: Collection[str]) -> None:
        """After a restart of the agent, until the kernel has told the links' states: they are taken to be as the node's
        health said. A node that took them to be down would lose its addresses to the next plan."""
        if not self.links:
            names = {name for hosted in self.hosted.values() for name in hosted.interfaces}
            self.links = {name: name not in down for name in names}

    def inherit(self, held: Mapping[str, str]) -> None:
        """After a restart of the agent that lost its membership: what it had must be released."""
        for address, interface in held.items():
            self.local[address] = Local(interface, self._bits(address), held=False)

    def doubt(self) -> None:
        """The hold is over: nothing is held any more, but scripts must still be told."""
        self._doubted = True
        self.upkeep.clear()
        self._probes.clear()
        for local in self.local.values():
            local.held = False

    def links_changed(self, links: Mapping[str, bool]) -> None:
        """The links' states, of all interfaces: name → up."""
        before, self.links = self.links, dict(links)
        rule = self._rule()
        for name in {*before, *links}:
            self._dampers.setdefault(name, Damper()).seen(self.links.get(name, False), self._context.now, rule)
        for address, local in self.local.items():
            # An interface that is switched off loses the routes through it, and its IPv6 addresses.
            if local.held and before.get(local.interface) is False and self.links.get(local.interface):
                self.upkeep.forgotten(address, self._context.now)

    def forget(self) -> None:
        """The store has another history: revisions of claims mean nothing there."""
        self._given_up.clear()

    def address_removed(self, address: str, interface: str) -> None:
        """An address vanished from the kernel; if it is held there, it comes back."""
        if self._is_held(address, interface) and self.upkeep.lost(address, self._context.now):
            self._context.note(f"{address} was removed from {interface} by another program: restoring it", "warning")
            self._restore()

    def restored(self, address: str, interface: str, problem: str) -> None:
        """The answer to :class:`Restore`."""
        if not self._is_held(address, interface):
            # An activity decides, and puts the address where it belongs.
            return
        if not problem:
            self.upkeep.restored(address, self._context.now)
        elif self.upkeep.failed(address, self._context.now):
            self.give_up(address, interface, f"it was removed, and the kernel refuses it: {problem}")
        else:
            self._context.note(f"cannot restore {address} on {interface}: {problem}; trying again", "warning")

    def renewal_failed(self, address: str, interface: str, problem: str) -> None:
        """The lifetime of a held address cannot be renewed: it is about to leave."""
        if self._is_held(address, interface) and self.upkeep.failed(address, self._context.now):
            self.give_up(address, interface, f"the kernel does not renew its lifetime: {problem}")

    def give_up(self, address: str, interface: str, reason: str) -> None:
        """``address`` does not work here: it is released, and refused for a while, so that another node gets it."""
        if self._is_held(address, interface):
            self.local[address].held = False
            self.upkeep.released(address)
            self._refuse(address, reason, self._context.now)

    def scripts_forget(self, addresses: Collection[str]) -> None:
        """What scripts attached to these addresses may be gone, as after a firewall's reload: tell the scripts."""
        for address in addresses:
            local = self.local.get(address)
            if local is not None and local.held:
                self.upkeep.forgotten(address, self._context.now)

    def still_here(self, address: str, reason: str) -> None:
        """The kernel neither removed nor muted ``address``, which is being given up: it keeps its claim until then."""
        if address not in self._stuck:
            text = f"{address} can be neither removed nor muted: {reason}; this node keeps its claim and tries again"
            self._context.note(text, "error")
        self._stuck[address] = self._context.now + STUCK_PAUSE

    @property
    def moving(self) -> str | None:
        """The address that an activity is about."""
        return self._moving

    def _is_held(self, address: str, interface: str) -> bool:
        """Whether ``address`` is held on ``interface`` and nothing is being done about it."""
        local = self.local.get(address)
        return local is not None and local.held and local.interface == interface and self._moving != address

    def _restore(self) -> None:
        """Configure again what the kernel has lost, where there is a link."""

        def possible(address: str) -> bool:
            local = self.local.get(address)
            return local is not None and self.links.get(local.interface, False) and self._moving != address

        for address in self.upkeep.to_restore(self._context.now, possible):
            local = self.local[address]
            self._context.emit(Restore(address, local.bits, local.interface))

    # -- what there is to do ---------------------------------------------------------------------------

    def interface_for(self, address: str) -> str | None:
        """The first configured interface of ``address`` with link; one whose link is steady before others."""
        hosted = self.hosted.get(address)
        if hosted is None:
            return None
        linked = [name for name in hosted.interfaces if self.links.get(name, False)]
        return next((name for name in linked if not self._is_unsteady(name)), linked[0] if linked else None)

    def mine(self, plan: PlanRecord | None, incarnation: str) -> frozenset[str]:
        """As :func:`assigned`, worked out once for each plan."""
        known, whose, addresses = self._assigned
        if plan is not known or incarnation != whose:
            addresses = assigned(plan, self._context.name, incarnation)
            self._assigned = plan, incarnation, addresses
        return addresses

    def step(self, mine: frozenset[str], plan_revision: int, incarnation: str, may_take: bool) -> None:
        """Start the commits that are due.

        ``mine``: what the plan of ``plan_revision`` gives this node. ``may_take``: the hold is valid and the
        plan's preparations are complete.
        """
        if plan_revision != self._plan[0]:
            self._plan = (plan_revision, self._context.now + PRECEDENCE)
        self.refusals.lapse(self._context.now, self._served)
        self._restore()
        self._unclaim(mine, incarnation)
        self._mend(incarnation)
        if may_take:
            self._reclaim(mine, incarnation)
            self._claim(mine, plan_revision, incarnation)
        self._probe(mine, incarnation)

    def claimed(self, address: str, incarnation: str) -> bool:
        """Whether this incarnation has the claim on ``address``."""
        claim = self._context.view.claims.get(address)
        return claim is not None and claim.record.node == self._context.name and claim.record.incarnation == incarnation

    def contradiction(self, incarnation: str) -> str | None:
        """An address that is held or being taken here though the claim is not this incarnation's; and how that is.

        A claim that is merely gone is written anew for what is held (a stranger deleted it). What is being taken is
        not so far: scripts run that another node may not run at the same time.
        """
        for address, local in self.local.items():
            taking = self._taking and self._moving == address
            if (local.held or taking) and not self.claimed(address, incarnation):
                holder = self._context.view.claim_holder(address)
                if holder is not None:
                    return f"{address} is here and its claim in the store belongs to {holder}"
                if taking:
                    return f"{address} is being taken and its claim in the store is gone"
        return None

    def _firmly_claimed(self, address: str, incarnation: str) -> bool:
        """Whether this incarnation has a claim on ``address`` that no deletion under way can end."""
        given_up = self._given_up.get(address)
        return self.claimed(address, incarnation) and given_up != self._context.view.revision_of(f"claim/{address}")

    def release_due(self, mine: frozenset[str], hold_valid: bool, may_release: bool, incarnation: str) -> str | None:
        """The next address to release, if any. Without a hold everything is, at once; else when the plan says so."""
        for address in self.local:
            if self._context.now < self._stuck.get(address, 0.0):
                continue
            if not hold_valid or address not in self.hosted:
                return address
            if not self.claimed(address, incarnation) and (
                not self.local[address].held or self._context.view.claim_holder(address) is not None
            ):
                return address
            if may_release and (address not in mine or address in self.refusals or self._left_elsewhere(address)):
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
        ticket = self._activity.begin("releaseip", lambda ok, reason: self._released(address, ok, reason))
        self._context.emit(ReleaseAddress(ticket, address, local.bits, local.interface))

    def take_due(self, mine: frozenset[str], incarnation: str) -> str | None:
        """The next address that is claimed and must be taken; those that could not be taken before are last."""
        if self._context.now < self.refusals.next_take:
            return None
        missing = [a for a in mine if a not in self.refusals and not ((local := self.local.get(a)) and local.held)]
        failures = self._failures()
        others_first = self._context.now < self._plan[1] and any(address not in failures for address in missing)
        for address in sorted(missing, key=lambda address: (failures.get(address, 0), address)):
            if others_first and address in failures:
                return None
            if not self._firmly_claimed(address, incarnation) or self.interface_for(address) is None:
                continue
            if not self._unproven(address) or self._probes.get(address) == 0:
                return address
        return None

    # -- the first time ----------------------------------------------------------------------------------

    def _unproven(self, address: str) -> bool:
        """Whether nothing tells that the address is this cluster's: none of its nodes has held it."""
        return self._probing and self._context.view.revision_of(f"held/{address}") == 0

    def _probe(self, mine: frozenset[str], incarnation: str) -> None:
        """Ask on the wire for those that are claimed and were never held here: all at once, before any is taken."""
        held = {address for address, local in self.local.items() if local.held}
        wanted = {address for address in mine - held if address not in self.refusals}
        if not wanted and not self._probes:
            return
        self._probes = {address: ticket for address, ticket in self._probes.items() if address in wanted}
        items = []
        for address in sorted(wanted - self._probes.keys()):
            interface = self.interface_for(address)
            if interface is None or not self._firmly_claimed(address, incarnation):
                continue
            if self._unproven(address):
                items.append((address, interface))
        if items:
            ticket = self._context.ticket()
            self._probes |= dict.fromkeys((address for address, _ in items), ticket)
            self._context.emit(ProbeAddresses(ticket, tuple(items)))

    def probed(self, ticket: int, found: Mapping[str, str]) -> None:
        """The answer to ``ticket``: ``found`` is address → what was heard of another machine that has it."""
        now = self._context.now
        for address in [address for address, asked in self._probes.items() if asked == ticket]:
            heard = found.get(address)
            if heard is None:
                self._probes[address] = 0
                continue
            del self._probes[address]
            reason = f"another machine has it: {heard}"
            pause = self.refusals.add(address, reason, now, now, occupied=True)
            self._context.note(f"{address} is not taken, {reason}; next try in {pause:.0f} s", "error")

    def _failures(self) -> dict[str, int]:
        """What could not be taken → how often here, and at how many other nodes at present."""
        found = self.refusals.failures()
        for name, health in self._context.view.health.items():
            for address in health.record.refused if name != self._context.name else ():
                found[address] = found.get(address, 0) + 1
        return found

    def take(self, address: str) -> None:
        """Begin to take ``address``."""
        interface = self.interface_for(address)
        assert interface is not None, "take_due looked"
        bits = self.hosted[address].bits
        self._start(address, taking=True)
        # From now on it may be here: whatever interrupts the take must lead to a release.
        self.local[address] = Local(interface, bits, held=False)
        ticket = self._activity.begin("takeip", lambda ok, reason: self._taken(address, ok, reason))
        first = self._unproven(address)
        self._context.emit(TakeAddress(ticket, address, bits, interface, self._context.incarnation, first))

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
        self._start(address, taking=True)
        ticket = self._activity.begin("updateip", lambda ok, reason: self._updated(address, new, ok, reason))
        incarnation = self._context.incarnation
        self._context.emit(UpdateAddress(ticket, address, local.bits, local.interface, new, incarnation))

    def retake_due(self, mine: frozenset[str]) -> str | None:
        """The next held address of which the scripts must hear once more."""
        for address in self.upkeep.to_tell(self._context.now):
            local = self.local.get(address)
            if local is not None and local.held and address in mine and self.links.get(local.interface, False):
                return address
        return None

    def retake(self, address: str) -> None:
        """Begin to tell the scripts once more that ``address`` is here."""
        local = self.local[address]
        self._start(address, taking=True)
        ticket = self._activity.begin("takeip", lambda ok, reason: self._retaken(address, ok, reason))
        self._context.emit(TakeAgain(ticket, address, local.bits, local.interface, self._context.incarnation))

    def settled(self, mine: frozenset[str]) -> bool:
        """Whether what the plan gives this node is held where it belongs (or refused), and nothing else is here."""
        if self._moving is not None or self.update_due(mine) is not None:
            return False
        if any(address not in mine or address in self.refusals for address in self.local):
            return False
        for address, claim in self._context.view.claims.items():
            if claim.record.node == self._context.name and address not in self.local:
                return False
        for address in mine:
            local = self.local.get(address)
            if address not in self.refusals and (local is None or not local.held):
                return False
        return True

    def next_due(self, since: float) -> float:
        """When time alone makes something due that was not at ``since``: a refused address may be tried again, another
        one taken, a lost one restored, or a link counts as steady."""
        soon = (self.refusals.next_take, self._plan[1], *self._stuck.values())
        waits = [time for time in soon if time > since]
        rule = self._rule()
        waits += [damper.next_due(since, rule) for damper in self._dampers.values()]
        return min([self.refusals.next_due(), self.upkeep.next_due(since), *waits])

    # -- commits ---------------------------------------------------------------------------------------

    def claim_refused(self) -> None:
        """A commit of claims was refused: claim one by one, so that one conflict does not keep the others back."""
        self._chunk = 1

    def _claim(self, mine: frozenset[str], plan_revision: int, incarnation: str) -> None:
        view = self._context.view
        if not mine or not self._commits.free(Claim()):
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
        conditions = [*self._context.membership(), Condition("plan", plan_revision)]
        conditions += [Condition(f"claim/{address}", 0) for address, _ in chunk]
        self._commits.start(
            Claim(),
            conditions,
            [
                Put(f"claim/{address}", schema.encode(ClaimRecord(self._context.name, incarnation, interface)))
                for address, interface in chunk
            ],
        )

    def _unclaim(self, mine: frozenset[str], incarnation: str) -> None:
        """Give up the claims on addresses that are not here and should not be."""
        view = self._context.view
        for address in [a for a, c in view.claims.items() if c.record.node == self._context.name]:
            unwanted = address not in mine or address in self.refusals
            if address in self.local or not unwanted or not self.claimed(address, incarnation):
                continue
            conditions = [*self._context.membership(), view.condition(f"claim/{address}")]
            if self._commits.start(Unclaim(address), conditions, [Delete(f"claim/{address}")]):
                self._given_up[address] = view.revision_of(f"claim/{address}")

    def _reclaim(self, mine: frozenset[str], incarnation: str) -> None:
        """Write those claims anew that a deletion under way could end, when the address is wanted after all."""
        view = self._context.view
        for address in [a for a in self._given_up if a in mine and a not in self.refusals]:
            interface = self.interface_for(address)
            if not self.claimed(address, incarnation):
                del self._given_up[address]
            elif interface is not None and not self._firmly_claimed(address, incarnation):
                record = ClaimRecord(self._context.name, incarnation, interface)
                conditions = [*self._context.membership(), view.condition(f"claim/{address}")]
                self._commits.start(Reclaim(address), conditions, [Put(f"claim/{address}", schema.encode(record))])

    def _mend(self, incarnation: str) -> None:
        """Write claims anew that say less than the truth, or that somebody overwrote with something unreadable; and
        with the first claim that says "serving" that the address is the cluster's."""
        view = self._context.view
        operations, conditions = [], []
        for address, local in self.local.items():
            key = f"claim/{address}"
            claim = view.claims.get(address)
            if claim is None and key in view.corrupt and local.held:
                # Read anew after a gap, it could be anybody's; but who holds an address and is still a member has it.
                pass
            elif not self.claimed(address, incarnation) or not (local.held or key in view.corrupt):
                continue
            truth = ClaimRecord(self._context.name, incarnation, local.interface, serving=local.held)
            if claim is None or claim.record != truth or key in view.corrupt:
                conditions.append(view.condition(key))
                operations.append(Put(key, schema.encode(truth)))
            if local.held and self._unproven(address):
                conditions.append(view.condition(f"held/{address}"))
                operations.append(Put(f"held/{address}", schema.encode(HeldRecord(self._context.name))))
        if operations:
            membership = self._context.membership()
            self._commits.start(
                CorrectClaims(), [*membership, *conditions[:CLAIMS_PER_COMMIT]], operations[:CLAIMS_PER_COMMIT]
            )

    # -- ends of activities ----------------------------------------------------------------------------

    def _start(self, address: str, taking: bool = False) -> None:
        self._moving = address
        self._taking = taking
        self._began = self._context.now
        self._doubted = False
        self.changes += 1

    def _gone(self, address: str) -> None:
        """``address`` has left this node, unless the kernel would neither remove nor mute it."""
        self.upkeep.released(address)
        if self._stuck.get(address, 0.0) > self._context.now:
            self.local[address].held = False
        else:
            self._stuck.pop(address, None)
            self.local.pop(address, None)

    def _released(self, address: str, ok: bool, reason: str) -> None:
        self._moving = None
        self._gone(address)
        if not ok:
            gone = "" if address in self.local else "; the address is gone all the same"
            self._context.note(f"releaseip {address}: {reason}{gone}", "warning")

    def _taken(self, address: str, ok: bool, reason: str) -> None:
        self._moving = None
        if ok:
            # A hold that ended meanwhile took the address away again, whatever the take says.
            self.local[address].held = not self._doubted
            self._stuck.pop(address, None)
            self.upkeep.released(address)
            self.refusals.taken(address, self._context.now)
            return
        self._failed(address, f"takeip: {reason}")

    def _updated(self, address: str, interface: str, ok: bool, reason: str) -> None:
        self._moving = None
        if ok:
            self.local[address].interface = interface
            self.upkeep.released(address)
            return
        self._failed(address, f"updateip: {reason}")

    def _retaken(self, address: str, ok: bool, reason: str) -> None:
        self._moving = None
        if ok:
            self.upkeep.told(address, self._context.now)
            return
        self._failed(address, f"takeip, once more: {reason}")

    def _failed(self, address: str, reason: str) -> None:
        """What was to bring ``address`` here has failed, and it was taken away again."""
        self._gone(address)
        if not self._doubted:
            self._refuse(address, reason, self._began)

    def _refuse(self, address: str, reason: str, began: float) -> None:
        pause = self.refusals.add(address, reason, began, self._context.now)
        self._context.note(f"cannot serve {address} ({reason}); next try in {pause:.0f} s", "error")

    def _served(self, address: str) -> bool:
        """Whether some node says in its claim that it serves ``address``."""
        claim = self._context.view.claims.get(address)
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
