"""Scenes of the agent's procedures over recording ports: given this, expect these calls, in this order.

Every port writes down what it is asked. A playbook is the list of those lines; ``playbooks.txt`` has the expected ones
(``python -m tests.unit.node.playbooks --rewrite`` writes it anew; the change is reviewed as text).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from locum.config.tunables import Tunables
from locum.errors import NetlinkError, StoreUnavailable
from locum.events.model import Event, EventResult
from locum.events.runner.results import Outcome, ScriptResult
from locum.machine.addresses import Address
from locum.machine.gate.gate import ArmedSlot
from locum.machine.kernel_monitor import AddressAdded, AddressRemoved, LinkChanged
from locum.machine.links import LinkState
from locum.node import life
from locum.node.driver import Driver
from locum.node.kernel_news import KernelNews
from locum.node.ports import CallsPort
from locum.node.steps import Steps
from locum.rules import effects as fx
from locum.rules.commit_kinds import CommitKind
from locum.rules.node import Adoption, Node
from locum.store.base import Commit, CommitResult, Snapshot

ADDRESS, OTHER = "10.0.0.1", "10.0.0.2"
BEAT = fx.SendBeat(7, 1, Commit((), (), {}), "abc", 2.0, 0.4)
TAKE = fx.TakeAddress(8, ADDRESS, 24, "eth0", "abc", True)
FILE = Path(__file__).with_name("playbooks.txt")


class World:
    """The recording ports, and what goes wrong in a scene: ``refuses`` are calls that fail."""

    def __init__(self, refuses: Iterable[str] = ()) -> None:
        self.lines: list[str] = []
        self.refuses = set(refuses)
        self.drops_at = ""
        self.now = 100.0
        self.deadline = 150.0
        self.incarnation = "abc"
        self.held: set[str] = set()
        self.notes = {ADDRESS: ("abc", "eth0"), OTHER: ("old", "eth0")}
        #: What an agent finds in the kernel at its start; and (address, interface) that procedures have configured.
        self.present = {ADDRESS: "eth0"}
        self.present_now: set[tuple[str, str]] = set()
        self.node = _Node(self)
        self.steps = Steps(
            clock=self,
            table=_Table(self),
            gate=_Gate(self),
            lifetime=3,
            announcer=_Announcer(self),
            engine=_Scripts(self),
            page=_Page(self),
            notes=_Notes(self),
            connections=_Connections(self),
            calls=cast(CallsPort, _Calls()),
            wire=_Wire(self),
            tunables=lambda: Tunables(announce_count=1),
            log=lambda *_: None,
        )
        self.steps.engine_ready.set()
        node = cast(Node, self.node)
        self.driver = Driver(node, _Store(self), self.steps, cast(Any, None), self, lambda *_: None)
        self.news = KernelNews(
            self.driver, self.steps, cast(CallsPort, _Calls()), _Table(self), _Links(self), lambda *_: None
        )

    def say(self, line: str) -> None:
        """Write a call down; raise when the scene has it refused. The hold is dropped with the call ``drops_at``."""
        self.lines.append(line)
        if self.drops_at and line.startswith(self.drops_at):
            self.drops_at = ""
            self.steps.drop()
        for refused in self.refuses:
            if line.startswith(refused):
                self.lines[-1] += " - refused"
                raise NetlinkError("refused", 1)

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
        for _ in range(50):
            await asyncio.sleep(0)

    def holding(self) -> None:
        """The address is held, and nothing of this is written down."""
        self.steps.configured[ADDRESS] = self.steps._renewable[ADDRESS] = (24, "eth0")
        self.held.add(ADDRESS)


class _Node:
    """The rules, as the agent sees them: inputs are written down."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.effects: list[fx.Effect] = []
        self.view = self

    def __getattr__(self, name: str) -> Callable[..., None]:
        def given(*arguments: object) -> None:
            what = [_text(argument) for argument in arguments[:-2]]
            self._world.lines.append(f"rules: {' '.join([name, *what])}".rstrip())

        return given

    def tick(self, *_: object) -> None:
        """Time has passed; not written down."""

    def take_effects(self) -> list[fx.Effect]:
        """What the scene asks for."""
        effects, self.effects = self.effects, []
        return effects

    def next_wakeup(self) -> float:
        """Nothing is due."""
        return float("inf")

    def status(self) -> Any:
        """What the agent asks for."""
        return _Status()


class _Status(NamedTuple):
    hold: float = 2.0
    hosted: Mapping[str, object] = {ADDRESS: None, OTHER: None}
    activity: str | None = None


