"""The agent process: the product's own parts, over the ports of a simulated machine.

Rules of this file: it puts together, and has no procedure of its own. What the agent does is in :mod:`locum.node`.
"""

from __future__ import annotations

import asyncio
import math
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec

from locum import tasks
from locum.errors import LocumError, StoreUnavailable
from locum.machine.kernel_monitor import AddressAdded, AddressRemoved, LinkChanged
from locum.node import life
from locum.node.driver import Driver, patience_for
from locum.node.guard.enforcement import enforcement_of, judged_before, public_interfaces
from locum.node.kernel_news import KernelNews
from locum.node.reconfiguration import Reconfiguration
from locum.node.steps import Steps
from locum.rules import effects as fx
from locum.rules.node import Identity, Node
from locum.rules.status import NodeStatus
from locum.rules.view import View
from locum.store.base import Batch, Commit, CommitResult, Condition, Operation, Snapshot, WatchLost
from locum_sim.decisions import as_read
from locum_sim.loop import SimulatedLoop
from locum_sim.machine_state import MachineState
from locum_sim.ports import (
    Heard,
    NoConnections,
    SilentWire,
    SimulatedCalls,
    SimulatedClock,
    SimulatedGate,
    SimulatedHoldPage,
    SimulatedLinks,
    SimulatedNotes,
    SimulatedScripts,
    SimulatedTable,
)
from locum_sim.service import Author, StoreClient


class Parent(Protocol):
    """The kernel's part: the agent's end, and signals to its parent, the guard."""

    def agent_exited(self, agent: Agent) -> None:
        """The process has ended by itself."""

    def signal_guard(self, number: signal.Signals) -> None:
        """A signal to the guard, if there is one."""


