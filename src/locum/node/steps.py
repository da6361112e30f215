"""Taking and releasing addresses, and all other steps that the rules request of this machine.

This file knows kernel and scripts, but no cluster. It keeps I7: whatever the scripts did, after a take the address is
configured, or the take has failed and left nothing; after a release the address is gone. An address may speak only
while it is in the gate's held set *and* the gate is open. This file changes the set; the gate's timer runs in the
kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping

from locum import tasks
from locum.clock import Clock
from locum.config.tunables import Tunables
from locum.errors import HoldEnded, LocumError
from locum.events.model import Event, EventResult
from locum.machine.addresses import Item
from locum.node.announcements import Announcements
from locum.node.gate_control import GateControl
from locum.node.ports import (
    AnnouncePort,
    CallsPort,
    ConnectionsPort,
    GatePort,
    HoldPagePort,
    NotesPort,
    ScriptsPort,
    TablePort,
    WirePort,
)
from locum.node.served_addresses import ServedAddresses
from locum.rules import effects as fx
from locum.threads import NoAnswer

Outcome = tuple[bool, str]

#: Limit for the removal of a note, in seconds.
NOTE_LIMIT = 2.0
#: Limit for the removal of all notes at the start, in seconds.
CLEAN_LIMIT = 5.0


def _ignore(*_: object) -> None:
    """No callback is set yet."""


class Steps:
    """The machine's side of one node.

    ``gate``: the kernel's gate, None without nftables. ``lifetime``: the addresses' lifetime in whole seconds.
    ``tunables`` returns those in force.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        table: TablePort,
        gate: GatePort | None,
        lifetime: int,
        announcer: AnnouncePort,
        engine: ScriptsPort,
        page: HoldPagePort,
        notes: NotesPort,
        connections: ConnectionsPort,
        calls: CallsPort,
        wire: WirePort,
        tunables: Callable[[], Tunables],
        log: Callable[[str, str], None],
    ) -> None:
        self.gate = GateControl(gate, clock=clock, calls=calls, log=log)
        self.addresses = ServedAddresses(
            clock=clock, page=page, table=table, gate=self.gate, lifetime=lifetime, calls=calls, log=log
        )
        self.announcements = Announcements(
            clock=clock,
            page=page,
            announcer=announcer,
            calls=calls,
            configured=self.addresses.configured,
            tunables=tunables,
            log=log,
        )
        self._calls = calls
        self._clock = clock
        self._engine = engine
        self._page = page
        self._notes = notes
        self._connections = connections
        self._wire = wire
        # How often a hold was dropped. Work that began before the last drop must not continue under the next hold.
        self._drops = 0
        self._log = log
        self._background = tasks.Group("noting that an address is held")
        #: Called after every event, with its result.
        self.on_event: Callable[[EventResult], None] = _ignore
        #: Called with address and reason when a leaving address could be neither removed nor muted.
        self.on_still_here: Callable[[str, str], None] = _ignore
        #: Set when the engine has started; events wait for it, so that beats need not.
        self.engine_ready = asyncio.Event()

    # -- the hold --------------------------------------------------------------------------------------------

    def confirm(self, incarnation: str, slot: int, deadline: float, revision: int, quiet: float) -> None:
        """The beat of ``slot`` was accepted: open the gate until ``deadline``, for which it was armed. Does not wait
        for the gate."""
        # The page first: with an old deadline the guard would remove addresses that the kernel still lets speak.
        self._page.confirm(incarnation, slot, deadline, revision, quiet)
        self.gate.open(slot)
        self.addresses.renew_all(deadline)

    async def restore_gate(self) -> None:
        """Restore rules that another program removed or changed, shut until the next beat is confirmed."""
        if not await self.gate.restore():
            # Without the gate nothing enforces this node's hold: no address is configured before it is back.
            for address, (bits, interface) in list(self.addresses.configured.items()):
                await self.addresses.take_off(address, bits, interface)

    async def clean_slate(self, remains: Iterable[Item] = ()) -> None:
        """No previous agent left a hold: discard its notes, silence the addresses that it left, and remove ``remains``,
        which the rules do not know."""
        try:
            await self._calls.files.run("removing the notes of an earlier agent", CLEAN_LIMIT, self._notes.clear)
        except (OSError, NoAnswer) as error:
            # They are valid only in the membership of their time, which the page no longer has.
            self._log(f"the notes of an earlier agent cannot be removed: {error}", "warning")
        self.addresses.configured.update((address, (bits, interface)) for address, bits, interface in remains)
        self.drop()

    def drop(self) -> None:
        """End without a hold: mute all addresses at once and remove them.

        Does not wait for the kernel. Later work at the gate, or on addresses, follows this on the same threads. So the
        gate cannot open for an address that this mutes.
        """
        self._drops += 1
        self._page.clear()
        self.gate.drop()
        gone = list(self.addresses.configured.items())
        for address, _ in gone:
            self._stop_serving(address)
        if gone:
            self.addresses.remove_all([(address, bits, interface) for address, (bits, interface) in gone])
        self._connections.dropped(address for address, _ in gone)

    # -- events ----------------------------------------------------------------------------------------------

    async def run_event(self, effect: fx.RunEvent) -> Outcome:
        """Run an event that concerns no address."""
        return await self._run(Event(effect.event))

    async def run_once(self, event: Event) -> str | None:
        """Run ``init`` or ``setup``; returns the reason when it failed."""
        ok, reason = await self._run(event)
        return None if ok else reason

    async def _run(
        self,
        event: Event,
        arguments: tuple[str, ...] = (),
        environment: Callable[[], Mapping[str, str]] = dict,
    ) -> Outcome:
        await self.engine_ready.wait()

        def now() -> dict[str, str]:
            # Read when the scripts start: the event may have waited for its turn while beats continued.
            present = ",".join(f"{address}/{bits}@{name}" for address, (bits, name) in self.addresses.held.items())
            return {"LOCUM_ADDRESSES": present, **environment()}

        try:
            result = await self._engine.run(event, arguments, environment=now)
        except LocumError as error:
            return False, str(error)
        self.on_event(result)
        failure = result.failure
        if failure is None:
            return True, ""
        said = f": {failure.reason}" if failure.reason else ""
        return False, f"{failure.script} {failure.outcome} (status {failure.status}){said}"

    def _lasts(self, drops: int) -> bool:
        """Whether the hold lasts, and is the one that the node had when :attr:`_drops` was ``drops``."""
        return drops == self._drops and self._clock.boot() < self._page.deadline

    def _under_hold(self, drops: int) -> Callable[[], dict[str, str]]:
        """The environment of scripts that only a holder may run, for :meth:`_run`.

        It is asked at the last moment before the scripts start, and raises HoldEnded when the hold has ended by then:
        another node may run its own scripts for the address (I2). Nothing is awaited between that look and the start.
        """

        def asked() -> dict[str, str]:
            if not self._lasts(drops):
                raise HoldEnded
            return {"LOCUM_LIFETIME": str(self.addresses.lifetime), "LOCUM_DEADLINE": f"{self._page.deadline:.9f}"}

        return asked

    # -- addresses -------------------------------------------------------------------------------------------

    async def take(self, effect: fx.TakeAddress) -> Outcome:
        """``takeip``: let it speak, run the scripts, ensure that it is configured, announce it, notify its clients."""
        address, bits, interface = effect.address, effect.bits, effect.interface
        await self._connections.taking(address)
        # The hold may end before the engine runs.
        await self.engine_ready.wait()
        drops = self._drops
        if not self._lasts(drops):
            return False, str(HoldEnded())
        # Heard since the probe, while other addresses were taken.
        occupant = self._wire.occupant(address) if effect.first else None
        if occupant is not None:
            return False, f"another machine has it: {occupant}"
        await self._begin(address)
        if not self._lasts(drops):
            # An address let through the gate after the drop would speak under the next hold.
            return False, str(HoldEnded())
        self.addresses.configured[address] = (bits, interface)
        if not await self.gate.let_through(address):
            await self._abandon(address)
            return False, "the kernel's gate cannot be changed"
        arguments = (interface, address, str(bits))
        ran = await self._run(Event.TAKEIP, arguments, self._under_hold(drops))
        outcome = await self._conclude(effect, interface, ran)
        if outcome[0]:
            self.announcements.begin(interface, address)
            self._connections.taken(address, interface)
        return outcome

    async def probe(self, effect: fx.ProbeAddresses) -> dict[str, str]:
        """Probe these addresses on the wire; address → what was heard of another machine."""
        return await self._wire.probe(effect.items)

    def defend(self, interface: str, address: str) -> None:
        """Another machine claims ``address``, which is held here: announce it once."""
        if address in self.addresses.held:
            self.announcements.once(interface, address)

    async def release(self, effect: fx.ReleaseAddress) -> Outcome:
        """``releaseip``: mute it, end its connections, run the scripts, ensure that it is gone."""
        address, bits, interface = effect.address, effect.bits, effect.interface
        await self._begin(address)
        self.addresses.configured.setdefault(address, (bits, interface))
        await self._connections.releasing(address)
        await self.gate.mute(address)
        await self._connections.released(address)
        arguments = (interface, address, str(bits))
        try:
            return await self._run(Event.RELEASEIP, arguments)
        finally:
            await self._forget(address)
            if not self.gate.present:
                # It could not be muted: clients could still connect until now.
                self._connections.dropped([address])

    async def update(self, effect: fx.UpdateAddress) -> Outcome:
        """``updateip``: the address changes its interface."""
        address, bits = effect.address, effect.bits
        old, new = effect.old_interface, effect.new_interface
        drops = self._drops
        await self._begin(address)
        arguments = (old, new, address, str(bits))
        ran = await self._run(Event.UPDATEIP, arguments, self._under_hold(drops))
        self.addresses.configured[address] = (bits, new)
        await self.addresses.take_off(address, bits, old)
        outcome = await self._conclude(effect, new, ran)
        if outcome[0]:
            self.announcements.begin(new, address)
            self._connections.updated(address, new)
        return outcome

    async def restore(self, effect: fx.Restore) -> str:
        """Configure and announce again a held address that was removed; the problem, "" when it is present."""
        # Until scripts know of it, it counts as not taken: the agent may end before they do.
        await self._forget_note(effect.address)
        if not self.addresses.is_held(effect.address, effect.interface):
            # The address left while the note was removed, perhaps to another node.
            return "it is no longer held here"
        problem = await self.addresses.ensure(effect.address, effect.bits, effect.interface)
        if not problem and self.addresses.is_held(effect.address, effect.interface):
            self.announcements.begin(effect.interface, effect.address)
        return problem

    async def take_again(self, effect: fx.TakeAgain) -> Outcome:
        """``takeip`` once more, for attachments of scripts to the address; it speaks and is renewed meanwhile."""
        address, bits, interface = effect.address, effect.bits, effect.interface
        drops = self._drops
        await self._forget_note(address)
        arguments = (interface, address, str(bits))
        return await self._conclude(
            effect, interface, await self._run(Event.TAKEIP, arguments, self._under_hold(drops))
        )

    async def _conclude(
        self, effect: fx.TakeAddress | fx.UpdateAddress | fx.TakeAgain, interface: str, ran: Outcome
    ) -> Outcome:
        """After the scripts of ``effect`` (``ran``): ensure that the address is on ``interface``, or abandon it."""
        address, bits = effect.address, effect.bits
        ok, reason = ran
        if ok:
            reason = await self.addresses.ensure(address, bits, interface)
        if reason or not ok:
            await self._abandon(address)
            return False, reason
        self._completed(address, bits, interface, effect.incarnation)
        return True, ""

    async def adopt(self, held: Iterable[tuple[str, int, str]], missing: Collection[str]) -> None:
        """Adopt addresses (address, bits, interface) that a predecessor left here with a valid hold.

        ``missing``: those that the kernel has lost meanwhile, without the scripts' knowledge.
        """
        for address, bits, interface in held:
            if address in missing:
                await self._forget_note(address)
            self.addresses.configured[address] = self.addresses.held[address] = (bits, interface)
            await self.gate.let_through(address)
            await self.addresses.ensure(address, bits, interface)
            self._wire.holds(address, interface)
            self._connections.adopted(address, interface)

    async def _begin(self, address: str) -> None:
        """``address`` is about to be changed: after a crash in between, the change must be repeated."""
        self.addresses.held.pop(address, None)
        self._wire.gone(address)
        await self._forget_note(address)

    async def _forget_note(self, address: str) -> None:
        try:
            await self._calls.files.run(f"removing the note of {address}", NOTE_LIMIT, self._notes.remove, address)
        except (OSError, NoAnswer) as error:
            # After a crash a successor counts it as complete, but still follows the plan.
            self._log(f"cannot note that {address} is about to change: {error}", "warning")

    def _completed(self, address: str, bits: int, interface: str, incarnation: str) -> None:
        # A hold that was lost during the scripts has emptied both.
        self.addresses.configured[address] = self.addresses.held[address] = (bits, interface)
        self._wire.holds(address, interface)
        what = f"noting that {address} is held"
        self._background.start(
            self._told_note(
                address,
                self._calls.start(self._calls.files, what, self._notes.add, address, incarnation, interface),
            )
        )

    async def _told_note(self, address: str, noting: asyncio.Future[None]) -> None:
        try:
            await noting
        except (OSError, NoAnswer) as error:
            # The note only spares the scripts a second takeip after a crash: the node serves without it.
            self._log(f"cannot note that {address} is held: {error}", "warning")

    async def _forget(self, address: str) -> None:
        """Mute ``address``, then remove it from the kernel."""
        muted = await self.gate.mute(address)
        # A hold that was lost meanwhile has removed it already.
        present = self.addresses.configured.get(address)
        if present is None:
            return
        self._stop_serving(address)
        problem = await self.addresses.remove(address, *present)
        if problem and not muted:
            self.on_still_here(address, problem)

    async def _abandon(self, address: str) -> None:
        """:meth:`_forget`, for an address that was not released."""
        await self._forget(address)
        self._connections.dropped([address])

    def _stop_serving(self, address: str) -> None:
        self.announcements.stop(address)
        self.addresses.forget(address)
        self._wire.gone(address)

    def appeared(self, address: str, interface: str) -> None:
        """The kernel has configured ``address`` on ``interface``. If it is being taken there, announce it now: clients
        need not wait for the scripts after the one that configured it."""
        present = self.addresses.configured.get(address)
        if present is not None and present[1] == interface and address not in self.addresses.held:
            self.announcements.once(interface, address)

    def close(self) -> None:
        """Stop announcing, and end what runs in the background."""
        self.announcements.close()
        for part in (self.gate, self.addresses, self._background):
            part.close()
