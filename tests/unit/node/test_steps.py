"""What is done to the machine for the rules, when its parts are slower than the node."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from locum.clock import SystemClock, boottime
from locum.config.tunables import Tunables
from locum.connections.tracker import ConnectionTracker
from locum.events.engine import EventEngine
from locum.events.model import Event, EventResult
from locum.machine.addresses import AddressTable, Item
from locum.machine.announcements import Announcer
from locum.machine.wire_watch import WireWatch
from locum.node import steps
from locum.node.guard.hold_page import HoldPage
from locum.node.kernel_calls import KernelCalls
from locum.node.steps import Steps
from locum.node.taken_notes import TakenNotes
from locum.rules.effects import Restore, TakeAddress

ADDRESS = "10.0.0.1"


class FakeTable:
    """The kernel's addresses."""

    def __init__(self) -> None:
        self.present: set[str] = set()

    def add(self, address: str, _bits: int, _interface: str, _lifetime: int) -> None:
        self.present.add(address)

    def remove(self, address: str, _bits: int, _interface: str) -> None:
        self.present.discard(address)

    def renew(self, items: list[Item], _lifetime: int) -> tuple[object, ...]:
        return ()


class FakeAnnouncer:
    """Writes down what the neighbours hear."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def announce(self, _interface: str, address: str) -> bool:
        self.sent.append(address)
        return True


class SlowNotes:
    """Notes on a file system that answers when the test says so."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def remove(self, _address: str) -> None:
        self.answers.wait(30)

    def clear(self) -> None:
        pass


class Whatever:
    """Takes every call."""

    def __getattr__(self, name: str) -> object:
        return lambda *_: None


class Wire(Whatever):
    """Another machine has asked for the address since this node did."""

    def occupant(self, _address: str) -> str:
        return "hardware address 02:00:00:00:00:07 also wants it on eth1"


class Connections(Whatever):
    """Nobody is connected."""

    async def taking(self, _address: str) -> None:
        pass


class Scripts:
    """Runs an event by calling ``during``."""

    def __init__(self) -> None:
        self.during: Callable[[], None] = lambda: None

    async def run(self, event: Event, *_: object, **__: object) -> EventResult:
        self.during()
        return EventResult(event, (), 0.0, 0.0, ())


def acts_of(
    page: HoldPage, table: FakeTable, announcer: FakeAnnouncer, notes: object, engine: object, wire: object = None
) -> Steps:
    """The machine's side of a node without nftables."""
    return Steps(
        clock=SystemClock(),
        table=cast(AddressTable, table),
        gate=None,
        lifetime=2,
        announcer=cast(Announcer, announcer),
        engine=cast(EventEngine, engine),
        page=page,
        notes=cast(TakenNotes, notes),
        connections=cast(ConnectionTracker, Connections()),
        calls=KernelCalls(lambda *_: None),
        wire=cast(WireWatch, wire or Whatever()),
        tunables=Tunables,
        log=lambda *_: None,
    )


def test_i1_what_is_dropped_while_its_note_is_slow_is_neither_restored_nor_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "NOTE_LIMIT", 10.0)

    async def scene() -> None:
        table, announcer, notes, page = FakeTable(), FakeAnnouncer(), SlowNotes(), HoldPage(str(tmp_path / "hold"))
        tested = acts_of(page, table, announcer, notes, Whatever())
        page.confirm("one", 0, boottime() + 60, 1, 0.0)
        await tested.adopt([(ADDRESS, 24, "eth1")], ())
        table.present.clear()
        restoring = asyncio.create_task(tested.restore(Restore(ADDRESS, 24, "eth1")))
        await asyncio.sleep(0.05)
        assert not restoring.done()
        tested.drop()
        # The node has joined anew; who has the address now is another question.
        page.confirm("two", 0, boottime() + 60, 2, 0.0)
        notes.answers.set()
        assert await restoring == "it is no longer held here"
        await asyncio.sleep(0.05)
        assert table.present == set()
        assert announcer.sent == []
        tested.close()

    asyncio.run(scene())


def test_what_is_taken_while_the_hold_ended_and_came_back_is_known_and_goes_with_the_next_drop(tmp_path: Path) -> None:
    async def scene() -> None:
        table, page, scripts = FakeTable(), HoldPage(str(tmp_path / "hold")), Scripts()
        tested = acts_of(page, table, FakeAnnouncer(), TakenNotes(str(tmp_path / "held")), scripts)
        tested.engine_ready.set()

        def hold_ends_and_comes_back() -> None:
            tested.drop()
            page.confirm("one", 0, boottime() + 60, 2, 0.0)

        scripts.during = hold_ends_and_comes_back
        page.confirm("one", 0, boottime() + 60, 1, 0.0)
        ok, _ = await tested.take(TakeAddress(1, ADDRESS, 24, "eth1", "one"))
        assert ok
        assert table.present == {ADDRESS}
        assert tested.addresses.configured == {ADDRESS: (24, "eth1")}
        tested.drop()
        async with asyncio.timeout(30):
            while table.present:  # noqa: ASYNC110 (the kernel's addresses change on a thread)
                await asyncio.sleep(0.01)
        tested.close()

    asyncio.run(scene())


@pytest.mark.parametrize("first", [True, False])
def test_another_machine_that_wants_an_address_counts_until_a_node_has_held_it(tmp_path: Path, first: bool) -> None:
    """The other machine may be a node of this cluster, which asked at the start because the plan had moved it there."""

    async def scene() -> None:
        table, page = FakeTable(), HoldPage(str(tmp_path / "hold"))
        notes = TakenNotes(str(tmp_path / "held"))
        tested = acts_of(page, table, FakeAnnouncer(), notes, Scripts(), Wire())
        tested.engine_ready.set()
        page.confirm("one", 0, boottime() + 60, 1, 0.0)
        ok, reason = await tested.take(TakeAddress(1, ADDRESS, 24, "eth1", "one", first))
        assert ok is not first
        assert table.present == (set() if first else {ADDRESS})
        assert ("02:00:00:00:00:07" in reason) is first
        tested.close()

    asyncio.run(scene())