def _text(value: object) -> str:
    if isinstance(value, CommitResult):
        return "accepted" if value.accepted else "refused"
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
        self._world.held |= set(addresses)

    def deny(self, addresses: Iterable[str]) -> None:
        self._world.say(f"gate: mute {' '.join(sorted(addresses))}".rstrip())
        self._world.held -= set(addresses)

    def shut(self) -> None:
        self._world.say("gate: shut")

    def restore(self) -> None:
        self._world.say("gate: put back")


class _Table:
    def __init__(self, world: World) -> None:
        self._world = world

    def list(self) -> list[Address]:
        return [Address(address, 24, name) for address, name in self._world.present.items()]

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
        pass


class _Links:
    def __init__(self, world: World) -> None:
        self._world = world

    def list(self) -> Mapping[str, LinkState]:
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

    def clear(self) -> None:
        self._world.say("note: none at all")


class _Scripts:
    def __init__(self, world: World) -> None:
        self._world = world

    async def start(self) -> None:
        self._world.say("scripts: the runner starts")

    async def handled(self) -> tuple[str, ...]:
        return ()

    async def run(
        self,
        event: Event,
        arguments: tuple[str, ...] = (),
        *,
        environment: Callable[[], Mapping[str, str]] = dict,
    ) -> EventResult:
        environment()
        try:
            self._world.say(f"scripts: {' '.join([event, *arguments])}")
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
        return True


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
        pass

    def gone(self, address: str) -> None:
        pass


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


class _Store:
    def __init__(self, world: World) -> None:
        self._world = world

    async def read(self, prefix: str) -> Snapshot:
        raise StoreUnavailable("not in these scenes")

    async def names(self, prefix: str) -> tuple[str, ...]:
        return ()

    async def commit(self, conditions: object, operations: object) -> CommitResult:
        self._world.lines.append("store: commit")
        await asyncio.sleep(0)
        if "no answer" in self._world.refuses:
            raise StoreUnavailable("no answer")
        return CommitResult("store: commit" not in self._world.refuses, 21)

    async def watch(self, prefix: str, after: int) -> Any:
        raise StoreUnavailable("not in these scenes")
        yield

    async def close(self) -> None:
        pass


# -- scenes -----------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """``act`` is what happens; ``refuses`` what fails; ``held`` whether the address is held before."""

    act: Callable[[World], Coroutine[Any, Any, None]]
    refuses: tuple[str, ...] = ()
    held: bool = False


async def _beat_and_confirm(world: World) -> None:
    await world.effect(BEAT)
    await world.effect(fx.ConfirmHold("abc", 1, 160.0, 21, 0.0))


async def _cancel(world: World) -> None:
    await world.effect(fx.RunEvent(9, "monitor"))
    await world.effect(fx.CancelActivity(9))


async def _take_too_late(world: World) -> None:
    world.deadline = 100.0
    await world.effect(TAKE)


def _dropping_at(call: str, effect: fx.Effect) -> Callable[[World], Coroutine[Any, Any, None]]:
    """The rules drop the hold while the procedure waits for ``call``."""

    async def act(world: World) -> None:
        world.drops_at = call
        await world.effect(effect)

    return act


async def _take_while_the_hold_ends(world: World) -> None:
    original = _Scripts.run

    async def run(self: _Scripts, event: Event, *arguments: Any, **named: Any) -> EventResult:
        result = await original(self, event, *arguments, **named)
        world.deadline = 0.0
        return result

    world.steps._engine.run = run.__get__(world.steps._engine)  # type: ignore[method-assign]
    await world.effect(TAKE)


async def _found(world: World) -> None:
    await life.take_over(life.adoption_of(_Page(world), _Notes(world), _Table(world)), {ADDRESS: 24}, world.steps)


async def _found_one_gone(world: World) -> None:
    world.present.clear()
    adoption: Adoption | None = life.adoption_of(_Page(world), _Notes(world), _Table(world))
    assert adoption is not None
    world.lines.append(f"adoption: held {sorted(adoption.held)}, missing {sorted(adoption.missing)}")
    await life.take_over(adoption, {ADDRESS: 24}, world.steps)


async def _found_nothing(world: World) -> None:
    world.incarnation = ""
    await _found(world)


async def _heard(world: World, event: AddressAdded | AddressRemoved | LinkChanged) -> None:
    world.news.heard(event)
    for _ in range(20):
        await asyncio.sleep(0)


async def _damage(world: World) -> None:
    world.news.gate_damaged(("table inet locum is gone",))
    for _ in range(20):
        await asyncio.sleep(0)


def _doing(effect: fx.Effect) -> Callable[[World], Coroutine[Any, Any, None]]:
    return lambda world: world.effect(effect)


def _hearing(event: AddressAdded | AddressRemoved | LinkChanged) -> Callable[[World], Coroutine[Any, Any, None]]:
    return lambda world: _heard(world, event)


