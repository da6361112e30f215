"""The ports of :mod:`locum.node.ports` on a simulated machine.

Rules of this file: every call makes steps, before and after its effect, and the process may be stopped or killed at
each. What a call does, it does to :mod:`locum_sim.simulated_kernel`, the page, the notes and the scripts of
the machine; these outlive the process.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ParamSpec, TypeVar

from locum.config.tunables import Tunables
from locum.errors import LocumError, NetlinkError
from locum.events.decisions import decide
from locum.events.model import Event, EventResult, Kind, Script
from locum.events.runner.protocol import Job
from locum.events.runner.results import Outcome, ScriptResult
from locum.machine.addresses import Address, Item
from locum.machine.gate.gate import ArmedSlot, GateState
from locum.machine.links import LinkState
from locum.machine.wire_watch import PROBE_INTERVAL, PROBE_WAIT, PROBES
from locum.node.guard.hold_page import HoldPage
from locum_sim.loop import SimulatedLoop
from locum_sim.machine_state import MachineState
from locum_sim.scripts import Child

P = ParamSpec("P")
T = TypeVar("T")
Addresses = list[Address]
Step = Callable[[], None]

#: How long the agent asks on the wire for addresses that the cluster never held, in seconds.
PROBE_TIME = PROBES * PROBE_INTERVAL + PROBE_WAIT - PROBE_INTERVAL
#: How long ``init`` and ``setup`` take, shortest and longest, and the start of the script runner, in seconds.
FIRST_EVENTS, RUNNER_START = (0.01, 0.05), (0.02, 0.2)
#: The scripts of a simulated machine, as one.
SERVICE = Script("50.service", "50.service", True, Kind.BINARY, None)


class SimulatedHoldPage(HoldPage):
    """The page as one of the two processes of a machine has mapped it: ``memory`` is shared. ``step`` is called after
    every write."""

    def __init__(self, memory: bytearray, written: Callable[[], None], step: Step) -> None:
        super().__init__(memory)
        self._written = written
        self.step = step

    def _changed(self) -> None:
        self._written()
        self.step()


class SimulatedClock:
    """The clocks of a machine, read by the process with ``loop``. The machine keeps its last look, for the checks."""

    def __init__(self, machine: MachineState, loop: SimulatedLoop) -> None:
        self._machine = machine
        self._clock = machine.clock
        self._loop = loop
        self._step = loop.step

    def boot(self) -> float:
        """See :class:`locum.clock.Clock`. The process may be stopped right after it has read the time."""
        now = self._clock.boot()
        self._machine.last_look = (self._loop.turns, now)
        self._step()
        return now

    def wall(self) -> float:
        """See :class:`locum.clock.Clock`."""
        now = self._clock.wall()
        self._step()
        return now


class SimulatedGate:
    """See :class:`locum.node.ports.GatePort`. Like the real one it remembers which arming of a slot was the last."""

    def __init__(self, machine: MachineState, step: Step) -> None:
        self._kernel = machine.kernel
        self._clock = machine.clock
        self._step = step
        self._serials: dict[int, int] = {}

    def judged(self) -> tuple[str, ...]:
        """See :class:`locum.node.guard.ports.GatePort`."""
        self._step()
        return tuple(sorted(self._kernel.judged))

    def install(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        """See :class:`locum.node.guard.ports.GatePort`."""
        self._step()
        self._kernel.install_gate(public)
        self._step()

    def adopt(self, public: Iterable[str], interfaces: Iterable[str]) -> bool:
        """See :class:`locum.node.guard.enforcement.AgentGate`."""
        self._step()
        adopted = self._kernel.adopt_gate(public)
        self._step()
        return adopted

    def state(self) -> GateState:
        """See :class:`locum.node.guard.enforcement.AgentGate`."""
        return GateState(True)

    def remove(self) -> None:
        """See :class:`locum.node.guard.ports.GatePort`."""
        self._step()
        self._kernel.remove_gate()
        self._step()

    def close(self) -> None:
        """See :class:`locum.node.guard.ports.GatePort`."""

    @property
    def held(self) -> frozenset[str]:
        """See GatePort."""
        return frozenset(self._kernel.held)

    def arm(self, slot: int, hold: float) -> ArmedSlot:
        """See GatePort."""
        self._step()
        until = self._clock.wall() + hold
        self._step()
        self._check("be armed")
        self._kernel.arm(slot, hold, until)
        serial = self._serials[slot] = self._serials.get(slot, 0) + 1
        self._step()
        return ArmedSlot(slot, serial)

    def confirm(self, armed: ArmedSlot) -> bool:
        """See GatePort."""
        self._step()
        if self._serials.get(armed.slot) != armed.serial:
            return False
        self._kernel.confirm(armed.slot)
        self._step()
        return True

    def allow(self, addresses: Iterable[str]) -> None:
        """See GatePort."""
        self._step()
        self._need_rules("let addresses through the gate")
        for address in addresses:
            self._kernel.allow(address)
        self._step()

    def deny(self, addresses: Iterable[str]) -> None:
        """See GatePort. The gate's object forgets the addresses even if the kernel has no rules."""
        self._step()
        self._kernel.deny(addresses)
        self._need_rules("shut addresses out at the gate")
        self._step()

    def configure(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        """See GatePort."""
        self._step()
        self._need_rules("change the gate's public addresses")
        self._kernel.configure_gate(public)
        self._step()

    def shut(self) -> None:
        """See GatePort."""
        self._step()
        self._kernel.shut()
        self._serials.clear()
        self._step()

    def restore(self) -> None:
        """See GatePort."""
        self._step()
        self._kernel.restore_rules()
        self._serials.clear()
        self._step()

    def _need_rules(self, what: str) -> None:
        if self._kernel.lawless:
            raise NetlinkError(f"cannot {what}", errno.ENOENT)

    def _check(self, what: str) -> None:
        if self._kernel.gate_fails:
            raise NetlinkError(f"the gate cannot {what}", errno.ENOSPC)


class SimulatedTable:
    """See :class:`locum.node.ports.TablePort`."""

    def __init__(self, machine: MachineState, step: Step) -> None:
        self._kernel = machine.kernel
        self._bits = {h.address: h.bits for h in machine.identity.addresses}
        self._step = step

    def list(self) -> Addresses:
        """See TablePort."""
        self._step()
        present = self._kernel.addresses.items()
        found = [
            Address(address, self._bits.get(address, 24), name, self._kernel.is_permanent(address))
            for address, (name, _) in present
        ]
        self._step()
        return found

    def add(self, address: str, bits: int, interface: str, lifetime: int | None = None) -> None:
        """See TablePort."""
        assert lifetime is not None
        self._step()
        if not self._kernel.add(address, interface, lifetime):
            raise _refused(address)
        self._step()

    def remove(self, address: str, bits: int, interface: str) -> bool:
        """See TablePort."""
        self._step()
        was_there = self._kernel.addresses.get(address, ("", 0.0))[0] == interface
        self._kernel.remove(address, interface)
        self._step()
        return was_there

    def renew(self, items: Iterable[Item], lifetime: int) -> tuple[tuple[Item, LocumError], ...]:
        """See TablePort."""
        self._step()
        refused = [item for item in items if not self._kernel.renew(item[0], item[2], lifetime)]
        self._step()
        return tuple((item, _refused(item[0])) for item in refused)

    def put_last(self, items: Sequence[Item], lifetime: int) -> None:
        """The simulated kernel keeps no order."""


def _refused(address: str) -> NetlinkError:
    return NetlinkError(f"the kernel refuses {address}", errno.EINVAL)


class SimulatedLinks:
    """See :class:`locum.node.ports.LinksPort`."""

    def __init__(self, machine: MachineState, step: Step) -> None:
        self._kernel = machine.kernel
        self._step = step

    def list(self) -> Mapping[str, LinkState]:
        """See LinksPort."""
        self._step()
        return {name: LinkState(name, number, up) for number, (name, up) in enumerate(self._kernel.links.items())}


class SimulatedNotes:
    """See :class:`locum.node.ports.NotesPort`."""

    def __init__(self, machine: MachineState, step: Step) -> None:
        self._notes = machine.notes
        self._step = step

    def add(self, address: str, incarnation: str, interface: str) -> None:
        """See NotesPort."""
        self._step()
        self._notes[address] = (incarnation, interface)
        self._step()

    def remove(self, address: str) -> None:
        """See NotesPort."""
        self._step()
        self._notes.pop(address, None)
        self._step()

    def addresses(self) -> Sequence[str]:
        """See :class:`locum.node.guard.ports.NotesPort`."""
        self._step()
        return list(self._notes)

    def of(self, incarnation: str) -> dict[str, str]:
        """See NotesPort."""
        return {a: name for a, (whose, name) in self._notes.items() if whose == incarnation}

    def clear(self) -> None:
        """See NotesPort."""
        self._step()
        self._notes.clear()
        self._step()


class SimulatedWorker:
    """A thread of the process: calls are carried out in order, each in a turn of the loop, often at once."""

    def __init__(self, machine: MachineState) -> None:
        self._machine = machine
        self._calls: deque[Callable[[], None]] = deque()
        self._working = False

    def submit(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> asyncio.Future[T]:
        """Hand a call over."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def call() -> None:
            if future.cancelled():
                return
            try:
                result = function(*arguments, **named)
            except Exception as error:
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        self._calls.append(call)
        if not self._working:
            self._working = True
            self._later()
        return future

    def _later(self) -> None:
        loop = asyncio.get_running_loop()
        random = self._machine.random
        if random.random() < 0.9:
            loop.call_soon(self._work)
        else:
            loop.call_later(random.random() * 0.002, self._work)

    def _work(self) -> None:
        self._calls.popleft()()
        if self._calls:
            self._later()
        else:
            self._working = False

    async def run(
        self, what: str, limit: float | None, function: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """See WorkerPort."""
        return await self.submit(function, *arguments, **named)


class SimulatedCalls:
    """See :class:`locum.node.ports.CallsPort`."""

    def __init__(self, machine: MachineState) -> None:
        self.gate = SimulatedWorker(machine)
        self.addresses = SimulatedWorker(machine)
        self.files = SimulatedWorker(machine)

    def start(
        self, worker: SimulatedWorker, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> asyncio.Future[T]:
        """See CallsPort."""
        return worker.submit(function, *arguments, **named)

    async def on_gate(self, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """See CallsPort."""
        return await self.gate.submit(function, *arguments, **named)

    async def on_addresses(self, what: str, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """See CallsPort."""
        return await self.addresses.submit(function, *arguments, **named)


class SimulatedScripts:
    """See :class:`locum.node.ports.ScriptsPort`: scripts take their time, fail, hang, and change the kernel midway."""

    def __init__(self, machine: MachineState, loop: SimulatedLoop, tunables: Callable[[], Tunables]) -> None:
        self._machine = machine
        self._loop = loop
        self._step = loop.step
        self._tunables = tunables

    async def start(self) -> None:
        """See ScriptsPort. The runner starts nothing before the script that an earlier runner left has ended."""
        await asyncio.sleep(self._machine.random.uniform(*RUNNER_START))
        self._machine.kill_children()

    async def handled(self) -> tuple[str, ...]:
        """See ScriptsPort."""
        return self._machine.handles

    async def run(
        self,
        event: Event,
        arguments: tuple[str, ...] = (),
        *,
        environment: Callable[[], Mapping[str, str]] = dict,
    ) -> EventResult:
        """See ScriptsPort."""
        machine = self._machine
        if event in (Event.INIT, Event.SETUP):
            await asyncio.sleep(machine.random.uniform(*FIRST_EVENTS))
            return EventResult(event, arguments, 0.0, 0.0, ())
        self._step()
        plan = decide(event, arguments, (SERVICE,), None)
        given = environment()
        (job,) = plan.jobs(self._tunables(), lambda _: given)
        loop = asyncio.get_running_loop()
        done: asyncio.Future[ScriptResult] = loop.create_future()
        self._launch(event, job, done)
        try:
            answer = await done
        except asyncio.CancelledError:
            machine.kill_children()
            raise
        return EventResult(event, arguments, 0.0, 0.0, tuple(plan.results([answer])))

    def _launch(self, event: Event, job: Job, done: asyncio.Future[ScriptResult]) -> None:
        machine, observers = self._machine, self._machine.observers
        address = job.arguments[-2] if job.arguments else ""
        seconds, result = machine.behaviour.draw(job)
        ok = result.outcome is Outcome.OK
        observers.checks.event_started(machine.name, event, address)

        def answer() -> None:
            if not done.done():
                done.set_result(result)

        def ended() -> None:
            machine.child = None
            observers.checks.event_ended(machine.name, event, address, ok)
            self._loop.post("scripts", answer)

        # What fails may fail before or after it has done its work.
        part = machine.random.random()
        act = self._midway(event, job.arguments, job.environment)
        if act is not None and not ok and machine.random.random() < 0.5:
            act = None
        machine.child = Child(machine.run.engine, seconds, part, act, ended)
        if machine.children_stopped:
            machine.child.freeze()

    def _midway(
        self, event: Event, arguments: tuple[str, ...], environment: Mapping[str, str]
    ) -> Callable[[], None] | None:
        """What ``10.interface`` does to the kernel in this event."""
        machine = self._machine
        if event is Event.RELEASEIP:
            interface, address, _ = arguments
            return lambda: machine.kernel.remove(address, interface)
        if event not in (Event.TAKEIP, Event.UPDATEIP):
            return None
        interface, address, _ = arguments[-3:]
        deadline, lifetime = float(environment["LOCUM_DEADLINE"]), int(environment["LOCUM_LIFETIME"])

        def add() -> None:
            if machine.clock.boot() < deadline or machine.random.random() < 0.1:
                machine.kernel.add(address, interface, lifetime)

        return add


class SilentWire:
    """See :class:`locum.node.ports.WirePort`: no other machine uses an address."""

    async def probe(self, items: Sequence[tuple[str, str]]) -> dict[str, str]:
        """See WirePort."""
        await asyncio.sleep(PROBE_TIME)
        return {}

    def occupant(self, address: str) -> str | None:
        """See WirePort."""
        return None

    def holds(self, address: str, interface: str) -> None:
        """See WirePort."""

    def gone(self, address: str) -> None:
        """See WirePort."""


class NoConnections:
    """See :class:`locum.node.ports.ConnectionsPort`: no client is connected."""

    async def taking(self, address: str) -> None:
        """See ConnectionsPort."""

    def taken(self, address: str, interface: str) -> None:
        """See ConnectionsPort."""

    def adopted(self, address: str, interface: str) -> None:
        """See ConnectionsPort."""

    def updated(self, address: str, interface: str) -> None:
        """See ConnectionsPort."""

    async def releasing(self, address: str) -> None:
        """See ConnectionsPort."""

    async def released(self, address: str) -> int:
        """See ConnectionsPort."""
        return 0

    def dropped(self, addresses: Iterable[str]) -> None:
        """See ConnectionsPort."""


class Heard:
    """See :class:`locum.node.ports.AnnouncePort`: neighbours hear everything."""

    def announce(self, interface: str, *addresses: str) -> bool:
        """See AnnouncePort."""
        return True
