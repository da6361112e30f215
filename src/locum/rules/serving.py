"""A node's work on each public address: claim and take those that the plan gives it, release the rest.

An address is in one of three states here. Absent: it is not here. ``held``: ``takeip`` succeeded and the address is
here. ``unsure``: it may be here, after a crash of the agent or the end of a hold; then it is taken again if the plan
still gives it to this node, else released properly. The claim in the store is the right to take; it is deleted only
when the address is certainly gone.

Rules of this file: the addresses of this node only. Plans and claims of other nodes come in as values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from locum.rules.activity import Activity, Done
from locum.rules.claims import Claims, Local
from locum.rules.commits import Commits
from locum.rules.context import Context
from locum.rules.effects import ReleaseAddress, Restore, TakeAddress, TakeAgain, UpdateAddress
from locum.rules.first_time import FirstTime
from locum.rules.identity import Adoption, Identity
from locum.rules.links import Links
from locum.rules.moment import Moment
from locum.rules.refusals import Refusals
from locum.rules.schema import ClaimRecord, HostedAddress, PlanRecord
from locum.rules.upkeep import Upkeep

#: For this number of seconds after a new plan, the addresses that it adds precede those that could not be taken, here
#: or elsewhere: the claims of the former may still be under way.
PRECEDENCE = 5.0
#: Pause before retrying the release of an address that could be neither removed nor muted, in seconds. Its lifetime
#: ends soon, because it is not renewed.
STUCK_PAUSE = 1.0


class Serving:
    """The addresses of one node."""

    def __init__(self, context: Context, commits: Commits, activity: Activity) -> None:
        self._context = context
        self._activity = activity
        self.hosted: dict[str, HostedAddress] = {}
        self.local: dict[str, Local] = {}
        self.refusals = Refusals()
        self.upkeep = Upkeep()
        self.links = Links(context)
        self.first_time = FirstTime(context)
        self.claims = Claims(context, commits, self.interface_for)
        #: Count of takes, releases and updates, by which following detects changes (I3).
        self.changes = 0
        #: The address of the activity under way.
        self.moving: str | None = None
        self._taking = False
        self._doubted = False
        self._began = 0.0
        # Address → when to retry its removal: the kernel neither removed nor muted it.
        self._stuck: dict[str, float] = {}
        # The plan that this node follows, and the addresses that it gives this node.
        self._assigned: tuple[PlanRecord | None, frozenset[str]] = (None, frozenset())
        # The plan's revision, and until when it counts as new.
        self._plan = (0, 0.0)

    # -- inputs ----------------------------------------------------------------------------------------

    def configure(self, identity: Identity) -> None:
        """Set the configured addresses, at start and at reload. Those no longer configured are released."""
        self.hosted = {hosted.address: hosted for hosted in identity.addresses}
        self.first_time.wanted = identity.probe
        self.links.configure(identity.addresses)

    def adopt(self, adoption: Adoption, claims: Mapping[str, ClaimRecord]) -> None:
        """After a restart of the agent: continue with what its predecessor left; ``claims`` are those of this node."""
        held = adoption.held
        for address, claim in claims.items():
            interface = held.get(address, claim.interface)
            self.local[address] = Local(interface, self._bits(address), held=address in held)
            if address not in held:
                self.claims.adopt_unsure(address)
        # The others have no claim, or an unreadable one: a node that does not know its former value may free it.
        self.inherit(adoption, claims)

    def inherit(self, adoption: Adoption, known: Collection[str] = ()) -> None:
        """After a restart of the agent: release its predecessor's addresses, except those ``known`` here."""
        for address, interface in {**adoption.remains, **adoption.held}.items():
            if address not in known:
                self.local[address] = Local(interface, self._bits(address), held=False)

    def mark_uncertain(self) -> None:
        """The hold has ended: no address is held, but the scripts must still run."""
        self._doubted = True
        self.upkeep.clear()
        self.first_time.forget()
        for local in self.local.values():
            local.held = False

    def links_changed(self, links: Mapping[str, bool]) -> None:
        """Set the links' states, of all interfaces: name → up."""
        back = self.links.changed(links)
        # An interface that goes down loses its routes and its IPv6 addresses.
        self.scripts_forget([address for address, local in self.local.items() if local.interface in back])

    def address_removed(self, address: str, interface: str) -> None:
        """The kernel lost an address; restore it if it is held there."""
        if self._is_held(address, interface) and self.upkeep.lost(address, self._context.now):
            self._context.note(f"{address} was removed from {interface} by another program: restoring it", "warning")
            self._restore()

    def restored(self, address: str, interface: str, problem: str) -> None:
        """The answer to :class:`Restore`."""
        if not self._is_held(address, interface):
            # The activity under way decides, and puts the address where it belongs.
            return
        if not problem:
            self.upkeep.restored(address, self._context.now)
        elif self.upkeep.failed(address, self._context.now):
            self.give_up(address, interface, f"it was removed, and the kernel refuses it: {problem}")
        else:
            self._context.note(f"cannot restore {address} on {interface}: {problem}; trying again", "warning")

    def renewal_failed(self, address: str, interface: str, problem: str) -> None:
        """The lifetime of a held address cannot be renewed: the kernel will remove it soon."""
        if self._is_held(address, interface) and self.upkeep.failed(address, self._context.now):
            self.give_up(address, interface, f"the kernel does not renew its lifetime: {problem}")

    def give_up(self, address: str, interface: str, reason: str) -> None:
        """Release ``address``, which does not work here, and refuse it for a while, so that another node gets it."""
        if self._is_held(address, interface):
            self.local[address].held = False
            self.upkeep.released(address)
            self._refuse(address, reason, self._context.now)

    def scripts_forget(self, addresses: Collection[str]) -> None:
        """State that scripts attached to these addresses may be gone, as after a firewall's reload: run them again."""
        for address in addresses:
            local = self.local.get(address)
            if local is not None and local.held:
                self.upkeep.forgotten(address, self._context.now)

    def still_here(self, address: str, reason: str) -> None:
        """The kernel neither removed nor muted ``address``, which is under release: keep its claim until it does."""
        if address not in self._stuck:
            text = f"{address} can be neither removed nor muted: {reason}; this node keeps its claim and tries again"
            self._context.note(text, "error")
        self._stuck[address] = self._context.now + STUCK_PAUSE

    def _is_held(self, address: str, interface: str) -> bool:
        """Whether ``address`` is held on ``interface`` and no activity is about it."""
        local = self.local.get(address)
        return local is not None and local.held and local.interface == interface and self.moving != address

    def _restore(self) -> None:
        """Configure the addresses that the kernel has lost, where a link is present."""

        def possible(address: str) -> bool:
            local = self.local.get(address)
            return local is not None and self.links.up(local.interface) and self.moving != address

        for address in self.upkeep.to_restore(self._context.now, possible):
            local = self.local[address]
            self._context.emit(Restore(address, local.bits, local.interface))

    # -- due work --------------------------------------------------------------------------------------

    def interface_for(self, address: str) -> str | None:
        """The first configured interface of ``address`` that has link; those with a steady link come first."""
        hosted = self.hosted.get(address)
        return self.links.best(hosted) if hosted is not None else None

    def mine(self, plan: PlanRecord | None) -> frozenset[str]:
        """The addresses that ``plan``, which this membership follows, gives this node; worked out once for each."""
        if plan is not self._assigned[0]:
            assignment = plan.assignment if plan is not None else {}
            self._assigned = plan, frozenset(a for a, node in assignment.items() if node == self._context.name)
        return self._assigned[1]

    def step(self, moment: Moment, barred: frozenset[str], *, may_take: bool) -> None:
        """Start the commits and probes that are due.

        ``barred``: addresses that must not be claimed, whatever the plan says. ``may_take``: nothing else keeps this
        node from claiming.
        """
        if moment.plan_revision != self._plan[0]:
            self._plan = (moment.plan_revision, self._context.now + PRECEDENCE)
        self.refusals.lapse(self._context.now, self._served)
        self._restore()
        mine = moment.mine - barred
        wanted = frozenset(address for address in mine if address not in self.refusals)
        self.claims.give_up(wanted, self.local)
        self.claims.correct(self.local, self.first_time.unproven)
        if may_take:
            self.claims.reclaim(wanted)
            if mine:
                self.claims.claim(wanted, moment.plan_revision)
        self.first_time.ask(self._missing(wanted), self._ready_for)

    def _missing(self, wanted: Iterable[str]) -> list[str]:
        """The ``wanted`` addresses that are not held here."""
        return [address for address in wanted if not ((local := self.local.get(address)) and local.held)]

    def _ready_for(self, address: str) -> str | None:
        """The interface on which ``address`` could be taken now, None without a firm claim or a link."""
        return self.interface_for(address) if self.claims.firm(address) else None

    def contradiction(self) -> str | None:
        """The problem with an address that is held or being taken here without this membership's claim; else None.

        The claim on a held address may be absent (a foreign writer deleted it); this node then rewrites it. For an
        address that is being taken it may not: scripts run that must not run on two nodes at the same time.
        """
        for address, local in self.local.items():
            taking = self._taking and self.moving == address
            if (local.held or taking) and not self.claims.mine(address):
                holder = self._context.view.claim_holder(address)
                if holder is not None:
                    return f"{address} is here and its claim in the store belongs to {holder}"
                if taking:
                    return f"{address} is being taken and its claim in the store is gone"
        return None

    def release_due(self, moment: Moment) -> str | None:
        """The next address to release, or None. Without a hold every address is due at once; else the plan decides."""
        for address in self.local:
            if self._context.now < self._stuck.get(address, 0.0):
                continue
            if not moment.holds or address not in self.hosted:
                return address
            if not self.claims.mine(address) and (
                not self.local[address].held or self._context.view.claim_holder(address) is not None
            ):
                return address
            unwanted = address not in moment.mine or address in self.refusals
            if moment.may_release and (unwanted or self._left_elsewhere(address)):
                return address
        return None

    def _left_elsewhere(self, address: str) -> bool:
        """Whether remains of ``address`` are on another interface than the one on which it would be taken."""
        local = self.local[address]
        return not local.held and self.interface_for(address) not in (None, local.interface)

    def release(self, address: str) -> None:
        """Begin to release ``address``."""

        def released(ok: bool, reason: str) -> None:
            self._gone(address)
            if not ok:
                gone = "" if address in self.local else "; the address is gone in any case"
                self._context.note(f"releaseip {address}: {reason}{gone}", "warning")

        local, request = self.local[address], self._begin(address, "releaseip", released)
        self._context.emit(ReleaseAddress(request, address, local.bits, local.interface))

    def take_due(self, moment: Moment) -> str | None:
        """The next address that is claimed and must be taken; those that failed before come last."""
        if self._context.now < self.refusals.next_take:
            return None
        missing = self._missing(address for address in moment.mine if address not in self.refusals)
        failures = self._failures()
        others_first = self._context.now < self._plan[1] and any(address not in failures for address in missing)
        for address in sorted(missing, key=lambda address: (failures.get(address, 0), address)):
            if others_first and address in failures:
                return None
            if self._ready_for(address) is not None and self.first_time.passed(address):
                return address
        return None

    def probed(self, request: int, found: Mapping[str, str]) -> None:
        """The answer to ``request``. ``found``: address → evidence of another machine that has it."""
        now = self._context.now
        for address, heard in self.first_time.probed(request, found).items():
            reason = f"another machine has it: {heard}"
            pause = self.refusals.add(address, reason, now, now, occupied=True)
            self._context.note(f"{address} is not taken, {reason}; next try in {pause:.0f} s", "error")

    def _failures(self) -> dict[str, int]:
        """Address that could not be taken → the number of failures here, plus that of other nodes refusing it now."""
        found = self.refusals.failures()
        for name, health in self._context.view.health.items():
            for address in health.record.refused if name != self._context.name else ():
                found[address] = found.get(address, 0) + 1
        return found

    def take(self, address: str) -> None:
        """Begin to take ``address``."""

        def taken() -> None:
            # If the hold ended during the take, the address was removed, whatever the result of the take.
            self.local[address].held = not self._doubted
            self._stuck.pop(address, None)
            self.upkeep.released(address)
            self.refusals.taken(address, self._context.now)

        interface = self.interface_for(address)
        assert interface is not None, "take_due looked"
        bits = self.hosted[address].bits
        # From now on the address may be here, so an interrupted take must lead to a release.
        self.local[address] = Local(interface, bits, held=False)
        request = self._bring(address, "takeip", taken)
        first = self.first_time.unproven(address)
        self._context.emit(TakeAddress(request, address, bits, interface, self._context.incarnation, first))

    def update_due(self, moment: Moment) -> str | None:
        """The next held address whose interface lost its link while another of its interfaces has one."""
        for address, local in self.local.items():
            linked = self.links.up(local.interface)
            if local.held and address in moment.mine and not linked and self.interface_for(address) is not None:
                return address
        return None

    def update(self, address: str) -> None:
        """Begin to move ``address`` to the interface that it should be on."""
        local, new = self.local[address], self.interface_for(address)
        assert new is not None, "update_due looked"

        def updated() -> None:
            self.local[address].interface = new
            self.upkeep.released(address)

        request, incarnation = self._bring(address, "updateip", updated), self._context.incarnation
        self._context.emit(UpdateAddress(request, address, local.bits, local.interface, new, incarnation))

    def retake_due(self, moment: Moment) -> str | None:
        """The next held address for which ``takeip`` must run again."""
        for address in self.upkeep.retakes_due(self._context.now):
            local = self.local.get(address)
            if local is not None and local.held and address in moment.mine and self.links.up(local.interface):
                return address
        return None

    def retake(self, address: str) -> None:
        """Begin to run ``takeip`` again for ``address``."""
        local, retaken = self.local[address], lambda: self.upkeep.retaken(address, self._context.now)
        request = self._bring(address, "takeip", retaken, "takeip, run again")
        self._context.emit(TakeAgain(request, address, local.bits, local.interface, self._context.incarnation))

    def settled(self, moment: Moment) -> bool:
        """Whether all addresses that the plan gives this node are in place (or refused), and no others are here."""
        if self.moving is not None or self.update_due(moment) is not None:
            return False
        if any(address not in moment.mine or address in self.refusals for address in self.local):
            return False
        claims, name = self._context.view.claims.items(), self._context.name
        if any(claim.record.node == name and address not in self.local for address, claim in claims):
            return False
        return not self._missing(address for address in moment.mine if address not in self.refusals)

    def next_due(self, since: float) -> float:
        """When time alone makes something due that was not at ``since``: a refused address may be retried, another
        one taken, a lost one restored, or a link counts as steady."""
        soon = (self.refusals.next_take, self._plan[1], *self._stuck.values())
        waits = [time for time in soon if time > since]
        return min([self.refusals.next_due(), self.upkeep.next_due(since), self.links.next_due(since), *waits])

    # -- activities ------------------------------------------------------------------------------------

    def _begin(self, address: str, name: str, done: Done, *, taking: bool = False) -> int:
        """Begin the activity ``name`` about ``address``; returns its request."""
        self.moving, self._taking = address, taking
        self._began, self._doubted = self._context.now, False
        self.changes += 1

        def ended(ok: bool, reason: str) -> None:
            self.moving = None
            done(ok, reason)

        return self._activity.begin(name, ended)

    def _bring(self, address: str, name: str, succeeded: Callable[[], None], what: str = "") -> int:
        """As :meth:`_begin`, for an activity that is to bring ``address`` here; when it fails the address is removed
        again, and refused for a while. ``what``: the activity in words."""

        def ended(ok: bool, reason: str) -> None:
            if ok:
                succeeded()
                return
            self._gone(address)
            if not self._doubted:
                self._refuse(address, f"{what or name}: {reason}", self._began)

        return self._begin(address, name, ended, taking=True)

    def _gone(self, address: str) -> None:
        """``address`` has left this node, unless the kernel would neither remove nor mute it."""
        self.upkeep.released(address)
        if self._stuck.get(address, 0.0) > self._context.now:
            self.local[address].held = False
        else:
            self._stuck.pop(address, None)
            self.local.pop(address, None)

    def _refuse(self, address: str, reason: str, began: float) -> None:
        pause = self.refusals.add(address, reason, began, self._context.now)
        self._context.note(f"cannot serve {address} ({reason}); next try in {pause:.0f} s", "error")

    def _served(self, address: str) -> bool:
        """Whether the claim of some node says that it serves ``address``."""
        claim = self._context.view.claims.get(address)
        return claim is not None and claim.record.serving

    def _bits(self, address: str) -> int:
        hosted = self.hosted.get(address)
        return hosted.bits if hosted is not None else 128 if ":" in address else 32
