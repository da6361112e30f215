"""What the kernel tells unasked: links, addresses, listening sockets; turned into inputs of the rules.

A public address that is configured here but not ours (left by a killed daemon, added by hand) goes away at once; one
of ours that somebody removed comes back; a listening socket that a script declared and that closed runs ``monitor``,
as does a script's wish to look again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

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
from locum.agent.port_watch import PortWatch, Situation
from locum.connections.listeners import ListenerWatch
from locum.errors import LocumError
from locum.events.engine import EventEngine
from locum.events.model import Event, EventResult

#: When ``monitor`` runs again that a script wanted to be run again, in seconds.
AGAIN = 1.0


class KernelWatch:
    """Watches the network namespace of the agent."""

    def __init__(
        self,
        driver: Driver,
        acts: Acts,
        engine: EventEngine,
        gate: Gate | None,
        runtime: str,
        log: Callable[[str, str], None],
    ) -> None:
        self._driver = driver
        self._acts = acts
        self._log = log
        self._table = AddressTable()
        self._links = Links()
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
        self._gate_watch = GateWatch(gate, self._gate_damaged) if gate is not None else None
        self._engine = engine
        self._again = os.path.join(runtime, "again")
        self._timer: asyncio.TimerHandle | None = None
        acts.on_event = self._event_ended

    def start(self) -> None:
        """Begin to watch, and look once at everything."""
        loop = asyncio.get_running_loop()
        self._monitor.start(loop)
        self._listeners.start(loop)
        if self._gate_watch is not None:
            self._gate_watch.start(loop)
        self._read_links()
        self._ports.read()
        self._audit()

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
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
                self._read_links()
                self._cover_interfaces()
            case AddressRemoved(address=address, interface=interface):
                self._driver.feed(self._driver.node.address_removed, address, interface)
            case AddressAdded(address=address, bits=bits, interface=interface):
                self._acts.appeared(address, interface)
                self._check(address, bits, interface)
            case _:
                self._read_links()
                self._audit()

    def _cover_interfaces(self) -> None:
        """An interface that came back has no egress chain yet: before Linux 6.16 the chain goes with the interface."""
        if self._gate is not None:
            try:
                self._gate.ensure_interfaces()
            except LocumError as error:
                self._log(f"the gate cannot cover an interface: {error}", "error")

    def _read_links(self) -> None:
        links = {name: state.up for name, state in self._links.list().items()}
        self._driver.feed(self._driver.node.links_changed, links)

    def _audit(self) -> None:
        """Compare what is configured with what should be, after messages were lost."""
        present = set()
        for found in self._table.list():
            present.add((found.address, found.interface))
            self._check(found.address, found.bits, found.interface)
        for address, (_, interface) in list(self._acts.configured.items()):
            if (address, interface) not in present:
                self._driver.feed(self._driver.node.address_removed, address, interface)

    def _check(self, address: str, bits: int, interface: str) -> None:
        """Remove a public address that is not ours to serve, or not there."""
        node = self._driver.node
        if address not in node.serving.hosted:
            return
        configured = self._acts.configured.get(address)
        if configured is not None and (configured[1] == interface or not node.desk.idle):
            return
        self._log(f"{address} was found on {interface} and is not served there: removing it", "warning")
        try:
            self._table.remove(address, bits, interface)
        except LocumError as error:
            self._log(f"cannot remove {address} from {interface}: {error}", "error")

    def _gate_damaged(self, problems: tuple[str, ...]) -> None:
        """Somebody changed our nftables rules, most likely by reloading a firewall."""
        self._log(f"{'; '.join(problems)}: restoring them", "warning")
        self._acts.restore_gate()
        # The gate is shut now; the next accepted beat opens it.
        self._driver.feed(self._driver.node.beat_now)
        if any("is gone" in problem for problem in problems):
            # Whatever took our tables took those of scripts along.
            self._driver.feed(self._driver.node.scripts_forget, tuple(self._acts.configured))

    # -- listening sockets -----------------------------------------------------------------------------------

    def _event_ended(self, result: EventResult) -> None:
        self._ports.event_ended()
        if result.event is Event.MONITOR:
            self._look_again()

    def _look_again(self) -> None:
        """A script that tolerates a failure once or twice wants to know soon whether it stays (``monitor_again``)."""
        with contextlib.suppress(OSError):
            os.unlink(self._again)
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(AGAIN, self._driver.feed, self._driver.node.trigger_monitor)

    def _situation(self) -> Situation:
        in_use = self._engine.in_use
        enabled = frozenset(script.name for script in in_use.scripts if script.enabled)
        return Situation(self._driver.node.leaving, self._engine.running, enabled or None)

    def _port_gone(self, port: int) -> None:
        self._ports.gone(port)

    def _port_closed(self, port: int) -> None:
        self._log(f"nothing listens on port {port} any more: running monitor", "warning")
        self._driver.feed(self._driver.node.trigger_monitor)
