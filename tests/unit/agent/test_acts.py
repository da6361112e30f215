"""What is done to the machine for the rules, when its parts are slower than the node."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import cast

import pytest

from locum.addresses.announce import Announcer
from locum.addresses.kernel import AddressTable, Item
from locum.addresses.wire_watch import WireWatch
from locum.agent import acts
from locum.agent.acts import Acts
from locum.agent.held import HeldNotes
from locum.agent.kernel_calls import KernelCalls
from locum.clock import boottime
from locum.cluster.effects import Restore
from locum.config.tunables import Tunables
from locum.connections.keeper import ConnectionKeeper
from locum.events.engine import EventEngine
from locum.guard.gatekeeper import Enforcement
from locum.guard.page import Page

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


def test_i1_what_is_dropped_while_its_note_is_slow_is_neither_restored_nor_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acts, "NOTE_LIMIT", 10.0)

    async def scene() -> None:
        table, announcer, notes, page = FakeTable(), FakeAnnouncer(), SlowNotes(), Page(str(tmp_path / "hold"))
        tested = Acts(
            table=cast(AddressTable, table),
            enforcement=Enforcement(None, 0.1, 2, ""),
            announcer=cast(Announcer, announcer),
            engine=cast(EventEngine, Whatever()),
            page=page,
            notes=cast(HeldNotes, notes),
            connections=cast(ConnectionKeeper, Whatever()),
            calls=KernelCalls(lambda *_: None),
            wire=cast(WireWatch, Whatever()),
            tunables=Tunables,
            incarnation=lambda: "one",
            log=lambda *_: None,
        )
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
        assert await restoring == "it is not held here any more"
        await asyncio.sleep(0.05)
        assert table.present == set()
        assert announcer.sent == []
        tested.close()

    asyncio.run(scene())
