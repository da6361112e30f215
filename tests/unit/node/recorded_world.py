"""The machine and the store of the playbooks: ports that write down each call and answer as the scene wants."""

from __future__ import annotations

import asyncio
import errno
import selectors
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast

from locum.config.tunables import Tunables
from locum.errors import NetlinkError
from locum.events.model import Event, EventResult
from locum.events.runner.results import Outcome, ScriptResult
from locum.machine.addresses import Address
from locum.machine.gate.gate import ArmedSlot
from locum.machine.links import LinkState
from locum.node.driver import Driver
from locum.node.kernel_news import KernelNews
from locum.node.ports import CallsPort
from locum.node.steps import Steps
from locum.rules import effects as fx
from locum.rules.node import Node
from locum.store.base import Batch, CommitResult, Snapshot
from tests.unit.node.recorded_store import RecordedStore
from tests.unit.node.slow_calls import SlowCalls

T = TypeVar("T")

ADDRESS, OTHER, FORMER = "10.0.0.1", "10.0.0.2", "10.0.0.7"


class _NothingElse(selectors.DefaultSelector):
    """A scene has no other source of events: where a loop would wait, the scene would hang."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            raise RuntimeError("the scene waits for something that never happens")
        return super().select(timeout)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes when the scene says so."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_NothingElse())

    def time(self) -> float:
        """Seconds of the scene."""
        return self.now


class World:
    """The recording ports, and what goes wrong in a scene.

    ``refuses`` are calls that fail. ``gated``: there is a gate. ``announces``: AnnounceCount. It belongs to the event
    loop that runs, a :class:`Loop`.
    """

    def __init__(self, refuses: Iterable[str] = (), *, gated: bool = True, announces: int = 1) -> None:
        self.lines: list[str] = []
        self.refuses = set(refuses)
        #: The begin of a call → what happens during it, once.
        self.at: dict[str, Callable[[], object]] = {}
        self.now = 100.0
        self.deadline = 150.0
        self.incarnation = "abc"
        #: What the rules say of themselves.
        self.member, self.current_at = True, 0.0
        self.rules_gone = False
        self.held: set[str] = set()
        self.notes = {ADDRESS: ("abc", "eth0"), OTHER: ("old", "eth0")}
        #: What an agent finds in the kernel at its start; and (address, interface) that procedures have configured.
        self.present = {ADDRESS: "eth0"}
        self.present_now: set[tuple[str, str]] = set()
        self.node = _Node(self)
        self.steps = Steps(
            clock=self,
            table=_Table(self),
            gate=_Gate(self) if gated else None,
            lifetime=3,
            announcer=_Announcer(self),
            engine=_Scripts(self),
            page=_Page(self),
            notes=_Notes(self),
            connections=_Connections(self),
            calls=cast(CallsPort, _Calls()),
            wire=_Wire(self),
            tunables=lambda: Tunables(announce_count=announces),
            log=lambda *_: None,
        )
        self.steps.engine_ready.set()
        self.steps.addresses.on_gone = lambda address: self.lines.append(f"gone: {address}")
        node = cast(Node, self.node)
        self.store = RecordedStore(self)
        self.driver = Driver(node, self.store, self.steps, cast(Any, None), self, lambda *_: None)
        self.news = KernelNews(
            self.driver, self.steps, cast(CallsPort, _Calls()), _Table(self), _Links(self), lambda *_: None
        )

    def say(self, line: str) -> None:
        """Write a call down; raise when the scene has it refused. What the scene has ``at`` this call happens now."""
        self.lines.append(line)
        for call in [call for call in self.at if line.startswith(call)]:
            self.at.pop(call)()
        for refused in self.refuses:
            if line.startswith(refused):
                self.lines[-1] += " - refused"
                raise NetlinkError("refused", 1)

    def log(self, text: str, _level: str) -> None:
        """A line of the log."""
        self.lines.append(f"log: {text}")

    def boot(self) -> float:
        """Time goes on with every look at it, so that the order of looks shows."""
        self.now += 0.001
        return self.now

    def wall(self) -> float:
        """Unix time."""
        return 1e9

    async def effect(self, effect: fx.Effect) -> None:
        """The rules ask for ``effect``; returns when all of it is done."""
        self.node.effects.append(effect)
        self.driver.feed(self.node.tick)
        await self.settle()

    async def settle(self) -> None:
        """Let everything happen that needs no time."""
        for _ in range(50):
            await asyncio.sleep(0)

    async def elapse(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop.now += seconds
        await self.settle()

    def slow(self) -> None:
        """From now on, calls of the kernel and of files are carried out in later turns of the loop."""
        steps, calls = self.steps, cast(CallsPort, SlowCalls())
        for part in (steps, steps.gate, steps.addresses, steps.announcements, self.news):
            part._calls = calls

    def drop(self) -> None:
        """The rules drop the hold."""
        self.steps.drop()

    def holding(self) -> None:
        """The address is held, and nothing of this is written down."""
        self.steps.addresses.configured[ADDRESS] = self.steps.addresses.held[ADDRESS] = (24, "eth0")
        self.held.add(ADDRESS)


class _Node:
    """The rules, as the agent sees them: inputs are written down."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.effects: list[fx.Effect] = []
        #: The view: the number of its changes, and what is known of the store's history.
        self.view, self.changes, self.known = self, 0, 1
        #: Input → the effects with which the rules answer it, once.
        self.answers: dict[str, list[fx.Effect]] = {}
        self.wakeup = float("inf")
        #: Whether the passing of time is written down.
        self.writes_ticks = False
        self.hosted = {ADDRESS: None, OTHER: None}
        self.activity: str | None = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        def given(*arguments: object) -> None:
            what = [_text(argument) for argument in arguments[:-2]]
            self._world.lines.append(f"rules: {' '.join([name, *what])}".rstrip())
            self.effects += self.answers.pop(name, [])

        return given

    def tick(self, now: float, _wall: float) -> None:
        """Time has passed. What was due is done."""
        if self.writes_ticks:
            self._world.lines.append("rules: tick")
        if now >= self.wakeup:
            self.wakeup = float("inf")

    def take_effects(self) -> list[fx.Effect]:
        """What the scene asks for."""
        effects, self.effects = self.effects, []
        return effects

    def take_occurrences(self) -> list[object]:
        """Nothing is told of."""
        return []

    def next_wakeup(self) -> float:
        """When something is due."""
        return self.wakeup

    def status(self) -> Any:
        """What the agent asks for."""
        return Status(member=self._world.member, current_at=self._world.current_at)


