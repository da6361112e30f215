"""Scenes of the guard's procedures over recording ports: given this, expect these calls, in this order.

Every port writes down what it is asked. A playbook is the list of those lines; ``playbooks.txt`` has the expected ones
(``python -m tests.unit.node.guard.playbooks --rewrite`` writes it anew; the change is reviewed as text). A scene is the
whole life of a guard. Its turns say what happens during each sleep of the loop; after the last turn the agent leaves.
The first scene shows begin and end of a guard in full; where another has the same lines there, it refers to them.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from locum.errors import ConfigError, NetlinkError
from locum.lateness import Stop
from locum.machine.addresses import Address
from locum.machine.clean_slate import Removed
from locum.machine.gate.gate import GateUnavailable
from locum.node.guard import life
from locum.node.guard.children import EXIT_HOPELESS, Child
from locum.threads import NoAnswer
from tests.unit.node import scene_file

ADDRESS, ADDED, FORMER, BY_HAND = "10.0.0.1", "10.0.0.2", "10.0.0.7", "10.0.0.8"
#: A guard that still runs then does not end at all.
MUCH_LATER = 1000.0
FILE = Path(__file__).with_name("playbooks.txt")

Turn = Callable[["World"], Sequence[int] | None]
#: The configuration: its addresses.
Settings = tuple[str, ...]


class World:
    """The recording ports, and what goes wrong in a scene: ``refuses`` are calls that fail."""

    def __init__(self, turns: Iterable[Turn], refuses: Iterable[str] = (), store: bool = False) -> None:
        self.turns = list(turns)
        self.refuses = set(refuses)
        self.lines: list[str] = []
        self.now = 100.0
        self.deadline = self.pulse = 0.0
        self.settings: Settings = (ADDRESS,)
        self.file: Settings = (ADDRESS,)
        self.present: dict[str, bool] = {}
        self.notes: list[str] = []
        self.judged: tuple[str, ...] = ()
        self.agent: _Process | None = None
        self.store: _Process | None = None
        #: Threads that stand keep their calls until :meth:`threads_go_on`.
        self.threads_stand = False
        self._threads: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._others = [Child("store", self._start_store)] if store else []

    def say(self, line: str) -> bool:
        """Write a call down; whether the scene has it refused."""
        refused = any(line.startswith(one) for one in self.refuses)
        self.lines.append(f"{line} - refused" if refused else line)
        return refused

    def run(self) -> None:
        """The life of the guard."""
        charge: life.Charge[Settings] = life.Charge(
            settings=self.settings,
            read=self._read,
            addresses_of=list,
            interfaces_of=lambda _: ["eth0"],
            forget=lambda: self.lines.append("scripts: nothing of an earlier life counts"),
            preload=lambda _: self.lines.append("modules: imported"),
            start_agent=self._start_agent,
            others=self._others,
            withdraw=lambda: self.lines.append("kernel: remove the table against Multipath TCP"),
        )
        machine = life.Machine(
            wakeups=_Wakeups(self),
            page=_Page(self),
            notes=_Notes(self),
            addresses=_Addresses(self),
            open_gate=self._open_gate,
            worker=lambda name, _room: _Worker(self, name),
            log=lambda text, level: self.lines.append(f"log: {level}: {text}"),
        )
        try:
            self.lines.append(f"exit status {life.run(charge, machine)}")
        except Exception as error:
            self.lines.append(f"raises {error!r}")

    def _read(self, running: Settings) -> Settings:
        if self.say("configuration: read"):
            raise ConfigError("locum.toml", ["wrong"])
        return self.file

    def _open_gate(self) -> _Gate:
        if "gate" in self.refuses:
            raise GateUnavailable("no nftables")
        return _Gate(self)

    def _start_agent(self, settings: Settings) -> _Process:
        if self.say(f"start the agent for {' '.join(settings)}"):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.agent = _Process(self, "agent")
        return self.agent

    def _start_store(self) -> _Process:
        self.say("start the store")
        self.store = _Process(self, "store")
        return self.store

    def carry_out(self, thread: str, what: str, call: Callable[[], Any]) -> Future[Any]:
        """A thread has a call to carry out."""
        self.lines.append(f"thread {thread}: {what}")
        future: Future[Any] = Future()
        if self.threads_stand:
            self._threads.append((future, call))
        else:
            future.set_result(call())
        return future

    def threads_go_on(self) -> None:
        """The kernel's locks are free again."""
        self.threads_stand = False
        calls, self._threads = self._threads, []
        for future, call in calls:
            future.set_result(call())


