"""What the agent does to its machine: the hold, events, addresses; ``locum/agent/acts.py`` in micro-steps.

Rules of this file: equal in behaviour to the real acts, statement by statement where the order matters. It knows
kernel, page, notes and scripts, no cluster. Change the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from locum.addresses.lifetimes import lifetime_for
from locum.cluster import effects as fx
from locum.cluster.node import Node
from locum.sim.process import Process, Work
from locum.sim.scripts import Child

if TYPE_CHECKING:
    from locum.sim.host import Host

#: As in the real agent: pause between renewals of lifetimes, in seconds.
RENEW_INTERVAL = 0.5


class Acts(Process):
    """The machine's side of one agent."""

    node: Node

    def __init__(self, machine: Host) -> None:
        super().__init__(machine)
        #: The engine runs: scripts may be started.
        self.ready = False
        #: Address → interface of what is configured here by us, and of those whose take is complete.
        self.configured: dict[str, str] = {}
        self._renewable: dict[str, str] = {}
        self._tickets: set[int] = set()
        self._renewed = 0.0
        self._lifetime = lifetime_for(machine.identity.hold)
        self._activity: tuple[int, str, Callable[..., Work]] | None = None
        self._waiting: Callable[[], None] | None = None
        self._ensured = ""
        self._gate_problem = ""

    def _report(self, method: Callable[..., None], *arguments: Any) -> Work:
        """Give the rules an input in the midst of carrying out: what they ask for then comes next."""
        now, wall = self.clock.boot(), self.clock.wall()
        yield
        method(*arguments, now, wall)

    def _feed(self, method: Callable[..., None], *arguments: Any) -> Work:
        """Give the rules an input, and carry out what they ask for."""
        raise NotImplementedError

    # -- the hold --------------------------------------------------------------------------------------------

    def _confirm(self, effect: fx.ConfirmHold) -> Work:
        page, kernel = self.machine.page, self.kernel
        yield
        if effect.incarnation != page.incarnation:
            page.deadline = 0.0
            yield
            page.incarnation = effect.incarnation
        page.slot = effect.slot
        page.revision = effect.revision
        page.quiet = effect.quiet
        yield
        page.deadline = effect.deadline
        self.machine.deadline_set()
        yield
        if effect.slot in self._tickets:
            self._tickets.discard(effect.slot)
            kernel.confirm(effect.slot)
            if self._gate_problem:
                self._gate_problem = ""
                yield from self._report(self.node.gate_changed, "")
        now = self.clock.boot()
        if self._renewable and now - self._renewed >= RENEW_INTERVAL and now < effect.deadline:
            self._renewed = now
            yield
            for address, interface in list(self._renewable.items()):
                if not kernel.renew(address, interface, self._lifetime):
                    yield from self._report(self.node.renewal_failed, address, interface, "the kernel refuses")

    def _drop(self) -> Work:
        machine, kernel = self.machine, self.kernel
        if self.world.trace.on:
            self.say("drops the hold")
        yield
        machine.page.clear()
        machine.page_cleared()
        self._tickets.clear()
        yield
        kernel.shut()
        yield
        kernel.deny(self._all_held())
        for address, interface in list(self.configured.items()):
            yield
            kernel.remove(address, interface)
            self.configured.pop(address, None)
            self._renewable.pop(address, None)

    def _all_held(self) -> list[str]:
        """What the gate lets through, also what only a predecessor knew of."""
        return list(self.kernel.held)

    def _gate_damaged(self) -> Work:
        """Somebody removed our rules: put them back, shut until the next beat is confirmed."""
        yield
        self._tickets.clear()
        self.kernel.restore_rules()
        yield
        yield from self._feed(self.node.beat_now)
        yield from self._feed(self.node.scripts_forget, tuple(self.configured))

    # -- events ----------------------------------------------------------------------------------------------

    def _run_event(self, effect: fx.RunEvent) -> Work:
        yield
        self._launch(effect.ticket, effect.event, self._plain_end)

    def _plain_end(self, ok: bool, reason: str) -> Work:
        assert self._activity is not None
        return self._done(self._activity[0], ok, reason)

    def busy_with(self, address: str) -> bool:
        """Whether an activity is about ``address``."""
        return self.node.status().moving == address

    def _done(self, ticket: int, ok: bool, reason: str) -> Work:
        self._activity = None
        return self._feed(self.node.activity_done, ticket, ok, reason)

    def _launch(
        self,
        ticket: int,
        event: str,
        end: Callable[..., Work],
        address: str = "",
        act: Callable[[], None] | None = None,
    ) -> None:
        """Start the scripts of ``event``; ``end(ok, reason)`` goes on after them, ``act`` is what they do midway."""
        self._activity = (ticket, event, end)
        machine = self.machine
        if not self.ready:
            # The engine starts it once it runs.
            self._waiting = lambda: self._launch(ticket, event, end, address, act)
            return
        tunables = self.node.status().tunables
        timeout = tunables.monitor_timeout if event == "monitor" else tunables.event_timeout
        seconds, ok, reason = machine.behaviour.draw(event, timeout)
        self.world.checks.event_started(machine, event, address)

        def ended() -> None:
            machine.child = None
            self.world.checks.event_ended(machine, event, address, ok)
            self.post("scripts", end, ok, reason)

        # What fails may fail before or after it has done its work.
        part = machine.random.random()
        if act is not None and not ok and machine.random.random() < 0.5:
            act = None
        machine.child = Child(self.world.engine, seconds, part, act, ended)
        if machine.children_stopped:
            machine.child.freeze()

    def _cancel(self, effect: fx.CancelActivity) -> None:
        activity, machine = self._activity, self.machine
        if activity is None or activity[0] != effect.ticket:
            return
        self._waiting = None
        machine.kill_children()
        self.post("scripts", self._cancelled, effect.ticket)

    def _cancelled(self, ticket: int) -> Work:
        if self._activity is not None and self._activity[0] == ticket:
            yield
            yield from self._done(ticket, False, "cancelled")

    # -- addresses -------------------------------------------------------------------------------------------

    def _ensure(self, address: str, interface: str) -> Work:
        """Configure the address unless the hold has ended; :attr:`_ensured` is the problem, or ""."""
        now = self.clock.boot()
        self._ensured = "" if now < self.machine.page.deadline else "the hold has ended"
        yield
        if not self._ensured and not self.kernel.add(address, interface, self._lifetime):
            self._ensured = "the kernel refuses"

    def _begin(self, address: str) -> None:
        """``address`` is about to be changed: a crash in between must lead to doing it again."""
        self.machine.notes.pop(address, None)
        self._renewable.pop(address, None)

    def _completed(self, address: str, interface: str, incarnation: str) -> None:
        self.configured[address] = self._renewable[address] = interface
        self.machine.notes[address] = (incarnation, interface)

    def _forget(self, address: str) -> Work:
        yield
        self.kernel.deny((address,))
        yield
        # A hold that was lost meanwhile has removed it already.
        interface = self.configured.pop(address, None)
        if interface is not None:
            self.kernel.remove(address, interface)
            self._renewable.pop(address, None)

    def _script_adds(self, address: str, interface: str) -> Callable[[], None]:
        deadline, lifetime, machine = self.machine.page.deadline, self._lifetime, self.machine

        def act() -> None:
            if machine.clock.boot() < deadline or machine.random.random() < 0.1:
                machine.kernel.add(address, interface, lifetime)

        return act

    def _take(self, effect: fx.TakeAddress) -> Work:
        address, interface, ticket = effect.address, effect.interface, effect.ticket
        if not self.ready:
            # The hold may end until the engine runs: it is looked at after that.
            self._waiting = lambda: self.post("task", self._take, effect)
            return
        now = self.clock.boot()
        yield
        if now >= self.machine.page.deadline:
            yield from self._done(ticket, False, "the hold has ended")
            return
        self._begin(address)
        yield
        self.configured[address] = interface
        self.kernel.allow(address)
        yield

        def end(ok: bool, reason: str) -> Work:
            yield
            if ok:
                yield from self._ensure(address, interface)
                ok, reason = not self._ensured, self._ensured
            if not ok:
                yield from self._forget(address)
            else:
                yield
                self._completed(address, interface, effect.incarnation)
            yield from self._done(ticket, ok, reason)

        self._launch(ticket, "takeip", end, address, self._script_adds(address, interface))

    def _restore(self, effect: fx.Restore) -> Work:
        self.machine.notes.pop(effect.address, None)
        yield
        yield from self._ensure(effect.address, effect.interface)
        yield from self._report(self.node.restored, effect.address, effect.interface, self._ensured)

    def _take_again(self, effect: fx.TakeAgain) -> Work:
        address, interface, ticket = effect.address, effect.interface, effect.ticket
        yield
        self.machine.notes.pop(address, None)
        yield

        def end(ok: bool, reason: str) -> Work:
            yield
            if ok:
                yield from self._ensure(address, interface)
                ok, reason = not self._ensured, self._ensured
            if not ok:
                yield from self._forget(address)
            else:
                yield
                self._completed(address, interface, effect.incarnation)
            yield from self._done(ticket, ok, reason)

        self._launch(ticket, "takeip", end, address, self._script_adds(address, interface))

    def _release(self, effect: fx.ReleaseAddress) -> Work:
        address, interface, ticket = effect.address, effect.interface, effect.ticket
        yield
        self._begin(address)
        self.configured.setdefault(address, interface)
        yield
        self.kernel.deny((address,))
        yield

        def end(ok: bool, reason: str) -> Work:
            yield from self._forget(address)
            yield from self._done(ticket, ok, reason)

        def act() -> None:
            self.machine.kernel.remove(address, interface)

        self._launch(ticket, "releaseip", end, address, act)

    def _update(self, effect: fx.UpdateAddress) -> Work:
        address, old, new, ticket = effect.address, effect.old_interface, effect.new_interface, effect.ticket
        yield
        self._begin(address)
        yield

        def end(ok: bool, reason: str) -> Work:
            yield
            self.kernel.remove(address, old)
            self.configured[address] = new
            if ok:
                yield from self._ensure(address, new)
                ok, reason = not self._ensured, self._ensured
            if not ok:
                yield from self._forget(address)
            else:
                yield
                self._completed(address, new, effect.incarnation)
            yield from self._done(ticket, ok, reason)

        self._launch(ticket, "updateip", end, address, self._script_adds(address, new))
