"""The agent process: what :mod:`locum.agent` does with inputs and effects, one micro-step at a time.

Rules of this file: it is equal in behaviour to ``locum/agent/driver.py``, ``acts.py``, ``kernel_watch.py`` and the
start in ``locum/api/serve.py``, statement by statement where the order matters, with the same rules of
:mod:`locum.cluster` inside. Every act is a generator; at each ``yield`` the process may be stopped or killed, which
is wherever a real process reads a clock, makes a system call, or returns to its loop. Change the two together.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from locum.addresses.lifetimes import lifetime_for
from locum.cluster import effects as fx
from locum.cluster.node import Adoption, Node
from locum.cluster.view import View
from locum.sim.scripts import Child
from locum.sim.service import Author, StoreClient
from locum.store.base import Batch, CommitResult, Snapshot

if TYPE_CHECKING:
    from locum.sim.machine import Machine

#: As in the real agent: pause before a store that did not answer is read again, and between renewals of lifetimes.
READ_PAUSE = 0.1
RENEW_INTERVAL = 0.5

Work = Iterator[None]


class Agent:
    """One process, from its start until it ends, is killed, or its node has left."""

    #: The rules; tests put mutated ones here.
    node_class: type[Node] = Node

    def __init__(self, machine: Machine, serial: int) -> None:
        self.machine = machine
        self.world = machine.world
        self.clock = machine.clock
        self.kernel = machine.kernel
        self.serial = serial
        self.alive = True
        self.ready = False
        self._inbox: deque[tuple[str, Callable[..., Work], tuple[Any, ...]]] = deque()
        self._current: Work | None = None
        self._pumping = False
        #: Address → interface of what is configured here by us, and of those whose take is complete.
        self.configured: dict[str, str] = {}
        self._renewable: dict[str, str] = {}
        self._tickets: set[int] = set()
        self._renewed = 0.0
        self._lifetime = lifetime_for(machine.identity.hold)
        self._activity: tuple[int, str, Callable[..., Work]] | None = None
        self._waiting: Callable[[], None] | None = None
        self._scheduled = math.inf
        self._timer = 0
        self._tick_queued = False
        self._ensured = False
        #: When it had read the store for the first time, true time.
        self.read_at = math.inf
        page = machine.page
        self.adoption: Adoption | None = None
        if page.incarnation:
            self.adoption = Adoption(page.incarnation, page.deadline, page.slot, self._noted(page.incarnation))
        self.node = self.node_class(machine.identity, View(), machine.new_incarnation, self.adoption)
        self.node.handles = machine.handles
        patience = max(1.0, machine.identity.hold)
        self.store = StoreClient(machine.world.store, machine.link, patience, self._answered)

    # -- the process -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to run."""
        self.post("start", self._start)

    def post(self, source: str, act: Callable[..., Work], *arguments: Any) -> None:
        """Something for the loop to do; in order with everything else from ``source``."""
        if self.alive:
            self._inbox.append((source, act, arguments))
            if not self._pumping:
                self.pump()

    def pump(self) -> None:
        """Run until there is nothing left to do or the process is stopped in the midst of something."""
        machine = self.machine
        if self._pumping or machine.agent_stopped:
            return
        self._pumping = True
        inbox = self._inbox
        while self.alive:
            if self._current is None:
                if not inbox:
                    break
                _, act, arguments = inbox.popleft()
                self._current = act(*arguments)
            for _ in self._current:
                if machine.trap and machine.sprung():
                    self._pumping = False
                    return
            self._current = None
        self._pumping = False

    def thawed(self) -> None:
        """Whatever came meanwhile is waiting; the loop takes it in any order, but each stream in its own."""
        if len(self._inbox) > 1:
            streams: dict[str, deque[tuple[str, Callable[..., Work], tuple[Any, ...]]]] = {}
            for item in self._inbox:
                streams.setdefault(item[0], deque()).append(item)
            self._inbox.clear()
            random = self.machine.random
            names = list(streams)
            while names:
                name = random.choice(names)
                self._inbox.append(streams[name].popleft())
                if not streams[name]:
                    names.remove(name)
        self.pump()

    def die(self) -> None:
        """SIGKILL."""
        self.alive = False
        self._inbox.clear()
        self._current = None
        self.store.close()

    def say(self, text: str) -> None:
        """A line for the timeline."""
        self.world.trace.say(self.machine.name, text)

    # -- start -----------------------------------------------------------------------------------------------

    def _start(self) -> Work:
        machine = self.machine
        yield
        if self.kernel.lawless:
            # The gate cannot be taken over as it is: it is installed anew, shut and with nothing held.
            self.kernel.held.clear()
            self.kernel.restore_rules()
        if self.adoption is None:
            yield from self._clear_leftovers()
        else:
            for address, interface in self.adoption.held.items():
                if address in machine.hosted:
                    self.configured[address] = self._renewable[address] = interface
                    self.kernel.allow(address)
                    yield
                    yield from self._ensure(address, interface)
        yield from self._feed(self.node.links_changed, dict(self.kernel.links))
        for address, (interface, _) in list(self.kernel.addresses.items()):
            yield from self._check(address, interface)
        for address, interface in list(self.configured.items()):
            if self.kernel.addresses.get(address, ("", 0.0))[0] != interface:
                yield from self._feed(self.node.address_removed, address, interface)
        if self.adoption is None:
            # init and setup: nothing before them, and they wait for scripts of an earlier life to end.
            machine.kill_children()
            self.world.engine.after(machine.random.uniform(0.02, 0.1), self.post, "start", self._run)
        else:
            yield from self._run()
        self.world.engine.after(machine.random.uniform(0.02, 0.2), self.post, "engine", self._engine_started)

    def _noted(self, incarnation: str) -> dict[str, str]:
        """Address → interface of what the predecessor had taken completely in this very membership."""
        return {a: name for a, (whose, name) in self.machine.notes.items() if whose == incarnation}

    def _clear_leftovers(self) -> Work:
        """Nothing here is ours, whatever a predecessor left that died while it dropped its hold."""
        yield
        self.machine.notes.clear()
        self.kernel.shut()
        yield
        self.kernel.deny(self.kernel.held)

    def _engine_started(self) -> Work:
        """The runner starts nothing before the script that an earlier runner left has ended."""
        self.machine.kill_children()
        yield
        self.ready = True
        if self._waiting is not None:
            launch, self._waiting = self._waiting, None
            launch()

    def _run(self) -> Work:
        self._read()
        yield from self._feed(self.node.tick)

    # -- inputs ----------------------------------------------------------------------------------------------

    def _feed(self, method: Callable[..., None], *arguments: Any) -> Work:
        now, wall = self.clock.boot(), self.clock.wall()
        yield
        method(*arguments, now, wall)
        if self.node.desk.effects:
            yield from self._carry_out()
        else:
            self._set_timer()

    def _tick(self) -> Work:
        self._tick_queued = False
        return self._feed(self.node.tick)

    def links_changed(self) -> None:
        """Netlink: a link has changed."""
        self.post("netlink", self._feed, self.node.links_changed, dict(self.kernel.links))

    def address_removed(self, address: str, interface: str) -> None:
        """Netlink: an address is gone."""
        self.post("netlink", self._feed, self.node.address_removed, address, interface)

    def address_added(self, address: str, interface: str) -> None:
        """Netlink: an address is there."""
        self.post("netlink", self._check, address, interface)

    def gate_damaged(self) -> None:
        """Netlink: somebody changed our rules."""
        self.post("netlink", self._gate_damaged)

    def trigger_monitor(self) -> None:
        """A listening socket has gone."""
        self.post("netlink", self._feed, self.node.trigger_monitor)

    def leave(self) -> None:
        """SIGTERM."""
        self.post("signal", self._feed, self.node.leave)

    def configure(self) -> None:
        """SIGHUP: the machine's identity has changed."""
        self.post("signal", self._feed, self.node.configure, self.machine.identity)

    def _check(self, address: str, interface: str) -> Work:
        """A public address that is not ours to serve, or not there, goes."""
        if address not in self.node.serving.hosted:
            return
        configured = self.configured.get(address)
        if configured is not None and (configured == interface or not self.node.desk.idle):
            return
        yield
        self.kernel.remove(address, interface)

    def _set_timer(self) -> None:
        """The loop's one timer is set anew after every input; one that has become too early only looks again."""
        wakeup = self.node.next_wakeup()
        sooner = wakeup < self._scheduled
        self._scheduled = wakeup
        if sooner:
            self._timer += 1
            self._start_timer()

    def _start_timer(self) -> None:
        late = self.machine.random.random() * self.machine.lateness
        self.world.engine.at(self.clock.true(self._scheduled) + late, self._timer_fired, self._timer)

    def _timer_fired(self, timer: int) -> None:
        if timer != self._timer or not self.alive:
            return
        now = self.clock.boot()
        if now < self._scheduled - 1e-9:
            # It was put off, or the crystal's rate has changed since.
            if self._scheduled < math.inf:
                self._start_timer()
            return
        self._scheduled = math.inf
        if not self._tick_queued:
            self._tick_queued = True
            self.post("timer", self._tick)

    # -- effects ---------------------------------------------------------------------------------------------

    def _carry_out(self) -> Work:
        node = self.node
        while effects := node.take_effects():
            for effect in effects:
                match effect:
                    case fx.Note():
                        if self.world.trace.on:
                            self.say(effect.text)
                        self.world.noted(effect.text)
                    case fx.SendBeat():
                        yield from self._send_beat(effect)
                    case fx.ConfirmHold():
                        yield from self._confirm(effect)
                    case fx.CommitWork():
                        self.post("task", self._commit, effect)
                    case fx.DropHold():
                        yield from self._drop()
                    case fx.RunEvent():
                        self.post("task", self._run_event, effect)
                    case fx.TakeAddress():
                        self.post("task", self._take, effect)
                    case fx.ReleaseAddress():
                        self.post("task", self._release, effect)
                    case fx.UpdateAddress():
                        self.post("task", self._update, effect)
                    case fx.CancelActivity():
                        self._cancel(effect)
                    case fx.Restore():
                        yield from self._ensure(effect.address, effect.interface)
                    case fx.Exit():
                        if self.world.trace.on:
                            self.say(f"exits: {effect.problem or 'left in order'}")
                        self.machine.agent_exited(self, effect.problem)
                        return
        self._set_timer()

    def _author(self) -> Author:
        return Author(self.machine.name, self.node.incarnation)

    def _send_beat(self, effect: fx.SendBeat) -> Work:
        hold = self.node.hold.hold
        sent_at = self.clock.boot()
        yield
        self._tickets.discard(effect.slot)
        until = self.clock.wall() + hold
        yield
        self.kernel.arm(effect.slot, hold, until)
        self._tickets.add(effect.slot)
        yield
        self.post("task", self._beat, effect, sent_at)

    def _beat(self, effect: fx.SendBeat, sent_at: float) -> Work:
        yield

        def done(result: CommitResult | None) -> Work:
            accepted = None if result is None else result.accepted
            if self.world.trace.on and not accepted:
                self.say(f"beat {effect.ticket}: {'no answer' if result is None else 'refused'}")
            return self._feed(self.node.beat_done, effect.ticket, accepted, sent_at)

        self.store.commit(self._author(), effect.conditions, effect.operations, done)

    def _commit(self, effect: fx.CommitWork) -> Work:
        yield

        def done(result: CommitResult | None) -> Work:
            if self.world.trace.on:
                answer = "no answer" if result is None else ("accepted" if result.accepted else "refused")
                self.say(f"commit {effect.ticket}: {answer}")
            return self._feed(self.node.commit_done, effect.ticket, result)

        if self.world.trace.on:
            self.say(f"commit {effect.ticket}: {', '.join(_operation(o) for o in effect.operations)}")
        self.store.commit(self._author(), effect.conditions, effect.operations, done)

    def _confirm(self, effect: fx.ConfirmHold) -> Work:
        page, kernel = self.machine.page, self.kernel
        yield
        incarnation = self.node.incarnation
        if incarnation != page.incarnation:
            page.deadline = 0.0
            yield
            page.incarnation = incarnation
        page.slot = effect.slot
        yield
        page.deadline = effect.deadline
        self.machine.deadline_set()
        yield
        if effect.slot in self._tickets:
            self._tickets.discard(effect.slot)
            kernel.confirm(effect.slot)
        now = self.clock.boot()
        if self._renewable and now - self._renewed >= RENEW_INTERVAL and now < effect.deadline:
            self._renewed = now
            yield
            for address, interface in list(self._renewable.items()):
                kernel.renew(address, interface, self._lifetime)

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

    # -- events ----------------------------------------------------------------------------------------------

    def _run_event(self, effect: fx.RunEvent) -> Work:
        yield
        self._launch(effect.ticket, effect.event, self._plain_end)

    def _plain_end(self, ok: bool, reason: str) -> Work:
        assert self._activity is not None
        return self._done(self._activity[0], ok, reason)

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
        tunables = self.node.desk.tunables
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
        """Configure the address unless the hold has ended; :attr:`_ensured` tells."""
        now = self.clock.boot()
        self._ensured = now < self.machine.page.deadline
        yield
        if self._ensured:
            self.kernel.add(address, interface, self._lifetime)

    def _begin(self, address: str) -> None:
        """``address`` is about to be changed: a crash in between must lead to doing it again."""
        self.machine.notes.pop(address, None)
        self._renewable.pop(address, None)

    def _completed(self, address: str, interface: str) -> None:
        self._renewable[address] = interface
        self.machine.notes[address] = (self.node.incarnation, interface)

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
                ok, reason = self._ensured, "" if self._ensured else "the hold has ended"
            if not ok:
                yield from self._forget(address)
            else:
                yield
                self._completed(address, interface)
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
                ok, reason = self._ensured, "" if self._ensured else "the hold has ended"
            if not ok:
                yield from self._forget(address)
            else:
                yield
                self._completed(address, new)
            yield from self._done(ticket, ok, reason)

        self._launch(ticket, "updateip", end, address, self._script_adds(address, new))

    # -- the store -------------------------------------------------------------------------------------------

    def _answered(self, done: Callable[..., Any], result: object) -> None:
        """The network has an answer for us."""
        self.post("answer", done, result)

    def _read(self) -> None:
        if self.alive:
            self.store.read(self._read_done)

    def _read_done(self, snapshot: Snapshot | None) -> Work:
        if snapshot is None:
            self.world.engine.after(READ_PAUSE, self._read)
            return
        yield
        self.read_at = min(self.read_at, self.world.engine.now)
        keys = self.node.view.reset(snapshot)
        yield from self._feed(self.node.view_changed, keys)
        self.store.follow(snapshot.revision, self._batch, self._watch_lost)

    def _watch_lost(self) -> None:
        self.post("watch", self._read_again)

    def _read_again(self) -> Work:
        yield
        self.world.engine.after(READ_PAUSE, self._read)

    def _batch(self, batch: Batch) -> None:
        self.post("watch", self._changed, batch)

    def _changed(self, batch: Batch) -> Work:
        keys = self.node.view.apply(batch)
        if keys:
            yield from self._feed(self.node.view_changed, keys)


def _operation(operation: Any) -> str:
    value = getattr(operation, "value", None)
    if value is None:
        return f"-{operation.key}"
    return f"+{operation.key}" if len(value) > 120 else f"+{operation.key}={value.decode('utf-8', 'replace')}"