class _Wakeups:
    def __init__(self, world: World) -> None:
        self._world = world

    def boot(self) -> float:
        return self._world.now

    def start(self, stood: Callable[[Stop, Stop | None], None]) -> None:
        self._world.lines.append("signals: collected")

    def wait(self, until: float) -> Sequence[int]:
        world = self._world
        world.lines.append(f"sleep until {until:g}")
        world.now = max(world.now, until)
        if world.turns:
            return world.turns.pop(0)(world) or ()
        if world.agent is not None and world.agent.status is None:
            world.agent.status = 0
        elif until > MUCH_LATER:
            raise TimeoutError("the guard does not end")
        return ()

    def pause(self, seconds: float) -> None:
        self._world.now += seconds

    def await_calls(self, calls: Iterable[Future[Any]], limit: float) -> bool:
        self._world.lines.append(f"wait for the threads, at most {limit:g} s")
        return all(call.done() for call in calls)

    def close(self) -> None:
        pass


class _Process:
    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self.pid = 7
        self.status: int | None = None

    def poll(self) -> int | None:
        status = self.status
        if status is not None:
            self._world.lines.append(f"{self._name}: has ended, status {status}")
        return status

    def signal(self, number: signal.Signals) -> None:
        self._world.lines.append(f"{self._name}: {signal.Signals(number).name}")
        ignores = f"{self._name}: ignores {signal.Signals(number).name}" in self._world.refuses
        # An agent that is to leave does so in its own time, and the scene says when.
        ends = number == signal.SIGKILL or (number == signal.SIGTERM and self._name == "store")
        if ends and not ignores:
            self.status = -number


class _Page:
    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def deadline(self) -> float:
        return self._world.deadline

    @property
    def pulse(self) -> float:
        return self._world.pulse

    def clear(self) -> None:
        self._world.lines.append("page: no hold")
        self._world.deadline = 0.0

    def tell_guard_stop(self, stop: Stop | None) -> None:
        pass


class _Notes:
    def __init__(self, world: World) -> None:
        self._world = world

    def addresses(self) -> Sequence[str]:
        return self._world.notes

    def clear(self) -> None:
        self._world.lines.append("note: none at all")


class _Addresses:
    def __init__(self, world: World) -> None:
        self._world = world

    def list(self) -> list[Address]:
        return [Address(address, 24, "eth0", permanent) for address, permanent in self._world.present.items()]

    def remove(self, addresses: Iterable[str]) -> Sequence[Removed]:
        wanted = sorted(addresses)
        if self._world.say(f"kernel: remove {' '.join(wanted)}"):
            raise NetlinkError("no buffer space", errno.ENOBUFS)
        found = [address for address in wanted if address in self._world.present]
        if "each removal" in self._world.refuses:
            return [Removed(address, 24, "eth0", "no memory") for address in found]
        for address in found:
            del self._world.present[address]
        return [Removed(address, 24, "eth0") for address in found]

    def end_connections(self, addresses: Sequence[str]) -> int:
        self._world.lines.append(f"kernel: end connections to {' '.join(sorted(addresses))}")
        return 0


class _Gate:
    def __init__(self, world: World) -> None:
        self._world = world

    def judged(self) -> tuple[str, ...]:
        return self._world.judged

    def install(self, public: Iterable[str], interfaces: Iterable[str]) -> None:
        self._world.say(f"gate: install for {' '.join(public)} on {' '.join(interfaces)}")

    def shut(self) -> None:
        if self._world.say("gate: shut"):
            raise NetlinkError("no memory", errno.ENOMEM)

    def remove(self) -> None:
        self._world.say("gate: remove")

    def close(self) -> None:
        pass


