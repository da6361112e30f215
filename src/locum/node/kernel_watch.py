"""Listen to the kernel of this machine: links, addresses, the gate's rules, listening sockets.

:mod:`locum.node.kernel_news` decides the reaction for links, addresses and the gate. ``monitor`` runs when the last
listening socket of a declared port closes, and when a script asks for another ``monitor`` soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from locum.connections.listeners import ListenerWatch
from locum.errors import LocumError
from locum.events.decisions import REPEAT_PAUSE, REPEATED
from locum.events.engine import EventEngine
from locum.events.model import EventResult
from locum.machine.addresses import AddressTable
from locum.machine.gate.gate import Gate
from locum.machine.gate.gate_watch import GateWatch
from locum.machine.kernel_monitor import (
    AddressAdded,
    AddressRemoved,
    KernelEvent,
    KernelMonitor,
    LinkChanged,
)
from locum.machine.links import Links
from locum.node.driver import Driver
from locum.node.kernel_calls import KernelCalls
from locum.node.kernel_news import KernelNews, Look
from locum.node.port_watch import PortWatch, Situation
from locum.node.steps import Steps
from locum.threads import NoAnswer

#: Pause before the kernel is asked again after it did not answer, in seconds.
AGAIN = 1.0
#: Limit for reading scripts' files in the runtime directory, in seconds.
FILE_LIMIT = 5.0


class KernelWatch:
    """Watches the network namespace of the agent."""

    def __init__(
        self,
        driver: Driver,
        steps: Steps,
        engine: EventEngine,
        gate: Gate | None,
        calls: KernelCalls,
        runtime: str,
        log: Callable[[str, str], None],
    ) -> None:
        self._calls = calls
        self._driver = driver
        self._steps = steps
        self._log = log
        self._table = AddressTable()
        self._links = Links()
        self.news = KernelNews(driver, steps, calls, self._table, self._links, log)
        self._monitor = KernelMonitor(self._event)
        self._listeners = ListenerWatch(self._port_gone)
        self._ports = PortWatch(
            os.path.join(runtime, "listen"),
            situation=self._situation,
            watch=self._listeners.watch,
            look=self._listeners.look,
            closed=self._port_closed,
        )
        self._gate = gate
        self._gate_watch: GateWatch | None = None
        if gate is not None:
            self._gate_watch = GateWatch(
                (gate.port,),
                self.news.gate_damaged,
                lambda: calls.on_gate("looking at the gate", gate.verify),
                gate.loaders,
            )
            calls.culprit = self._gate_watch.other
        self._learning = Look(self._learn)
        self._engine = engine
        self._again = os.path.join(runtime, "again")
        self._timers: dict[str, asyncio.TimerHandle] = {}
        steps.on_event = self._event_ended

    def start(self) -> None:
        """Begin to watch, and examine everything once."""
        loop = asyncio.get_running_loop()
        self._monitor.start(loop)
        self._listeners.start(loop)
        if self._gate_watch is not None:
            self._gate_watch.start(loop)
        self._learning.wanted()
        self.news.background.start(self._with_ports(self._ports.read))

    def close(self) -> None:
        """Stop watching."""
        for timer in self._timers.values():
            timer.cancel()
        self._learning.close()
        self.news.close()
        self._monitor.close()
        self._listeners.close()
        if self._gate_watch is not None:
            self._gate_watch.close()
        self._table.close()
        self._links.close()

    # -- the kernel's messages -------------------------------------------------------------------------------

    def _event(self, event: KernelEvent) -> None:
        if isinstance(event, LinkChanged | AddressRemoved | AddressAdded):
            self.news.heard(event)
            if isinstance(event, LinkChanged):
                self.news.background.start(self._cover_interfaces())
        else:
            self._learning.wanted()

    async def _learn(self) -> None:
        """Let the monitor list links and addresses: at the start, and after messages were lost."""
        self._monitor.expect()
        present = None
        try:
            present = await self._calls.on_addresses("listing links and addresses", self._monitor.look)
        except LocumError as error:
            self._log(f"{error}; trying again", "error")
            self._timers["learn"] = asyncio.get_running_loop().call_later(AGAIN, self._learning.wanted)
        self._monitor.learn(present)
        self.news.look()

    async def _cover_interfaces(self) -> None:
        """Cover an interface that came back: before Linux 6.16 its egress chain was deleted with the interface."""
        if self._gate is not None:
            try:
                await self._calls.on_gate("covering an interface", self._gate.ensure_interfaces)
            except LocumError as error:
                self._log(f"the gate cannot cover an interface: {error}", "error")

    # -- listening sockets -----------------------------------------------------------------------------------

    def _event_ended(self, result: EventResult) -> None:
        self.news.background.start(self._with_ports(self._ports.event_ended))
        if result.event is REPEATED:
            self.news.background.start(self._look_again())

    async def _look_again(self) -> None:
        """Run monitor soon when a script that tolerates single failures asks for it (``monitor_again``)."""
        with contextlib.suppress(OSError, NoAnswer):
            await self._calls.files.run("looking whether monitor is to run again", FILE_LIMIT, os.unlink, self._again)
            loop = asyncio.get_running_loop()
            self._timers["monitor"] = loop.call_later(
                REPEAT_PAUSE, self._driver.feed, self._driver.node.trigger_monitor
            )

    def _situation(self) -> Situation:
        in_use = self._engine.in_use
        enabled = frozenset(script.name for script in in_use.scripts if script.enabled)
        return Situation(self._driver.node.leaving, self._engine.running, enabled or None)

    def _port_gone(self, port: int) -> None:
        self.news.background.start(self._with_ports(self._ports.gone, port))

    async def _with_ports(self, act: Callable[..., None], *arguments: int) -> None:
        """Call ``act`` after the declarations of scripts were read, or could not be read."""
        with contextlib.suppress(NoAnswer):
            await self._calls.files.run("reading declared ports", FILE_LIMIT, self._ports.load)
        act(*arguments)

    def _port_closed(self, port: int) -> None:
        self._log(f"port {port} has no listener any longer: running monitor", "warning")
        self._driver.feed(self._driver.node.trigger_monitor)
