"""When the gate is looked at after another program changed nftables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import pytest

from locum.errors import NetlinkError
from locum.machine.gate import gate_watch
from locum.machine.gate.gate_watch import GateWatch
from tests.unit.bench import eventually

#: Between two looks, in seconds.
INTERVAL = 0.01


class Changes:
    """In place of the kernel's messages."""

    def __init__(self, *given: Any) -> None:
        self.arrive: Callable[[], None] = given[3]

    def news(self) -> Iterator[bytes | None]:
        """One message that names no program."""
        yield None

    def close(self) -> None:
        """No more messages."""


class Scene:
    """A watch, and a gate whose look takes until the test lets it end."""

    def __init__(self) -> None:
        self.looks = 0
        self.goes_on = asyncio.Event()
        self.problem: NetlinkError | None = None
        self.damage: list[tuple[str, ...]] = []
        self.watch = GateWatch((7,), self.damage.append, self.verify)
        self.watch.start(asyncio.get_running_loop())
        self.changes = cast(Changes, self.watch._news)

    async def verify(self) -> tuple[str, ...]:
        """See GateWatch."""
        self.looks += 1
        await self.goes_on.wait()
        if self.problem is not None:
            raise self.problem
        return ()

    async def intervals(self) -> None:
        """Several intervals pass."""
        await asyncio.sleep(10 * INTERVAL)


@pytest.fixture(autouse=True)
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_watch, "Subscription", Changes)
    monkeypatch.setattr(gate_watch, "_INTERVAL", INTERVAL)


def run(act: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def go() -> None:
        scene = Scene()
        await act(scene)
        scene.watch.close()

    asyncio.run(go())


def test_a_change_during_a_look_is_followed_by_another_look_and_by_no_more() -> None:
    async def act(scene: Scene) -> None:
        scene.changes.arrive()
        await eventually(lambda: scene.looks == 1)
        scene.changes.arrive()
        await scene.intervals()
        assert scene.looks == 1, "one look at a time"
        scene.goes_on.set()
        await eventually(lambda: scene.looks == 2)
        await scene.intervals()
        assert scene.looks == 2

    run(act)


def test_a_gate_that_cannot_be_looked_at_is_damaged() -> None:
    async def act(scene: Scene) -> None:
        scene.goes_on.set()
        scene.problem = NetlinkError("no answer", 5)
        scene.changes.arrive()
        await eventually(lambda: scene.damage == [("no answer",)])

    run(act)