class _Worker:
    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name

    def prepare(self) -> None:
        self._world.lines.append(f"thread {self._name}: ready")

    def submit(self, what: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Future[Any]:
        if f"thread {self._name}" in self._world.refuses:
            raise NoAnswer(f"{what}: not begun, 2 calls wait")
        return self._world.carry_out(self._name, what, lambda: function(*arguments, **named))


# -- turns ------------------------------------------------------------------------------------------------------


def sleeps(world: World) -> None:
    """Nothing happens, but the agent runs."""
    world.pulse = world.now


def silent(world: World) -> None:
    """The agent does not run."""


def holds(seconds: float) -> Turn:
    """The agent confirms a hold that lasts for ``seconds`` from now, and its addresses are configured."""

    def turn(world: World) -> None:
        world.pulse = world.now
        world.deadline = world.now + seconds
        world.present[ADDRESS] = False

    return turn


def drops(world: World) -> None:
    """The agent drops its hold, and dies before it has removed its addresses."""
    world.deadline = 0.0


def dies(status: int) -> Turn:
    """The agent ends."""

    def turn(world: World) -> Sequence[int]:
        assert world.agent is not None
        world.agent.status = status
        return [signal.SIGCHLD]

    return turn


def store_dies(world: World) -> Sequence[int]:
    """The store ends."""
    world.pulse = world.now
    assert world.store is not None
    world.store.status = -signal.SIGSEGV
    return [signal.SIGCHLD]


def receives(*numbers: int) -> Turn:
    """The guard receives signals, soon after it fell asleep."""

    def turn(world: World) -> Sequence[int]:
        world.now -= 0.4
        world.pulse = world.now
        return numbers

    return turn


def stands(seconds: float) -> Turn:
    """The guard is stopped for ``seconds``, and the agent with it."""

    def turn(world: World) -> None:
        world.now += seconds

    return turn


def locked(world: World) -> None:
    """Another program takes the kernel's locks."""
    world.pulse = world.now
    world.threads_stand = True


def unlocked(then: Turn) -> Turn:
    """``then`` happens, and the kernel's locks are free again."""

    def turn(world: World) -> None:
        then(world)
        world.threads_go_on()

    return turn


def refusing(line: str) -> Turn:
    """From now on the kernel refuses calls that begin with ``line``."""

    def turn(world: World) -> None:
        world.pulse = world.now
        world.refuses.add(line)

    return turn


def works_again(world: World) -> None:
    """What was refused is no longer refused."""
    world.pulse = world.now
    world.refuses.clear()


def edited(world: World) -> Sequence[int]:
    """The configuration has another address, and the agent has taken it up."""
    world.now -= 0.4
    world.pulse = world.now
    world.file = (ADDRESS, ADDED)
    return [signal.SIGUSR1]


def less(world: World) -> Sequence[int]:
    """The configuration has an address less, which the agent still has."""
    world.now -= 0.4
    world.pulse = world.now
    world.file = (ADDRESS,)
    world.present[ADDED] = False
    return [signal.SIGUSR1]


# -- scenes -----------------------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """``turns``: see the module. ``refuses``: what fails. ``store``: the node has a store of its own."""

    turns: Sequence[Turn]
    refuses: tuple[str, ...] = ()
    store: bool = False
    #: Whether an earlier life has left addresses, notes and a gate behind.
    remains: bool = False


SCENES: dict[str, Scene] = {
    "a node starts and leaves": Scene([]),
    "a start where an earlier life has left something": Scene([], remains=True),
    "a start at which the kernel refuses a removal": Scene([], ("each removal",), remains=True),
    "a start without nftables": Scene([], ("gate",)),
    "a hold that goes on": Scene([holds(0.2), holds(0.3), holds(2.0), sleeps]),
    "a hold ends": Scene([holds(0.2), sleeps, sleeps]),
    "a hold ends, and a later one": Scene([holds(0.2), sleeps, holds(0.2), sleeps]),
    "an agent drops its hold and dies": Scene([holds(2.0), sleeps, drops, dies(-9), sleeps]),
    "a hold ends, and the kernel refuses all removals": Scene(
        [refusing("kernel: remove"), holds(0.2), sleeps, sleeps, works_again, sleeps]
    ),
    "a hold ends, and the kernel refuses each removal": Scene(
        [holds(0.2), sleeps, sleeps, works_again, sleeps], ("each removal",)
    ),
    "a hold ends, and the gate cannot be shut": Scene([holds(0.2), sleeps, works_again, sleeps], ("gate: shut",)),
    "a hold ends, and the threads take no more calls": Scene([holds(0.2), sleeps], ("thread gate", "thread addresses")),
    "a hold ends and comes back before the threads act": Scene([holds(0.2), locked, unlocked(holds(2.0)), sleeps]),
    "a hold ends while another program has the kernel's locks": Scene([holds(0.2), locked, unlocked(sleeps), sleeps]),
    "an agent dies": Scene([sleeps, dies(-9), sleeps]),
    "an agent keeps dying": Scene([dies(1)] * 5 + [silent] * 4),
    "an agent can never do its work": Scene([dies(EXIT_HOPELESS)]),
    "an agent hangs": Scene([sleeps, *[silent] * 17, sleeps]),
    "an agent hangs, and its kill takes a while": Scene([sleeps, *[silent] * 17, sleeps], ("agent: ignores SIGKILL",)),
    "the guard was stopped, and the agent with it": Scene([sleeps, stands(60.0), sleeps]),
    "the system has no process to spare": Scene([silent, works_again, sleeps], ("start the agent",)),
    "the node is told to leave": Scene([holds(2.0), receives(signal.SIGTERM), sleeps]),
    "the node is told to leave, twice": Scene([sleeps, receives(signal.SIGTERM), receives(signal.SIGINT)]),
    "an agent dies while its node leaves": Scene([receives(signal.SIGTERM), dies(-11), silent, sleeps, sleeps]),
    "an agent says that it leaves, and dies": Scene([receives(signal.SIGUSR2), dies(-11), silent, sleeps, sleeps]),
    "the configuration is reloaded": Scene([receives(signal.SIGHUP), edited, holds(0.2), sleeps, dies(-9), sleeps]),
    "the configuration is reloaded, and is wrong": Scene([edited, dies(-9), sleeps], ("configuration: read",)),
    "an address less is configured": Scene([edited, less, holds(0.2), sleeps]),
    "an agent starts while the configuration is being read": Scene([locked, edited, dies(-9), unlocked(sleeps)]),
    "a node with a store of its own": Scene([sleeps], store=True),
    "the store dies": Scene([sleeps, store_dies, sleeps], store=True),
    "a store that does not end": Scene([sleeps], ("store: ignores SIGTERM",), store=True),
    "children that cannot be ended": Scene([sleeps], ("store: ignores SIGTERM", "store: ignores SIGKILL"), store=True),
    "an end at which the kernel refuses the removal": Scene([holds(2.0)], ("each removal",)),
    "an end at which the gate cannot be shut": Scene([holds(2.0)], ("gate: shut",)),
    "an end at which the kernel does not answer": Scene([holds(2.0), locked]),
}


BEGIN, END = "(begins)", "(ends)"


def play(scene: Scene) -> list[str]:
    """What the ports were asked, in order."""
    lines, plain = _life(scene), _life(SCENES["a node starts and leaves"])
    if scene is SCENES["a node starts and leaves"]:
        return lines
    head = plain.index("start the agent for 10.0.0.1") + 1
    if lines[:head] == plain[:head]:
        lines[:head] = [BEGIN]
    tail = len(plain) - plain.index("agent: has ended, status 0")
    if lines[-tail:] == plain[-tail:]:
        lines[-tail:] = [END]
    return lines


def _life(scene: Scene) -> list[str]:
    world = World(scene.turns, scene.refuses, scene.store)
    if scene.remains:
        world.present = {ADDRESS: False, FORMER: False, BY_HAND: True}
        world.notes, world.judged, world.deadline = [FORMER], (ADDRESS, FORMER, BY_HAND), 101.0
    world.run()
    return world.lines


def written() -> dict[str, list[str]]:
    """The expected lines of every scene."""
    return scene_file.read(FILE)


if __name__ == "__main__" and "--rewrite" in sys.argv:
    scene_file.write(FILE, {title: play(scene) for title, scene in SCENES.items()})