RELEASE = fx.ReleaseAddress(8, ADDRESS, 24, "eth0")
UPDATE = fx.UpdateAddress(8, ADDRESS, 24, "eth0", "eth1", "abc")
RESTORE, AGAIN = fx.Restore(ADDRESS, 24, "eth0"), fx.TakeAgain(8, ADDRESS, 24, "eth0", "abc")

SCENES: dict[str, Scene] = {
    "a beat that is accepted": Scene(_doing(BEAT)),
    "a beat that is refused": Scene(_doing(BEAT), ("store: commit",)),
    "a beat without an answer": Scene(_doing(BEAT), ("no answer",)),
    "a beat whose slot cannot be armed": Scene(_doing(BEAT), ("gate: arm",)),
    "a beat, and the hold that it carries": Scene(_beat_and_confirm, held=True),
    "a hold that renews what the kernel refuses": Scene(_beat_and_confirm, ("kernel: renew",), held=True),
    "the hold is dropped": Scene(_doing(fx.DropHold()), held=True),
    "the hold is dropped, and the kernel refuses": Scene(
        _doing(fx.DropHold()), ("gate: shut", "gate: mute"), held=True
    ),
    "a take": Scene(_doing(TAKE)),
    "a take that the scripts refuse": Scene(_doing(TAKE), ("scripts: takeip",)),
    "a take that the kernel refuses": Scene(_doing(TAKE), ("kernel: add",)),
    "a take that the gate refuses": Scene(_doing(TAKE), ("gate: let",)),
    "a take after the end of the hold": Scene(_take_too_late),
    "a take during which the hold ends": Scene(_take_while_the_hold_ends),
    "a take whose hold is dropped before anything is let through": Scene(_dropping_at("note:", TAKE)),
    "a take whose hold is dropped before the scripts start": Scene(_dropping_at("gate: let", TAKE)),
    "a take of what another machine has": Scene(_doing(TAKE), ("occupied",)),
    "a release": Scene(_doing(RELEASE), held=True),
    "a release that the scripts refuse": Scene(_doing(RELEASE), ("scripts: releaseip",), held=True),
    "a release of what can be neither removed nor muted": Scene(
        _doing(RELEASE), ("gate: mute", "kernel: remove"), held=True
    ),
    "a change of the interface": Scene(_doing(UPDATE), held=True),
    "a change of the interface that the scripts refuse": Scene(_doing(UPDATE), ("scripts: updateip",), held=True),
    "a change of the interface whose hold is dropped before the scripts start": Scene(
        _dropping_at("note:", UPDATE), held=True
    ),
    "an address that comes back": Scene(_doing(RESTORE), held=True),
    "an address that does not come back": Scene(_doing(RESTORE), ("kernel: add",), held=True),
    "an address that came back is told to scripts": Scene(_doing(AGAIN), held=True),
    "scripts that refuse what came back": Scene(_doing(AGAIN), ("scripts: takeip",), held=True),
    "an address that came back, and the hold is dropped before scripts are told": Scene(
        _dropping_at("note:", AGAIN), held=True
    ),
    "monitor is cancelled": Scene(_cancel, ("monitor never ends",)),
    "a commit": Scene(_doing(fx.CommitWork(9, Commit((), (), {}), CommitKind(), "abc"))),
    "an agent finds a hold": Scene(_found),
    "an agent finds a hold, and the kernel has lost an address": Scene(_found_one_gone),
    "an agent finds no hold": Scene(_found_nothing, held=True),
    "the kernel lost an address": Scene(_hearing(AddressRemoved(ADDRESS, 24, "eth0")), held=True),
    "another program configured an address": Scene(_hearing(AddressAdded(OTHER, 24, "eth0"))),
    "a link failed": Scene(_hearing(LinkChanged("eth0", False))),
    "another program removed the gate's rules": Scene(_damage, held=True),
}


def play(scene: Scene) -> list[str]:
    """What the ports and the rules were asked, in order."""

    async def run() -> list[str]:
        world = World(scene.refuses)
        if scene.held:
            world.holding()
        await scene.act(world)
        world.steps.close()
        return world.lines

    return asyncio.run(run())


def written() -> dict[str, list[str]]:
    """The expected lines of every scene."""
    found: dict[str, list[str]] = {}
    for block in FILE.read_text().split("\n\n"):
        title, *lines = block.strip().splitlines()
        found[title.removeprefix("# ")] = [line.strip() for line in lines]
    return found


def rewrite() -> None:
    """Write the file as the procedures are now."""
    blocks = ["\n".join([f"# {title}", *(f"    {line}" for line in play(scene))]) for title, scene in SCENES.items()]
    FILE.write_text("\n\n".join(blocks) + "\n")


if __name__ == "__main__" and "--rewrite" in sys.argv:
    rewrite()