class Agent:
    """One process, from its start until it ends, is killed, or its node has left."""

    def __init__(self, machine: MachineState, parent: Parent, serial: int) -> None:
        self.machine = machine
        self.run = machine.run
        self.serial = serial
        self._parent = parent
        self.alive = True
        #: When it had read the store for the first time, true time.
        self.read_at = math.inf
        self.loop = SimulatedLoop(machine.run.engine, machine.clock, machine, machine.random, self._late, self._failed)
        # Until the process has looked at what an earlier one left, it knows nothing.
        self.node = Node(machine.identity, View(), machine.new_incarnation, None)
        self._driver: Driver | None = None
        self._news: KernelNews | None = None
        self._reconfiguration: Reconfiguration | None = None
        # What signals asked for before there was a driver.
        self._waiting: list[Callable[[], None]] = []
        # The operations of a commit that was decided -> who decided it, on what.
        self._authors: dict[int, tuple[Author, Commit]] = {}
        patience = 1.5 * patience_for(machine.identity.hold)
        self.store = StoreClient(machine.run.store, machine.link, patience, self._answered)

    # -- the process -----------------------------------------------------------------------------------------

    def _failed(self, context: dict[str, Any]) -> None:
        """A defect of the product, or of the simulation; see :class:`locum_sim.loop.SimulatedLoop`."""
        if self.alive:
            self.run.defect(self.machine.name, context.get("exception") or context.get("message"))

    def start(self) -> None:
        """Begin to run."""
        self.loop.post("start", self._begin)

    def _begin(self) -> None:
        asyncio.get_running_loop().create_task(self._main()).add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[str | None]) -> None:
        if not self.alive:
            return
        if task.cancelled() or task.exception() is not None:
            self.run.defect(self.machine.name, "cancelled" if task.cancelled() else task.exception())
        elif task.result() is not None:
            self.run.defect(self.machine.name, task.result())
        else:
            if self.run.trace.on:
                self.say("exits: left in order")
            # Not in the process itself, which ends with that.
            self.run.engine.after(0.0, self._parent.agent_exited, self)

    def die(self) -> None:
        """SIGKILL."""
        self.alive = False
        self.store.close()
        self.loop.die()

    def thawed(self) -> None:
        """SIGCONT."""
        self.loop.thawed()

    @property
    def turns(self) -> int:
        """See :class:`locum_sim.views.AgentView`."""
        return self.loop.turns

    def status(self) -> NodeStatus:
        """See :class:`locum_sim.views.AgentView`."""
        return self.node.status()

    def say(self, text: str) -> None:
        """A line for the timeline."""
        self.machine.say(text)

    def _late(self) -> float:
        return self.machine.random.random() * self.machine.lateness

    def _log(self, text: str, _level: str = "info") -> None:
        if self.run.trace.on:
            self.say(text)
        self.run.noted(text)

    # -- the agent -------------------------------------------------------------------------------------------

    async def _main(self) -> str | None:
        machine, step = self.machine, self.loop.step
        clock, calls = SimulatedClock(machine, self.loop), SimulatedCalls(machine)
        page = SimulatedHoldPage(machine.memory, machine.page_written, step)
        asyncio.get_running_loop().create_task(life.pulse(page, clock, lambda: None))
        table, gate, notes = SimulatedTable(machine, step), SimulatedGate(machine, step), SimulatedNotes(machine, step)
        scripts = SimulatedScripts(machine, self.loop, lambda: self.node.status().tunables)
        identity = machine.identity
        configured = [h.address for h in identity.addresses]
        beginning = await life.begin(
            calls,
            configured,
            public_interfaces(identity),
            lambda: judged_before(lambda: gate),
            lambda judged: life.look(page, notes, table, configured, judged),
            lambda public, interfaces: enforcement_of(identity.hold, public, interfaces, self._log, lambda: gate),
        )
        adoption, enforcement = beginning.adoption, beginning.enforcement
        self.node = node = Node(machine.identity, View(), machine.new_incarnation, adoption)
        node.take_effects = self._noting_authors(node.take_effects)  # type: ignore[method-assign]
        steps = Steps(
            clock=clock,
            table=table,
            gate=gate,
            lifetime=enforcement.lifetime,
            announcer=Heard(),
            engine=scripts,
            page=page,
            notes=notes,
            connections=NoConnections(),
            calls=calls,
            wire=SilentWire(),
            tunables=lambda: node.status().tunables,
            log=self._log,
        )
        self._driver = driver = Driver(node, _Store(self), steps, _NoOthers(), clock, self._log)
        self._news = news = KernelNews(driver, steps, calls, table, SimulatedLinks(machine, step), self._log)
        self._reconfiguration = reconfiguration = Reconfiguration(
            driver,
            steps.gate,
            steps.addresses.configured,
            configured,
            public_interfaces(identity),
            beginning.leaving,
            self._tell_guard,
            self._log,
        )
        steps.addresses.on_gone, reconfiguration.on_added = reconfiguration.gone, news.compare

        async def listen() -> None:
            news.look()
            # Signals that came before there was a driver.
            for act in self._waiting:
                self.loop.post("signal", act)
            self._waiting.clear()

        bits = {h.address: h.bits for h in identity.addresses}
        return await life.run(beginning, bits, driver, steps, scripts, listen)

    def _noting_authors(self, take_effects: Callable[[], list[fx.Effect]]) -> Callable[[], list[fx.Effect]]:
        """For I8: what a decision has read is what the view shows when it is made."""

        def taken() -> list[fx.Effect]:
            effects = take_effects()
            for effect in effects:
                if isinstance(effect, (fx.SendBeat, fx.CommitWork)):
                    name = self.machine.name
                    author = Author(name, effect.incarnation, as_read(self.node.view, name, effect.commit.operations))
                    self._authors[id(effect.commit.operations)] = (author, effect.commit)
            return effects

        return taken

    def author_of(self, operations: Sequence[Operation]) -> Author:
        """Who has decided to write ``operations``, and on what."""
        return self._authors.pop(id(operations))[0]

    def _answered(self, done: Callable[[Any], None], result: object) -> None:
        """The network has an answer for us."""
        self.loop.post("answer", done, result)

    # -- news ------------------------------------------------------------------------------------------------

    def links_changed(self) -> None:
        """Netlink: a link has changed."""
        self.loop.post("netlink", self._heard, LinkChanged("", True))

    def address_removed(self, address: str, interface: str) -> None:
        """Netlink: an address is gone."""
        self.loop.post("netlink", self._heard, AddressRemoved(address, self._bits(address), interface))

    def address_added(self, address: str, interface: str) -> None:
        """Netlink: an address is there."""
        self.loop.post("netlink", self._heard, AddressAdded(address, self._bits(address), interface))

    def gate_damaged(self) -> None:
        """Netlink: another program changed our rules."""
        self.loop.post("netlink", self._damaged)

    def trigger_monitor(self) -> None:
        """A listening socket has gone."""
        self._feed("netlink", lambda node: node.trigger_monitor)

    def leave(self) -> None:
        """SIGTERM."""
        self.loop.post("signal", self._leave)

    def reload(self) -> None:
        """SIGHUP: the configuration has changed."""
        self.loop.post("signal", self._reload)

    def _bits(self, address: str) -> int:
        return next((h.bits for h in self.machine.identity.addresses if h.address == address), 24)

    def _heard(self, event: LinkChanged | AddressRemoved | AddressAdded) -> None:
        if self._news is not None:
            self._news.heard(event)

    def _damaged(self) -> None:
        if self._news is not None:
            self._news.gate_damaged(("table inet locum is gone",))

    def _leave(self) -> None:
        if self._driver is not None:
            self._driver.feed(self.node.leave)
        else:
            self._waiting.append(self._leave)

    def _reload(self) -> None:
        if self._reconfiguration is None:
            self._waiting.append(self._reload)
        else:
            tasks.start(self._reconfigure(self._reconfiguration), "reloading the configuration")

    async def _reconfigure(self, reconfiguration: Reconfiguration) -> None:
        """Apply the configuration file, as far as a running agent takes it up."""
        async with reconfiguration.one:
            new = msgspec.structs.replace(self.machine.identity, addresses=self.machine.file.addresses)

            def put_in_force() -> Identity:
                self.machine.identity = new
                return new

            try:
                await reconfiguration.apply([h.address for h in new.addresses], public_interfaces(new), put_in_force)
            except LocumError as error:
                self._log(f"reload: {error}")

    def _tell_guard(self) -> None:
        self.loop.step()
        self._parent.signal_guard(signal.SIGUSR1)

    def _feed(self, stream: str, method: Callable[[Node], Callable[..., None]], *arguments: object) -> None:
        def feed() -> None:
            if self._driver is not None:
                self._driver.feed(method(self.node), *arguments)

        self.loop.post(stream, feed)


