"""What the kernel tells unasked: links, addresses, listening sockets; turned into inputs of the rules.

A public address that is configured here but not ours (left by a killed daemon, added by hand) goes away at once; one
of ours that somebody removed comes back; a listening socket that a script declared and that closed runs ``monitor``,
as does a script's wish to look again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

from locum import tasks
from locum.addresses.gate import Gate
from locum.addresses.gate_watch import GateWatch
from locum.addresses.kernel import AddressTable
from locum.addresses.links import Links
from locum.addresses.monitor import (
    AddressAdded,
    AddressRemoved,
    KernelEvent,
    KernelMonitor,
    LinkChanged,
)
from locum.agent.acts import Acts
from locum.agent.driver import Driver
from locum.agent.kernel_calls import KernelCalls
from locum.agent.port_watch import PortWatch, Situation
from locum.connections.listeners import ListenerWatch
from locum.errors import LocumError
from locum.events.engine import EventEngine
from locum.events.model import Event, EventResult
from locum.threads import NoAnswer

#: When ``monitor`` runs again that a script wanted to be run again, and when the kernel is asked again that did not
#: answer, in seconds.
AGAIN = 1.0
#: How long files of scripts in the runtime directory are waited for, in seconds.
FILE_LIMIT = 5.0


class KernelWatch:
    """Watches the network namespace of the agent."""

    def __init__(
        self,
        driver: Driver,
        acts: Acts,
        engine: EventEngine,
        gate: Gate | None,
        calls: KernelCalls,
        runtime: str,
        log: Callable[[str, str], None],
    ) -> None:
        self._calls = calls
        self._driver = driver
        self._acts = acts
        self._log = log
        self._table = AddressTable()
        self._links = Links()
        self._monitor = KernelMonitor(self._event, learns=False)
        self._listeners = ListenerWatch(self._port_gone)
        self._ports = PortWatch(
            os.path.join(runtime, "listen"),
            situation=self._situation,
            watch=self._listeners.watch,
            look=self._listeners.look,
            closed=self._port_closed,
            reads=False,
        )
        self._gate = gate
        self._gate_watch: GateWatch | None = None
        if gate is not None:
            self._gate_watch = GateWatch(
                gate, self._gate_damaged, lambda: calls.on_gate("looking at the gate", gate.verify), gate.loaders
            )
            calls.culprit = self._gate_watch.other
        self._tasks: set[asyncio.Task[None]] = set()
        self._links_look, self._audit_look = _Look(self._read_links), _Look(self._audit)
        self._learning = _Look(self._learn)
        self._engine = engine
        self._again = os.path.join(runtime, "again")
        self._timers: dict[str, asyncio.TimerHandle] = {}
        acts.on_event = self._event_ended
        #: Called when links, or addresses that are not public ones, have changed.
        self.on_change: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin to watch, and look once at everything."""
        loop = asyncio.get_running_loop()
        self._monitor.start(loop)
        self._listeners.start(loop)
        if self._gate_watch is not None:
            self._gate_watch.start(loop)
        self._learning.wanted()
        self._spawn(self._with_ports(self._ports.read))

    def close(self) -> None:
        """Stop watching."""
        for timer in self._timers.values():
            timer.cancel()
        for look in (self._links_look, self._audit_look, self._learning):
            look.close()
        for task in list(self._tasks):
            task.cancel()
        self._monitor.close()
        self._listeners.close()
        if self._gate_watch is not None:
            self._gate_watch.close()
        self._table.close()
        self._links.close()

    # -- the kernel's messages -------------------------------------------------------------------------------

    def _event(self, event: KernelEvent) -> None:
        match event:
            case LinkChanged():
                self._links_look.wanted()
                self._spawn(self._cover_interfaces())
                self.on_change()
            case AddressRemoved(address=address, interface=interface):
                if (address, interface) in self._acts.expected_removals:
                    self._acts.expected_removals.discard((address, interface))
                    return
                self._driver.feed(self._driver.node.address_removed, address, interface)
                self._others_changed(address)
            case AddressAdded(address=address, bits=bits, interface=interface):
                self._acts.appeared(address, interface)
                self._check(address, bits, interface)
                self._others_changed(address)
            case _:
                self._learning.wanted()

    def _others_changed(self, address: str) -> None:
        if address not in self._driver.node.status().hosted:
            self.on_change()

    async def _learn(self) -> None:
        """Have the monitor learn what is there: at the start, and after messages were lost."""
        self._monitor.expect()
        present = None
        try:
            present = await self._calls.on_addresses("listing links and addresses", self._monitor.look)
        except LocumError as error:
            self._log(f"{error}; trying again", "error")
            self._timers["learn"] = asyncio.get_running_loop().call_later(AGAIN, self._learning.wanted)
        self._monitor.learn(present)
        self._links_look.wanted()
        self._audit_look.wanted()

    async def _cover_interfaces(self) -> None:
        """An interface that came back has no egress chain yet: before Linux 6.16 the chain goes with the interface."""
        if self._gate is not None:
            try:
                await self._calls.on_gate("covering an interface", self._gate.ensure_interfaces)
            except LocumError as error:
                self._log(f"the gate cannot cover an interface: {error}", "error")

    async def _read_links(self) -> None:
        try:
            found = await self._calls.on_addresses("listing interfaces", self._links.list)
        except LocumError as error:
            self._log(str(error), "error")
            return
        self._driver.feed(self._driver.node.links_changed, {name: state.up for name, state in found.items()})

    async def _audit(self) -> None:
        """Compare what is configured with what should be, after messages were lost."""
        present = set()
        try:
            listed = await self._calls.on_addresses("listing addresses", self._table.list)
        except LocumError as error:
            self._log(str(error), "error")
            return
        for found in listed:
            present.add((found.address, found.interface))
            self._check(found.address, found.bits, found.interface)
        for address, (_, interface) in list(self._acts.configured.items()):
            if (address, interface) not in present:
                self._driver.feed(self._driver.node.address_removed, address, interface)

    def _check(self, address: str, bits: int, interface: str) -> None:
        """Remove a public address that is not ours to serve, or not there."""
        status = self._driver.node.status()
        if address not in status.hosted:
            return
        configured = self._acts.configured.get(address)
        if configured is not None and (configured[1] == interface or status.activity is not None):
            return
        self._log(f"{address} was found on {interface} and is not served there: removing it", "warning")
        self._spawn(self._remove(address, bits, interface))

    async def _remove(self, address: str, bits: int, interface: str) -> None:
        try:
            await self._calls.on_addresses(f"removing {address}", self._remove_now, address, bits, interface)
        except LocumError as error:
            self._log(f"cannot remove {address} from {interface}: {error}", "error")

    def _remove_now(self, address: str, bits: int, interface: str) -> None:
        """On the thread. It may have come to be ours while the kernel had no time for this."""
        configured = self._acts.configured.get(address)
        if configured is None or configured[1] != interface:
            self._table.remove(address, bits, interface)

    def _gate_damaged(self, problems: tuple[str, ...]) -> None:
        """Somebody changed our nftables rules, most likely by reloading a firewall."""
        self._log(f"{'; '.join(problems)}: restoring them", "warning")
        self._spawn(self._restore_gate(problems))

    async def _restore_gate(self, problems: tuple[str, ...]) -> None:
        await self._acts.restore_gate()
        # The gate is shut now; the next accepted beat opens it.
        self._driver.feed(self._driver.node.beat_now)
        if any("is gone" in problem for problem in problems):
            # Whatever took our tables took those of scripts along.
            self._driver.feed(self._driver.node.scripts_forget, tuple(self._acts.configured))

    # -- listening sockets -----------------------------------------------------------------------------------

    def _event_ended(self, result: EventResult) -> None:
        self._spawn(self._with_ports(self._ports.event_ended))
        if result.event is Event.MONITOR:
            self._spawn(self._look_again())

    async def _look_again(self) -> None:
        """A script that tolerates a failure once or twice wants to know soon whether it stays (``monitor_again``)."""
        with contextlib.suppress(OSError, NoAnswer):
            await self._calls.files.run("looking whether monitor is to run again", FILE_LIMIT, os.unlink, self._again)
            loop = asyncio.get_running_loop()
            self._timers["monitor"] = loop.call_later(AGAIN, self._driver.feed, self._driver.node.trigger_monitor)

    def _situation(self) -> Situation:
        in_use = self._engine.in_use
        enabled = frozenset(script.name for script in in_use.scripts if script.enabled)
        return Situation(self._driver.node.status().leaving, self._engine.running, enabled or None)

    def _port_gone(self, port: int) -> None:
        self._spawn(self._with_ports(self._ports.gone, port))

    async def _with_ports(self, act: Callable[..., None], *arguments: int) -> None:
        """Call ``act`` when what scripts have declared has been read, or cannot be."""
        with contextlib.suppress(NoAnswer):
            await self._calls.files.run("reading declared ports", FILE_LIMIT, self._ports.load)
        act(*arguments)

    def _port_closed(self, port: int) -> None:
        self._log(f"nothing listens on port {port} any more: running monitor", "warning")
        self._driver.feed(self._driver.node.trigger_monitor)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = tasks.start(work, "following the kernel's news")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Look:
    """A look that takes a while: one at a time, and one more after it when it was wanted meanwhile."""

    def __init__(self, look: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._look = look
        self._wanted = False
        self._task: asyncio.Task[None] | None = None

    def wanted(self) -> None:
        """Something has changed."""
        self._wanted = True
        if self._task is None or self._task.done():
            self._task = tasks.start(self._work(), "looking at the kernel")

    async def _work(self) -> None:
        while self._wanted:
            self._wanted = False
            await self._look()

    def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
