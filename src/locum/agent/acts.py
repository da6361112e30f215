"""Taking and releasing addresses, and everything else that the rules ask of this machine.

Rules of this file: it knows kernel and scripts, no cluster. I7 is kept here: whatever the scripts did, after a
take the address is configured or the take has failed and nothing is left of it; after a release it is gone.
An address may speak only while it is in the gate's held set *and* the gate is open; the set is changed here, the
gate's clock runs in the kernel.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable, Mapping

from locum.addresses.announce import Announcer
from locum.addresses.gate import Ticket
from locum.addresses.kernel import AddressTable
from locum.agent.held import HeldNotes
from locum.clock import boottime
from locum.cluster import effects as fx
from locum.config.tunables import Tunables
from locum.connections.keeper import ConnectionKeeper
from locum.errors import LocumError, NetlinkError
from locum.events.engine import EventEngine
from locum.events.model import Event, EventResult
from locum.guard.gatekeeper import Enforcement
from locum.guard.page import Page

Outcome = tuple[bool, str]

#: Renewing lifetimes at every beat would be wasteful; this often is enough, in seconds.
RENEW_INTERVAL = 0.5
#: A gate that could not be put back is tried again this often, in seconds.
GATE_PAUSE = 1.0


def _nobody(*_: object) -> None:
    """Nobody listens yet."""


class Acts:
    """The machine's side of one node.

    ``tunables`` returns those in force, ``incarnation`` the node's present membership.
    """

    def __init__(
        self,
        *,
        table: AddressTable,
        enforcement: Enforcement,
        announcer: Announcer,
        engine: EventEngine,
        page: Page,
        notes: HeldNotes,
        connections: ConnectionKeeper,
        tunables: Callable[[], Tunables],
        incarnation: Callable[[], str],
        log: Callable[[str, str], None],
    ) -> None:
        self._table = table
        self._gate = enforcement.gate
        self._announcer = announcer
        self._engine = engine
        self._page = page
        self._notes = notes
        self._connections = connections
        self._lifetime = enforcement.lifetime
        self._tickets: dict[int, Ticket] = {}
        self._tunables = tunables
        self._incarnation = incarnation
        self._log = log
        #: Address → (bits, interface) of what is configured here by us.
        self.configured: dict[str, tuple[int, str]] = {}
        # Those whose take is complete. Renewing one that is just being released would configure it again.
        self._renewable: dict[str, tuple[int, str]] = {}
        self._renewed = 0.0
        self._announcements: dict[str, asyncio.Task[None]] = {}
        # Addresses that the gate lets through though it was told to mute them: it is not armed while there are any.
        self._unmuted: set[str] = set()
        # Why the gate could not be put back, and when to try again.
        self._gate_gone = ""
        self._next_gate = 0.0
        self._gate_problem = ""
        #: Address → why its announcements could not be sent, of those whose latest was not.
        self.unannounced: dict[str, str] = {}
        #: Called after every event, with its result.
        self.on_event: Callable[[EventResult], None] = _nobody
        #: Called with every address that has left this machine.
        self.on_gone: Callable[[str], None] = _nobody
        #: Called when the gate could not be armed, opened or put back (with the reason), and ("") when it works again.
        self.on_gate: Callable[[str], None] = _nobody
        #: Called with address, interface and reason when the kernel does not renew a lifetime.
        self.on_renewal_failed: Callable[[str, str, str], None] = _nobody
        #: Called with address and reason when an address that goes could be neither removed nor muted.
        self.on_still_here: Callable[[str, str], None] = _nobody
        #: Set when the engine has started; events wait for it, so that beats need not.
        self.engine_ready = asyncio.Event()

    # -- the hold --------------------------------------------------------------------------------------------

    def arm(self, slot: int, hold: float) -> None:
        """Start the kernel's timer of ``slot`` for ``hold`` seconds; it opens nothing before it is confirmed."""
        if self._gate is not None:
            self._tickets.pop(slot, None)
            try:
                self._mend_gate()
                self._tickets[slot] = self._gate.arm(slot, hold)
            except LocumError as error:
                # The beat goes on: others may rely on this node being alive. It cannot be confirmed, so the gate
                # stays as it is and closes when its time is over; soon the node says that it can serve nothing.
                self._gate_fails(f"the kernel's gate cannot be armed: {error}")

    def _mend_gate(self) -> None:
        """What failed before the gate may open again: put it back, and mute what it was to mute. Raises LocumError."""
        assert self._gate is not None
        if self._gate_gone:
            now = boottime()
            if now < self._next_gate:
                raise NetlinkError(self._gate_gone, errno.EAGAIN)
            self._next_gate = now + GATE_PAUSE
            self._gate.restore()
            self._gate_gone = ""
        if self._unmuted:
            self._gate.deny(self._unmuted)
            self._unmuted.clear()

    def _gate_fails(self, problem: str) -> None:
        if problem != self._gate_problem:
            self._log(problem, "error")
        self._gate_problem = problem
        self.on_gate(problem)

    def _gate_works(self) -> None:
        if self._gate_problem:
            self._log("the kernel's gate works again", "info")
            self._gate_problem = ""
            self.on_gate("")

    def confirm(self, incarnation: str, slot: int, deadline: float, revision: int, quiet: float) -> None:
        """The beat of ``slot`` was accepted: the gate is open until ``deadline``, for which it was armed."""
        # The page goes first: a guard that reads an old deadline would take away what the kernel still lets speak.
        self._page.confirm(incarnation, slot, deadline, revision, quiet)
        ticket = self._tickets.pop(slot, None)
        if self._gate is not None and ticket is not None:
            try:
                self._gate.confirm(ticket)
                self._gate_works()
            except LocumError as error:
                self._gate_fails(f"the kernel's gate cannot be opened: {error}")
        self._renew(deadline)

    def _renew(self, deadline: float) -> None:
        """Renew the lifetimes of what is configured, now and then; where they are all there is, after every beat."""
        now = boottime()
        soon = self._gate is not None and now - self._renewed < RENEW_INTERVAL
        if not self._renewable or soon or now >= deadline:
            return
        self._renewed = now
        items = [(address, bits, name) for address, (bits, name) in self._renewable.items()]
        for (address, _, name), problem in self._table.renew(items, self._lifetime):
            self._log(f"cannot renew {address} on {name}: {problem}", "warning")
            self.on_renewal_failed(address, name, str(problem))

    def restore_gate(self) -> None:
        """Somebody removed or changed our rules: put them back, shut until the next beat is confirmed."""
        if self._gate is None:
            return
        self._tickets.clear()
        try:
            self._gate.restore()
        except LocumError as error:
            # Without it nothing would keep this node to its hold: no address is configured before it is back.
            self._gate_gone = f"it cannot be put back: {error}"
            self._gate_fails(f"the kernel's gate cannot be put back: {error}; removing all public addresses")
            for address, (bits, interface) in list(self.configured.items()):
                self._remove_from_kernel(address, bits, interface)

    def drop(self) -> None:
        """There is no hold: silent at once, and every address of ours goes."""
        self._page.clear()
        self._tickets.clear()
        if self._gate is not None:
            # Also what only a predecessor knew of.
            held = self._gate.held
            try:
                self._gate.shut()
            except LocumError as error:
                self._log(f"the kernel's gate cannot be shut: {error}; it closes when its time is over", "error")
            self._unmuted |= held
            try:
                self._gate.deny(held)
                self._unmuted -= held
            except LocumError as error:
                self._log(f"the kernel's gate cannot be emptied: {error}; it is not opened before that", "error")
        gone = list(self.configured.items())
        for address, (bits, interface) in gone:
            self._remove(address, bits, interface)
        self._connections.dropped(address for address, _ in gone)

    # -- events ----------------------------------------------------------------------------------------------

    async def run_event(self, effect: fx.RunEvent) -> Outcome:
        """Run an event that concerns no address."""
        event = Event(effect.event)
        limit = self._tunables()
        timeout = limit.monitor_timeout if event is Event.MONITOR else limit.event_timeout
        return await self._run(event, (), timeout)

    async def run_once(self, event: Event) -> str | None:
        """Run ``init`` or ``setup``; returns the reason when it failed."""
        ok, reason = await self._run(event, (), self._tunables().event_timeout)
        return None if ok else reason

    async def _run(
        self, event: Event, arguments: tuple[str, ...], timeout: float, environment: Mapping[str, str] | None = None
    ) -> Outcome:
        await self.engine_ready.wait()
        present = ",".join(f"{address}/{bits}@{name}" for address, (bits, name) in self._renewable.items())
        extra = {"LOCUM_ADDRESSES": present, **(environment or {})}
        try:
            result = await self._engine.run(
                event,
                arguments,
                timeout=timeout,
                startup_timeout=self._tunables().event_timeout,
                environment=extra,
            )
        except LocumError as error:
            return False, str(error)
        self.on_event(result)
        failure = result.failure
        if failure is None:
            return True, ""
        said = f": {failure.reason}" if failure.reason else ""
        return False, f"{failure.script} {failure.outcome} (status {failure.status}){said}"

    def _for_addresses(self) -> dict[str, str]:
        return {"LOCUM_LIFETIME": str(self._lifetime), "LOCUM_DEADLINE": f"{self._page.deadline:.9f}"}

    # -- addresses -------------------------------------------------------------------------------------------

    async def take(self, effect: fx.TakeAddress) -> Outcome:
        """``takeip``: let it speak, run the scripts, see that it is configured, announce it, tell its clients."""
        address, bits, interface = effect.address, effect.bits, effect.interface
        await self._connections.taking(address)
        # The hold may end until the engine runs.
        await self.engine_ready.wait()
        if boottime() >= self._page.deadline:
            return False, "the hold has ended"
        self._begin(address)
        self.configured[address] = (bits, interface)
        if not self._allow(address):
            self._abandon(address)
            return False, "the kernel's gate cannot be changed"
        arguments = (interface, address, str(bits))
        ok, reason = await self._run(Event.TAKEIP, arguments, self._tunables().event_timeout, self._for_addresses())
        if ok:
            ok, reason = self._ensure(address, bits, interface)
        if not ok:
            self._abandon(address)
            return False, reason
        self._completed(address, bits, interface)
        self._announce(interface, address)
        self._connections.taken(address, interface)
        return True, ""

    async def release(self, effect: fx.ReleaseAddress) -> Outcome:
        """``releaseip``: mute it, end its connections, run the scripts, see that it is gone."""
        address, bits, interface = effect.address, effect.bits, effect.interface
        self._begin(address)
        self.configured.setdefault(address, (bits, interface))
        await self._connections.releasing(address)
        self._deny(address)
        await self._connections.released(address)
        arguments = (interface, address, str(bits))
        try:
            return await self._run(Event.RELEASEIP, arguments, self._tunables().event_timeout)
        finally:
            self._forget(address)
            if self._gate is None:
                # Nothing was muted: connections could be made until just now.
                self._connections.dropped([address])

    async def update(self, effect: fx.UpdateAddress) -> Outcome:
        """``updateip``: the address changes its interface."""
        address, bits = effect.address, effect.bits
        old, new = effect.old_interface, effect.new_interface
        self._begin(address)
        arguments = (old, new, address, str(bits))
        ok, reason = await self._run(Event.UPDATEIP, arguments, self._tunables().event_timeout, self._for_addresses())
        self._remove_from_kernel(address, bits, old)
        self.configured[address] = (bits, new)
        if ok:
            ok, reason = self._ensure(address, bits, new)
        if not ok:
            self._abandon(address)
            return False, reason
        self._completed(address, bits, new)
        self._announce(new, address)
        self._connections.updated(address, new)
        return True, ""

    def restore(self, effect: fx.Restore) -> str:
        """Configure and announce an address again that is held and was removed; the problem, "" when it is there."""
        ok, reason = self._ensure(effect.address, effect.bits, effect.interface)
        if ok:
            self._announce(effect.interface, effect.address)
        return reason

    async def take_again(self, effect: fx.TakeAgain) -> Outcome:
        """``takeip`` once more, for what scripts had attached to the address; it speaks and is renewed meanwhile."""
        address, bits, interface = effect.address, effect.bits, effect.interface
        self._forget_note(address)
        arguments = (interface, address, str(bits))
        ok, reason = await self._run(Event.TAKEIP, arguments, self._tunables().event_timeout, self._for_addresses())
        if ok:
            ok, reason = self._ensure(address, bits, interface)
        if not ok:
            self._abandon(address)
            return False, reason
        self._completed(address, bits, interface)
        return True, ""

    def adopt(self, held: Iterable[tuple[str, int, str]]) -> None:
        """Addresses (address, bits, interface) that a predecessor left here with a valid hold."""
        for address, bits, interface in held:
            self.configured[address] = self._renewable[address] = (bits, interface)
            self._allow(address)
            self._ensure(address, bits, interface)
            self._connections.adopted(address, interface)

    def _begin(self, address: str) -> None:
        """``address`` is about to be changed: a crash in between must lead to doing it again."""
        self._forget_note(address)
        self._renewable.pop(address, None)

    def _forget_note(self, address: str) -> None:
        try:
            self._notes.remove(address)
        except OSError as error:
            # After a crash a successor takes it for complete; it does what the plan says all the same.
            self._log(f"cannot note that {address} is about to change: {error}", "warning")

    def _completed(self, address: str, bits: int, interface: str) -> None:
        self._renewable[address] = (bits, interface)
        try:
            self._notes.add(address, self._incarnation(), interface)
        except OSError as error:
            # The note only spares the scripts a second takeip if the agent crashes: no reason not to serve.
            self._log(f"cannot note that {address} is held: {error}", "warning")

    def _ensure(self, address: str, bits: int, interface: str) -> Outcome:
        if boottime() >= self._page.deadline:
            return False, "the hold has ended"
        if self._gate_gone:
            return False, f"the kernel's gate: {self._gate_gone}"
        try:
            self._table.add(address, bits, interface, self._lifetime)
        except LocumError as error:
            return False, str(error)
        return True, ""

    def _forget(self, address: str) -> None:
        """``address`` is muted, then whatever is configured of it goes."""
        muted = self._deny(address)
        # A hold that was lost meanwhile has removed it already.
        present = self.configured.get(address)
        problem = self._remove(address, *present) if present is not None else ""
        if problem and not muted:
            self.on_still_here(address, problem)

    def _abandon(self, address: str) -> None:
        """:meth:`_forget`, for an address that was not released."""
        self._forget(address)
        self._connections.dropped([address])

    def _deny(self, address: str) -> bool:
        """Whether the gate mutes ``address`` now."""
        if self._gate is None:
            return False
        self._unmuted.add(address)
        try:
            self._gate.deny([address])
        except LocumError as error:
            self._log(f"the kernel's gate cannot be changed: {error}", "error")
            return False
        self._unmuted.discard(address)
        return True

    def _allow(self, address: str) -> bool:
        if self._gate is None:
            return True
        try:
            self._gate.allow([address])
            self._unmuted.discard(address)
        except LocumError as error:
            self._log(f"the kernel's gate cannot be changed: {error}", "error")
            return False
        return True

    def _remove(self, address: str, bits: int, interface: str) -> str:
        """Remove it from the kernel and forget it; the problem, "" when it is gone."""
        task = self._announcements.pop(address, None)
        if task is not None:
            task.cancel()
        problem = self._remove_from_kernel(address, bits, interface)
        self.configured.pop(address, None)
        self._renewable.pop(address, None)
        self.unannounced.pop(address, None)
        if not problem:
            self.on_gone(address)
        return problem

    def _remove_from_kernel(self, address: str, bits: int, interface: str) -> str:
        try:
            self._table.remove(address, bits, interface)
        except LocumError as error:
            self._log(f"cannot remove {address} from {interface}: {error}", "error")
            return str(error)
        return ""

    def appeared(self, address: str, interface: str) -> None:
        """The kernel says that ``address`` is configured on ``interface``. If it is being taken there, announce it now:
        clients need not wait for the scripts that come after the one that configured it."""
        present = self.configured.get(address)
        if present is not None and present[1] == interface and address not in self._renewable:
            self._announce_once(interface, address)

    # -- announcements ---------------------------------------------------------------------------------------

    def _announce(self, interface: str, address: str) -> None:
        """Announce now, and some times more against loss (AnnounceCount, AnnounceInterval)."""
        old = self._announcements.pop(address, None)
        if old is not None:
            old.cancel()
        self._announce_once(interface, address)
        if self._tunables().announce_count > 1:
            self._announcements[address] = asyncio.get_running_loop().create_task(self._repeat(interface, address))

    async def _repeat(self, interface: str, address: str) -> None:
        for _ in range(self._tunables().announce_count - 1):
            await asyncio.sleep(self._tunables().announce_interval)
            self._announce_once(interface, address)
        self._announcements.pop(address, None)

    def _announce_once(self, interface: str, address: str) -> None:
        if boottime() >= self._page.deadline:
            return
        problem = ""
        try:
            if not self._announcer.announce(interface, address):
                problem = "it was not sent"
        except LocumError as error:
            problem = str(error)
            self._log(f"cannot announce {address} on {interface}: {error}", "warning")
        if problem:
            # The audit tells, and announces again (agent/auditor.py).
            self.unannounced[address] = problem
        else:
            self.unannounced.pop(address, None)

    def close(self) -> None:
        """Stop announcing."""
        for task in self._announcements.values():
            task.cancel()
        self._announcements.clear()
