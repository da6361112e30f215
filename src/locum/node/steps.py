"""Taking and releasing addresses, and all other steps that the rules request of this machine.

This file knows kernel and scripts, but no cluster. It keeps I7: whatever the scripts did, after a take the address is
configured, or the take has failed and left nothing; after a release the address is gone. An address may speak only
while it is in the gate's held set *and* the gate is open. This file changes the set; the gate's timer runs in the
kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from locum import tasks
from locum.clock import Clock
from locum.config.tunables import Tunables
from locum.errors import HoldEnded, LocumError
from locum.events.model import Event, EventResult
from locum.machine.addresses import Item
from locum.machine.gate.gate import ArmedSlot
from locum.node.gate_work import GateWork
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
from locum.rules import effects as fx
from locum.threads import NoAnswer

P = ParamSpec("P")
T = TypeVar("T")

Outcome = tuple[bool, str]

#: Renewing lifetimes at every beat would be wasteful; this interval suffices, in seconds.
RENEW_INTERVAL = 0.5
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
        self._table = table
        self._calls = calls
        self._clock = clock
        self._gate = GateWork(gate, clock) if gate is not None else None
        self._announcer = announcer
        self._engine = engine
        self._page = page
        self._notes = notes
        self._connections = connections
        self._wire = wire
        self._lifetime = lifetime
        self._armed: dict[int, ArmedSlot] = {}
        # How often a hold was dropped. Work that began before the last drop must not continue under the next hold.
        self._drops = 0
        self._tunables = tunables
        self._log = log
        #: Address → (bits, interface) of the addresses that this agent has configured.
        self.configured: dict[str, tuple[int, str]] = {}
        # Those whose take is complete. Renewing an address during its release would configure it again.
        self._renewable: dict[str, tuple[int, str]] = {}
        self._renewed = 0.0
        self._renewing = False
        self._announcements: dict[str, asyncio.Task[None]] = {}
        self._gate_problem = ""
        self._background: set[asyncio.Task[None]] = set()
        #: Address → why its latest announcement could not be sent.
        self.unannounced: dict[str, str] = {}
        #: (address, interface) that this agent removes and configures again: its removal is not an event.
        self.expected_removals: set[tuple[str, str]] = set()
        #: Called after every event, with its result.
        self.on_event: Callable[[EventResult], None] = _ignore
        #: Called with every address that has left this machine.
        self.on_gone: Callable[[str], None] = _ignore
        #: Called when the gate could not be armed, opened or put back (with the reason), and ("") when it works again.
        self.on_gate: Callable[[str], None] = _ignore
        #: Called with address, interface and reason when the kernel refuses to renew a lifetime.
        self.on_renewal_failed: Callable[[str, str, str], None] = _ignore
        #: Called with address and reason when a leaving address could be neither removed nor muted.
        self.on_still_here: Callable[[str, str], None] = _ignore
        #: Set when the engine has started; events wait for it, so that beats need not.
        self.engine_ready = asyncio.Event()

    # -- the hold --------------------------------------------------------------------------------------------

    async def arm(self, slot: int, hold: float) -> None:
        """Start the kernel's timer of ``slot`` for ``hold`` seconds; the slot opens only when it is confirmed.

        The timer counts from a moment after this call began, and runs when it returns.
        """
        if self._gate is not None:
            self._armed.pop(slot, None)
            try:
                self._armed[slot] = await self._calls.on_gate("arming the gate", self._gate.arm, slot, hold)
            except LocumError as error:
                # The beat is sent: other nodes must know that this one is alive. It cannot be confirmed, so the gate
                # keeps its state and closes when its timer ends; soon the node reports that it cannot serve.
                self._gate_fails(f"the kernel's gate cannot be armed: {error}")

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
        """The beat of ``slot`` was accepted: open the gate until ``deadline``, for which it was armed. Does not wait
        for the gate."""
        # The page first: with an old deadline the guard would remove addresses that the kernel still lets speak.
        self._page.confirm(incarnation, slot, deadline, revision, quiet)
        armed = self._armed.pop(slot, None)
        if self._gate is not None and armed is not None:
            self._spawn(
                self._opened(self._calls.start(self._calls.gate, "opening the gate", self._gate.confirm, armed))
            )
        self._renew(deadline)

    async def _opened(self, opening: asyncio.Future[bool]) -> None:
        try:
            await opening
            self._gate_works()
        except LocumError as error:
            self._gate_fails(f"the kernel's gate cannot be opened: {error}")

    def _renew(self, deadline: float) -> None:
        """Renew lifetimes at intervals; after every beat where only lifetimes enforce the hold."""
        now = self._clock.boot()
        soon = self._gate is not None and now - self._renewed < RENEW_INTERVAL
        if not self._renewable or soon or self._renewing or now >= deadline:
            return
        self._renewed = now
        self._renewing = True
        items = [(address, bits, name) for address, (bits, name) in self._renewable.items()]
        self._spawn(self._told_renewal(self._on_addresses("renewing lifetimes", self._renew_now, items, deadline)))

    def _renew_now(self, items: list[Item], deadline: float) -> tuple[tuple[Item, LocumError], ...]:
        """On the thread. A hold that ended before the kernel came to this must not be prolonged."""
        return self._table.renew(items, self._lifetime) if self._clock.boot() < deadline else ()

    async def _told_renewal(self, renewal: asyncio.Future[tuple[tuple[Item, LocumError], ...]]) -> None:
        try:
            for (address, _, name), problem in await renewal:
                self._log(f"cannot renew {address} on {name}: {problem}", "warning")
                self.on_renewal_failed(address, name, str(problem))
        except LocumError as error:
            self._log(f"cannot renew the lifetimes of public addresses: {error}", "warning")
        finally:
            self._renewing = False

    async def judge(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        """Make the gate judge these addresses on these interfaces, and no others. Raises LocumError."""
        if self._gate is not None:
            await self._calls.on_gate("changing the addresses of the gate", self._gate.judge, public, interfaces)

    async def restore_gate(self) -> None:
        """Restore rules that another program removed or changed, shut until the next beat is confirmed."""
        if self._gate is None:
            return
        self._armed.clear()
        try:
            await self._calls.on_gate("putting the gate back", self._gate.restore)
        except LocumError as error:
            # Without the gate nothing enforces this node's hold: no address is configured before it is back.
            self._gate_fails(f"the kernel's gate cannot be put back: {error}; removing all public addresses")
            for address, (bits, interface) in list(self.configured.items()):
                await self._remove_from_kernel(address, bits, interface)

    async def clean_slate(self, remains: Iterable[Item] = ()) -> None:
        """No previous agent left a hold: discard its notes, silence the addresses that it left, and remove ``remains``,
        which the rules do not know."""
        try:
            await self._calls.files.run("removing the notes of an earlier agent", CLEAN_LIMIT, self._notes.clear)
        except (OSError, NoAnswer) as error:
            # They are valid only in the membership of their time, which the page no longer has.
            self._log(f"the notes of an earlier agent cannot be removed: {error}", "warning")
        self.configured.update((address, (bits, interface)) for address, bits, interface in remains)
        self.drop()

    def drop(self) -> None:
        """End without a hold: mute all addresses at once and remove them.

        Does not wait for the kernel. Later work at the gate, or on addresses, follows this on the same threads. So the
        gate cannot open for an address that this mutes.
        """
        self._drops += 1
        self._page.clear()
        self._armed.clear()
        if self._gate is not None:
            self._spawn(self._told_drop(self._calls.start(self._calls.gate, "shutting the gate", self._gate.drop)))
        gone = list(self.configured.items())
        for address, _ in gone:
            self._stop_serving(address)
        if gone:
            items = [(address, bits, interface) for address, (bits, interface) in gone]
            removal = self._on_addresses("removing addresses", self._remove_now, items)
            self._spawn(self._told_removal(removal, items))
        self._connections.dropped(address for address, _ in gone)

    async def _told_drop(self, drop: asyncio.Future[list[str]]) -> None:
        try:
            for problem in await drop:
                self._log(problem, "error")
        except LocumError as error:
            self._log(str(error), "error")

    def _remove_now(self, items: list[Item]) -> list[str]:
        """On the thread: remove; the problem of each, "" when it is gone."""
        problems = []
        for item in items:
            try:
                self._table.remove(*item)
                problems.append("")
            except LocumError as error:
                problems.append(str(error))
        return problems

    async def _told_removal(self, removal: asyncio.Future[list[str]], items: list[Item]) -> None:
        try:
            problems = await removal
        except LocumError as error:
            problems = [str(error)] * len(items)
        for (address, _, interface), problem in zip(items, problems, strict=True):
            self._told_removed(address, interface, problem)

    def _told_removed(self, address: str, interface: str, problem: str) -> None:
        if problem:
            self._log(f"cannot remove {address} from {interface}: {problem}", "error")
        else:
            self.on_gone(address)

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
            present = ",".join(f"{address}/{bits}@{name}" for address, (bits, name) in self._renewable.items())
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
            return {"LOCUM_LIFETIME": str(self._lifetime), "LOCUM_DEADLINE": f"{self._page.deadline:.9f}"}

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
        self.configured[address] = (bits, interface)
        if not await self.let_through(address):
            await self._abandon(address)
            return False, "the kernel's gate cannot be changed"
        arguments = (interface, address, str(bits))
        ran = await self._run(Event.TAKEIP, arguments, self._under_hold(drops))
        outcome = await self._conclude(effect, interface, ran)
        if outcome[0]:
            self._announce(interface, address)
            self._connections.taken(address, interface)
        return outcome

    async def probe(self, effect: fx.ProbeAddresses) -> dict[str, str]:
        """Probe these addresses on the wire; address → what was heard of another machine."""
        return await self._wire.probe(effect.items)

    def defend(self, interface: str, address: str) -> None:
        """Another machine claims ``address``, which is held here: announce it once."""
        if address in self._renewable:
            self._announce_once(interface, address)

    async def release(self, effect: fx.ReleaseAddress) -> Outcome:
        """``releaseip``: mute it, end its connections, run the scripts, ensure that it is gone."""
        address, bits, interface = effect.address, effect.bits, effect.interface
        await self._begin(address)
        self.configured.setdefault(address, (bits, interface))
        await self._connections.releasing(address)
        await self.mute(address)
        await self._connections.released(address)
        arguments = (interface, address, str(bits))
        try:
            return await self._run(Event.RELEASEIP, arguments)
        finally:
            await self._forget(address)
            if self._gate is None:
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
        self.configured[address] = (bits, new)
        await self._remove_from_kernel(address, bits, old)
        outcome = await self._conclude(effect, new, ran)
        if outcome[0]:
            self._announce(new, address)
            self._connections.updated(address, new)
        return outcome

    async def restore(self, effect: fx.Restore) -> str:
        """Configure and announce again a held address that was removed; the problem, "" when it is present."""
        # Until scripts know of it, it counts as not taken: the agent may end before they do.
        await self._forget_note(effect.address)
        if not self._is_held(effect.address, effect.interface):
            # The address left while the note was removed, perhaps to another node.
            return "it is no longer held here"
        ok, reason = await self._ensure(effect.address, effect.bits, effect.interface)
        if ok and self._is_held(effect.address, effect.interface):
            self._announce(effect.interface, effect.address)
        return reason

    def _is_held(self, address: str, interface: str) -> bool:
        """Whether ``address`` was taken completely, is on ``interface``, and does not leave."""
        present = self._renewable.get(address)
        return present is not None and present[1] == interface

    # -- for the audit ---------------------------------------------------------------------------------------

    def held(self) -> dict[str, tuple[int, str]]:
        """Address → (bits, interface) of completely taken addresses."""
        return dict(self._renewable)

    async def replace(self, address: str) -> str:
        """Remove a held address and configure it again; the problem, "" when it is present."""
        bits, interface = self._renewable[address]
        self.expected_removals.add((address, interface))
        try:
            done = await self._on_addresses(f"replacing {address}", self._replace_now, address, bits, interface)
        except LocumError as error:
            return str(error)
        return "" if done else str(HoldEnded())

    def _replace_now(self, address: str, bits: int, interface: str) -> bool:
        """On the thread; False when the hold has ended before the kernel came to it."""
        if self._clock.boot() >= self._page.deadline:
            return False
        self._table.remove(address, bits, interface)
        return self._add_now(address, bits, interface)

    async def put_last(self, addresses: Iterable[str]) -> str:
        """Put held addresses of one interface after its own ones; the problem, or ""."""
        items = [(address, *self._renewable[address]) for address in addresses]
        self.expected_removals |= {(address, interface) for address, _, interface in items}
        try:
            if items:
                await self._on_addresses("putting public addresses last", self._put_last_now, items)
        except LocumError as error:
            return str(error)
        return ""

    def _put_last_now(self, items: list[Item]) -> None:
        """On the thread."""
        if self._clock.boot() < self._page.deadline:
            self._table.put_last(items, self._lifetime)

    async def renew(self, address: str) -> None:
        """Configure a held address again unchanged, with the settings of its interface."""
        bits, interface = self._renewable[address]
        await self._ensure(address, bits, interface)

    async def gate_done(self, limit: float) -> None:
        """Wait until all requests to the gate are done: another program may hold nftables' lock.
        Raises NoAnswer after ``limit`` seconds."""
        await self._calls.gate.run("waiting for the gate", limit, lambda: None)

    def announce_again(self, address: str) -> None:
        """Announce a held address once more."""
        self._announce_once(self._renewable[address][1], address)

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
            ok, reason = await self._ensure(address, bits, interface)
        if not ok:
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
            self.configured[address] = self._renewable[address] = (bits, interface)
            await self.let_through(address)
            await self._ensure(address, bits, interface)
            self._wire.holds(address, interface)
            self._connections.adopted(address, interface)

    async def _begin(self, address: str) -> None:
        """``address`` is about to be changed: after a crash in between, the change must be repeated."""
        self._renewable.pop(address, None)
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
        self.configured[address] = self._renewable[address] = (bits, interface)
        self._wire.holds(address, interface)
        what = f"noting that {address} is held"
        self._spawn(
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

    async def _ensure(self, address: str, bits: int, interface: str) -> Outcome:
        if self._clock.boot() >= self._page.deadline:
            return False, str(HoldEnded())
        if self._gate is not None and self._gate.gone:
            return False, f"the kernel's gate: {self._gate.gone}"
        try:
            added = await self._on_addresses(f"configuring {address}", self._add_now, address, bits, interface)
        except LocumError as error:
            return False, str(error)
        # A drop that came after the kernel's answer has the address removed again.
        return (True, "") if added and self._clock.boot() < self._page.deadline else (False, str(HoldEnded()))

    def _add_now(self, address: str, bits: int, interface: str) -> bool:
        """On the thread: configure it; False when the hold has ended before the kernel came to it."""
        if self._clock.boot() >= self._page.deadline:
            return False
        self._table.add(address, bits, interface, self._lifetime)
        return True

    async def _forget(self, address: str) -> None:
        """Mute ``address``, then remove it from the kernel."""
        muted = await self.mute(address)
        # A hold that was lost meanwhile has removed it already.
        present = self.configured.get(address)
        problem = await self._remove(address, *present) if present is not None else ""
        if problem and not muted:
            self.on_still_here(address, problem)

    async def _abandon(self, address: str) -> None:
        """:meth:`_forget`, for an address that was not released."""
        await self._forget(address)
        self._connections.dropped([address])

    async def mute(self, address: str) -> bool:
        """Mute ``address`` at the gate; returns whether the gate does so now."""
        return self._gate is not None and await self._change_gate(f"muting {address}", self._gate.deny, address)

    async def let_through(self, address: str) -> bool:
        """Let ``address`` through the gate, if there is one; returns whether it lets it through now."""
        return self._gate is None or await self._change_gate(
            f"letting {address} through the gate", self._gate.allow, address
        )

    async def _change_gate(self, what: str, change: Callable[[str], object], address: str) -> bool:
        """Whether ``change`` was carried out."""
        try:
            await self._calls.on_gate(what, change, address)
        except LocumError as error:
            self._log(f"the kernel's gate cannot be changed: {error}", "error")
            return False
        return True

    def _stop_serving(self, address: str) -> None:
        task = self._announcements.pop(address, None)
        if task is not None:
            task.cancel()
        self.configured.pop(address, None)
        self._renewable.pop(address, None)
        self.unannounced.pop(address, None)
        self._wire.gone(address)

    async def _remove(self, address: str, bits: int, interface: str) -> str:
        """Remove it from the kernel and forget it; the problem, "" when it is gone."""
        removal = self._on_addresses(f"removing {address}", self._remove_now, [(address, bits, interface)])
        self._stop_serving(address)
        try:
            (problem,) = await removal
        except LocumError as error:
            problem = str(error)
        self._told_removed(address, interface, problem)
        return problem

    async def _remove_from_kernel(self, address: str, bits: int, interface: str) -> str:
        try:
            await self._on_addresses(f"removing {address}", self._table.remove, address, bits, interface)
        except LocumError as error:
            self._log(f"cannot remove {address} from {interface}: {error}", "error")
            return str(error)
        return ""

    def _on_addresses(
        self, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> asyncio.Future[T]:
        return self._calls.start(self._calls.addresses, what, function, *arguments, **named)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = tasks.start(work, "carrying out a request of the rules")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def appeared(self, address: str, interface: str) -> None:
        """The kernel has configured ``address`` on ``interface``. If it is being taken there, announce it now: clients
        need not wait for the scripts after the one that configured it."""
        present = self.configured.get(address)
        if present is not None and present[1] == interface and address not in self._renewable:
            self._announce_once(interface, address)

    # -- announcements ---------------------------------------------------------------------------------------

    def _announce(self, interface: str, address: str) -> None:
        """Announce now, and several times more in case of loss (AnnounceCount, AnnounceInterval)."""
        old = self._announcements.pop(address, None)
        if old is not None:
            old.cancel()
        self._announce_once(interface, address)
        if self._tunables().announce_count > 1:
            self._announcements[address] = tasks.start(self._repeat(interface, address), f"announcing {address}")

    async def _repeat(self, interface: str, address: str) -> None:
        for _ in range(self._tunables().announce_count - 1):
            await asyncio.sleep(self._tunables().announce_interval)
            self._announce_once(interface, address)
        self._announcements.pop(address, None)

    def _announce_once(self, interface: str, address: str) -> None:
        if self._clock.boot() < self._page.deadline:
            announcing = self._on_addresses(f"announcing {address}", self._announce_now, interface, address)
            self._spawn(self._told_announcement(interface, address, announcing))

    def _announce_now(self, interface: str, address: str) -> bool:
        """On the thread; also True when the hold ended before the kernel came to it."""
        return self._clock.boot() >= self._page.deadline or self._announcer.announce(interface, address)

    async def _told_announcement(self, interface: str, address: str, announcing: asyncio.Future[bool]) -> None:
        problem = ""
        try:
            if not await announcing:
                problem = "it was not sent"
        except LocumError as error:
            problem = str(error)
            self._log(f"cannot announce {address} on {interface}: {error}", "warning")
        if problem and address in self.configured:
            # The audit reports it, and announces again (node/auditor.py).
            self.unannounced[address] = problem
        else:
            self.unannounced.pop(address, None)

    def close(self) -> None:
        """Stop announcing."""
        for task in self._announcements.values():
            task.cancel()
        self._announcements.clear()
        for task in list(self._background):
            task.cancel()