class Status(NamedTuple):
    """What the agent asks the rules for."""

    hold: float = 2.0
    unsure: tuple[str, ...] = ()
    member: bool = True
    current_at: float = 0.0


def _text(value: object) -> str:
    if isinstance(value, CommitResult):
        return "accepted" if value.accepted else "refused"
    if isinstance(value, Batch | Snapshot):
        return f"{type(value).__name__.lower()} {value.revision}"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


class _Gate:
    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def held(self) -> frozenset[str]:
        return frozenset(self._world.held)

    def arm(self, slot: int, hold: float) -> ArmedSlot:
        self._world.say(f"gate: arm slot {slot} for {hold} s")
        return ArmedSlot(slot, 1)

    def confirm(self, armed: ArmedSlot) -> bool:
        self._world.say(f"gate: open slot {armed.slot}")
        return True

    def allow(self, addresses: Iterable[str]) -> None:
        self._world.say(f"gate: let {' '.join(sorted(addresses))} through")
        self._need_rules()
        self._world.held |= set(addresses)

    def deny(self, addresses: Iterable[str]) -> None:
        self._world.say(f"gate: mute {' '.join(sorted(addresses))}".rstrip())
        self._world.held -= set(addresses)
        self._need_rules()

    def shut(self) -> None:
        self._world.say("gate: shut")

    def configure(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        self._world.say(f"gate: judge {' '.join(public)} on {' '.join(interfaces)}")

    def restore(self) -> None:
        self._world.say("gate: put back")
        self._world.rules_gone = False

    def _need_rules(self) -> None:
        if self._world.rules_gone:
            raise NetlinkError("no such table", errno.ENOENT)


class _Table:
    def __init__(self, world: World) -> None:
        self._world = world

    def list(self) -> list[Address]:
        return [Address(address, 24, name, permanent=False) for address, name in self._world.present.items()]

    def add(self, address: str, bits: int, interface: str, lifetime: int | None = None) -> None:
        self._world.say(f"kernel: add {address}/{bits} to {interface} for {lifetime} s")
        self._world.present_now.add((address, interface))

    def remove(self, address: str, bits: int, interface: str) -> bool:
        self._world.say(f"kernel: remove {address}/{bits} from {interface}")
        self._world.present_now.discard((address, interface))
        return True

    def renew(self, items: Iterable[tuple[str, int, str]], lifetime: int) -> tuple[Any, ...]:
        items = list(items)
        names = " ".join(address for address, _, _ in items)
        try:
            self._world.say(f"kernel: renew {names} for {lifetime} s")
        except NetlinkError as error:
            return tuple((item, error) for item in items)
        return ()

    def put_last(self, items: Sequence[Any], lifetime: int) -> None:
        self._world.say(f"kernel: put {' '.join(item[0] for item in items)} last")


class _Links:
    def __init__(self, world: World) -> None:
        self._world = world

    def list(self) -> Mapping[str, LinkState]:
        self._world.say("kernel: list links")
        return {"eth0": LinkState("eth0", 2, False)}


class _Page:
    slot, revision, quiet = 1, 20, 0.0

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def deadline(self) -> float:
        return self._world.deadline

    @property
    def incarnation(self) -> str:
        return self._world.incarnation

    def confirm(self, incarnation: str, slot: int, deadline: float, revision: int, quiet: float) -> None:
        self._world.say(f"page: {incarnation} holds until {deadline} by slot {slot}, revision {revision}")
        self._world.deadline = deadline

    def clear(self) -> None:
        self._world.say("page: no hold")
        self._world.deadline = 0.0

    def beat(self, now: float) -> None:
        self._world.say(f"page: runs at {now:.0f}")


class _Notes:
    def __init__(self, world: World) -> None:
        self._world = world
        self._notes = world.notes

    def add(self, address: str, incarnation: str, interface: str) -> None:
        self._world.say(f"note: {address} held on {interface} by {incarnation}")

    def remove(self, address: str) -> None:
        self._world.say(f"note: none of {address}")

    def of(self, incarnation: str) -> dict[str, str]:
        return {address: name for address, (whose, name) in self._world.notes.items() if whose == incarnation}

    def addresses(self) -> list[str]:
        return list(self._world.notes)

    def clear(self) -> None:
        self._world.say("note: none at all")


class _Scripts:
    def __init__(self, world: World) -> None:
        self._world = world

    async def start(self) -> None:
        self._world.say("scripts: the runner starts")

    async def handled(self) -> tuple[str, ...]:
        await asyncio.sleep(0)
        self._world.say("scripts: which events are handled")
        return ("monitor",)

    async def run(
        self,
        event: Event,
        arguments: tuple[str, ...] = (),
        *,
        environment: Callable[[], Mapping[str, str]] = dict,
    ) -> EventResult:
        present = environment().get("LOCUM_ADDRESSES", "")
        try:
            self._world.say(f"scripts: {' '.join([event, *arguments])}" + (f" beside {present}" if present else ""))
        except NetlinkError:
            failed = ScriptResult("50.web", Outcome.FAILED, 1, reason="no")
            return EventResult(event, arguments, 0.0, 0.0, (failed,))
        if f"{event} never ends" in self._world.refuses:
            await asyncio.Event().wait()
        return EventResult(event, arguments, 0.0, 0.0, ())


class _Announcer:
    def __init__(self, world: World) -> None:
        self._world = world

    def announce(self, interface: str, *addresses: str) -> bool:
        self._world.say(f"announce {' '.join(addresses)} on {interface}")
        return "no announcement" not in self._world.refuses


class _Connections:
    def __init__(self, world: World) -> None:
        self._world = world

    async def taking(self, address: str) -> None:
        self._world.say(f"connections: taking {address}")

    def taken(self, address: str, interface: str) -> None:
        self._world.say(f"connections: taken {address}")

    def adopted(self, address: str, interface: str) -> None:
        self._world.say(f"connections: adopted {address}")

    def updated(self, address: str, interface: str) -> None:
        self._world.say(f"connections: updated {address}")

    async def releasing(self, address: str) -> None:
        self._world.say(f"connections: releasing {address}")

    async def released(self, address: str) -> int:
        self._world.say(f"connections: released {address}")
        return 0

    def dropped(self, addresses: Iterable[str]) -> None:
        self._world.say(f"connections: dropped {' '.join(addresses)}".rstrip())


class _Wire:
    def __init__(self, world: World) -> None:
        self._world = world

    async def probe(self, items: Sequence[tuple[str, str]]) -> dict[str, str]:
        return {}

    def occupant(self, address: str) -> str | None:
        return "02:00:00:00:00:07" if "occupied" in self._world.refuses else None

    def holds(self, address: str, interface: str) -> None:
        self._world.say(f"wire: {address} on {interface} is ours")

    def gone(self, address: str) -> None:
        self._world.say(f"wire: {address} is not ours")


class _Worker:
    async def run(self, what: str, limit: float | None, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


class _Calls:
    """Calls are carried out at once, in order."""

    gate = addresses = files = _Worker()

    def start(self, worker: Any, what: str, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    async def on_gate(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    async def on_addresses(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def in_world(scene: Coroutine[Any, Any, T]) -> T:
    """Run ``scene`` in a loop of its own."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(scene)