class _NoOthers:
    """The search for other clusters: there are none."""

    async def search(
        self, addresses: Iterable[str], patience: float, waits: Callable[[str], None]
    ) -> tuple[str | None, frozenset[str]]:
        """See :class:`locum.node.ports.ClustersPort`."""
        return "", frozenset()


class _Store:
    """The store as the agent's driver uses it (:class:`locum.store.base.Store`), over the simulated network."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def read(self, prefix: str) -> Snapshot:
        future: asyncio.Future[Snapshot | None] = asyncio.get_running_loop().create_future()
        self._agent.store.read(_set(future))
        snapshot = await future
        if snapshot is None:
            raise StoreUnavailable("no answer")
        self._agent.read_at = min(self._agent.read_at, self._agent.run.engine.now)
        return snapshot

    async def names(self, prefix: str) -> tuple[str, ...]:
        return ()

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> CommitResult:
        agent = self._agent
        future: asyncio.Future[CommitResult | None] = asyncio.get_running_loop().create_future()
        agent.loop.step()
        agent.store.commit(agent.author_of(operations), conditions, operations, _set(future))
        agent.loop.step()
        result = await future
        if agent.run.trace.on:
            answer = "no answer" if result is None else ("accepted" if result.accepted else "refused")
            if answer != "accepted" or not operations[0].key.startswith("beat/"):
                agent.say(f"{answer}: {', '.join(_operation(o) for o in operations)}")
        if result is None:
            raise StoreUnavailable("no answer")
        return result

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        agent, loop = self._agent, asyncio.get_running_loop()
        arrived: deque[Batch | Exception] = deque()
        waiting: asyncio.Future[None] | None = None

        def arrive(item: Batch | Exception) -> None:
            arrived.append(item)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

        agent.store.follow(
            after,
            lambda batch: agent.loop.post("watch", arrive, batch),
            lambda history: agent.loop.post("watch", arrive, WatchLost() if history else StoreUnavailable("lost")),
        )
        try:
            while True:
                while arrived:
                    item = arrived.popleft()
                    if isinstance(item, Exception):
                        raise item
                    yield item
                waiting = loop.create_future()
                await waiting
        finally:
            agent.store.unfollow()

    async def close(self) -> None:
        pass


def _set(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    def done(result: Any) -> None:
        if not future.done():
            future.set_result(result)

    return done


def _operation(operation: Any) -> str:
    value = getattr(operation, "value", None)
    if value is None:
        return f"-{operation.key}"
    return f"+{operation.key}" if len(value) > 120 else f"+{operation.key}={value.decode('utf-8', 'replace')}"
