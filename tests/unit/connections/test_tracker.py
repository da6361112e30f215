"""What a node says while the lists of its connections cannot be read."""

from __future__ import annotations

import asyncio

import pytest

from locum.connections import tracker as tracker_module
from locum.connections.tickle_store import TickleStore
from locum.connections.tracker import ConnectionTracker, TrackerSettings, _Visit
from locum.errors import StoreUnavailable
from locum.store.base import Snapshot
from locum.store.memory import MemoryStore
from tests.unit.store.harness import until


class Silent(MemoryStore):
    """Answers no read; counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def read(self, prefix: str) -> Snapshot:
        self.reads += 1
        raise StoreUnavailable("no answer")


def test_an_outage_of_the_store_is_said_once_for_each_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "READ_PAUSE", 0.001)
    said: list[str] = []

    async def scene() -> None:
        store = Silent()
        tracker = ConnectionTracker(
            TickleStore(store, "c"),
            claim=lambda _: 0,
            settings=TrackerSettings,
            log=lambda text, _: said.append(text),
        )
        addresses = ("10.0.0.1", "10.0.0.2")
        tasks = [asyncio.create_task(tracker._listed(_Visit(address))) for address in addresses]
        await until(lambda: store.reads >= 20)
        assert len(tracker.problems()) == 2
        for task in tasks:
            task.cancel()
        # An address that has left is no longer a problem.
        for address in addresses:
            tracker._leave(address)
        assert tracker.problems() == ()
        await tracker.close()

    asyncio.run(scene())
    assert sorted(said) == [f"the connections of 10.0.0.{n} cannot be read: no answer" for n in (1, 2)]
