"""The agent process: what :mod:`locum.agent` does with inputs and effects, one micro-step at a time.

Rules of this file: it is equal in behaviour to ``locum/agent/driver.py``, ``kernel_watch.py`` and the
start in ``locum/api/serve.py``, statement by statement where the order matters, with the same rules of
:mod:`locum.cluster` inside. Every act is a generator; at each ``yield`` the process may be stopped or killed, which
is wherever a real process reads a clock, makes a system call, or returns to its loop. Change the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from locum.addresses.wire_watch import PROBE_INTERVAL, PROBE_WAIT, PROBES
from locum.cluster import effects as fx
from locum.cluster.node import Adoption, Node
from locum.cluster.view import View
from locum.sim.acts import Acts
from locum.sim.decisions import as_read
from locum.sim.process import Work
from locum.sim.service import Author, StoreClient
from locum.store.base import Batch, CommitResult, Snapshot

if TYPE_CHECKING:
    from locum.sim.host import Host

#: As in the real agent: pause before a store that did not answer is read again, in seconds.
READ_PAUSE = 0.1
#: How long the real agent asks on the wire for addresses that the cluster never held, in seconds.
PROBE_TIME = PROBES * PROBE_INTERVAL + PROBE_WAIT - PROBE_INTERVAL


class Agent(Acts):
    """One process, from its start until it ends, is killed, or its node has left."""

    #: The rules; tests put mutated ones here.
    node_class: type[Node] = Node

    def __init__(self, machine: Host, serial: int) -> None:
        super().__init__(machine)
        self.serial = serial
        self._scheduled = math.inf
        self._timer = 0
        self._tick_queued = False
        #: When it had read the store for the first time, true time.
        self.read_at = math.inf
        # What is being read must be read once more; and a watch is there or asked for.
        self._again = self._following = False
        page = machine.page
        self.adoption: Adoption | None = None
        if page.incarnation:
            held = self._noted(page.incarnation)
            present = {(address, name) for address, (name, _) in self.kernel.addresses.items()}
            missing = frozenset(address for address, name in held.items() if (address, name) not in present)
            self.adoption = Adoption(
                page.incarnation, page.deadline, page.slot, page.revision, page.quiet, held, missing
            )
        self.node = self.node_class(machine.identity, View(), machine.new_incarnation, self.adoption)
        self.node.handles_changed(machine.handles, self.clock.boot(), self.clock.wall())
        patience = max(1.0, machine.identity.hold)
        self.store = StoreClient(machine.world.store, machine.link, patience, self._answered)

    def start(self) -> None:
        """Begin to run."""
        self.post("start", self._start)

    def die(self) -> None:
        """SIGKILL."""
        super().die()
        self.store.close()

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
                    if address in self.adoption.missing:
                        machine.notes.pop(address, None)
                        yield
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
        yield from self._carry_out()

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
        status = self.node.status()
        if address not in status.hosted:
            return
        configured = self.configured.get(address)
        if configured is not None and (configured == interface or status.activity is not None):
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
                        self.post("task", self._commit, effect, self._author(effect))
                    case fx.DropHold():
                        yield from self._drop()
                    case fx.ReadAnew():
                        self._read_anew()
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
                    case fx.TakeAgain():
                        self.post("task", self._take_again, effect)
                    case fx.ProbeAddresses():
                        self.world.engine.after(PROBE_TIME, self.post, "wire", self._probed, effect)
                    case fx.Restore():
                        yield from self._restore(effect)
                    case fx.Exit():
                        if self.world.trace.on:
                            self.say("exits: left in order")
                        self.machine.agent_exited(self)
                        return
        self._set_timer()

    def _probed(self, effect: fx.ProbeAddresses) -> Work:
        yield
        # No machine outside of the cluster is simulated.
        yield from self._feed(self.node.probed, effect.ticket, {})

    def _author(self, effect: fx.SendBeat | fx.CommitWork) -> Author:
        name = self.machine.name
        return Author(name, effect.incarnation, as_read(self.node.view, name, effect.commit.operations))

    def _send_beat(self, effect: fx.SendBeat) -> Work:
        author, hold = self._author(effect), effect.hold
        sent_at = self.clock.boot()
        yield
        self._tickets.discard(effect.slot)
        until = self.clock.wall() + hold
        yield
        if self.kernel.gate_fails:
            self._gate_problem = "the kernel's gate cannot be armed"
            yield from self._report(self.node.gate_changed, self._gate_problem)
        else:
            self.kernel.arm(effect.slot, hold, until)
            self._tickets.add(effect.slot)
        yield
        self.post("task", self._beat, effect, sent_at, author)

    def _beat(self, effect: fx.SendBeat, sent_at: float, author: Author) -> Work:
        yield

        def done(result: CommitResult | None) -> Work:
            if self.world.trace.on and (result is None or not result.accepted):
                self.say(f"beat {effect.ticket}: {'no answer' if result is None else 'refused'}")
            return self._feed(self.node.beat_done, effect.ticket, result, sent_at)

        self.store.commit(author, effect.commit.conditions, effect.commit.operations, done)

    def _commit(self, effect: fx.CommitWork, author: Author) -> Work:
        yield

        def done(result: CommitResult | None) -> Work:
            if self.world.trace.on:
                answer = "no answer" if result is None else ("accepted" if result.accepted else "refused")
                self.say(f"commit {effect.ticket}: {answer}")
            return self._feed(self.node.commit_done, effect.ticket, result)

        if self.world.trace.on:
            self.say(f"commit {effect.ticket}: {', '.join(_operation(o) for o in effect.commit.operations)}")
        self.store.commit(author, effect.commit.conditions, effect.commit.operations, done)

    # -- the store -------------------------------------------------------------------------------------------

    def _answered(self, done: Callable[..., Any], result: object) -> None:
        """The network has an answer for us."""
        self.post("answer", done, result)

    def _read(self) -> None:
        if not self.alive:
            return
        self._following = self._again = False
        known = self.node.view.known

        def done(snapshot: Snapshot | None) -> Work:
            return self._read_done(snapshot, known)

        self.store.read(done)

    def _read_done(self, snapshot: Snapshot | None, known: int) -> Work:
        if snapshot is None:
            self.world.engine.after(READ_PAUSE, self._read)
            return
        yield
        if self._again:
            self._read()
            return
        self.read_at = min(self.read_at, self.world.engine.now)
        keys = self.node.view.reset(snapshot, known)
        yield from self._feed(self.node.view_changed, keys)
        if self._again:
            self._read()
            return
        self._following = True
        self.store.follow(snapshot.revision, self._batch, self._watch_lost)

    def _read_anew(self) -> None:
        """What is being read must be read once more, or the watch ends and everything is read."""
        self._again = True
        if self._following:
            self._following = False
            self.store.unfollow()
            self.world.engine.after(0.0, self._read)

    def _watch_lost(self, history: bool) -> None:
        self.post("watch", self._read_again, history)

    def _read_again(self, history: bool) -> Work:
        yield
        if self._following:
            self._following = False
            if history:
                yield from self._feed(self.node.watch_lost)
                self.world.engine.after(0.0, self._read)
            else:
                self.world.engine.after(READ_PAUSE, self._read)

    def _batch(self, batch: Batch) -> None:
        self.post("watch", self._changed, batch)

    def _changed(self, batch: Batch) -> Work:
        if not self._following:
            return
        keys = self.node.view.apply(batch)
        if keys:
            yield from self._feed(self.node.view_changed, keys)


def _operation(operation: Any) -> str:
    value = getattr(operation, "value", None)
    if value is None:
        return f"-{operation.key}"
    return f"+{operation.key}" if len(value) > 120 else f"+{operation.key}={value.decode('utf-8', 'replace')}"
