"""The table against Multipath TCP is kept, without a look at it after every transaction of the gate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from locum.connections.plain_tcp import TABLE, PlainTcp
from locum.machine.gate.gate import Gate
from tests.lab.gate.scene import A4, Scene, gate_fixture, scene_fixture  # noqa: F401 - pytest finds them here

pytestmark = pytest.mark.lab

#: Longer than the pause between two looks, in seconds.
_APART = 0.06


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition is the kernel's to fulfil
            await asyncio.sleep(0.002)


def test_only_transactions_that_may_touch_the_table_cost_a_look(
    scene: Scene, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.install(gate)
    gate.allow([A4])
    looks: list[tuple[str, ...]] = []

    async def scenario() -> None:
        plain = PlainTcp(lambda: [A4], lambda *_: None, (gate.port,))
        verify = plain.verify

        def counted() -> tuple[str, ...]:
            looks.append(found := verify())
            return found

        monkeypatch.setattr(plain, "verify", counted)
        with scene.node.entered():
            plain.start()
            await until(lambda: looks and looks[-1] == ())
            seen = len(looks)
            scene.node.run("nft", "add table inet other")
            await until(lambda: len(looks) > seen)
            while looks:
                looks.clear()
                await asyncio.sleep(10 * _APART)
            for number in range(10):
                gate.confirm(gate.arm(number % 4, 30.0))
                await asyncio.sleep(_APART)
            assert looks == []
            scene.node.run("nft", f"delete table inet {TABLE}")
            await until(lambda: any(looks) and looks[-1] == ())
            await plain.close()

    asyncio.run(scenario())
