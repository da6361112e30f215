"""The gate's tables under a firewall reload: noticed, restored closed, and quiet otherwise."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from locum.machine.gate.gate import Gate
from locum.machine.gate.gate_watch import GateWatch
from tests.lab.gate.scene import (  # noqa: F401 - pytest finds them here
    A4,
    A6,
    PUBLIC,
    Scene,
    gate_fixture,
    load_chain,
    opened,
    scene_fixture,
)

pytestmark = pytest.mark.lab


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is the kernel's to fulfil
            await asyncio.sleep(0.002)


def watch_of(gate: Gate, on_damage: Callable[[tuple[str, ...]], None]) -> GateWatch:
    async def verify() -> tuple[str, ...]:
        return gate.verify()

    return GateWatch((gate.port,), on_damage, verify)


def test_a_flushed_ruleset_is_restored_at_once_and_closed(scene: Scene, gate: Gate) -> None:
    scene.configure(A4, A6)
    scene.install(gate)
    gate.allow([A4, A6])
    opened(gate)
    damage: list[tuple[str, ...]] = []

    def restore(problems: tuple[str, ...]) -> None:
        damage.append(problems)
        with scene.node.entered():
            gate.restore()

    async def scenario() -> None:
        watch = watch_of(gate, restore)
        with scene.node.entered():
            watch.start(asyncio.get_running_loop())
        for number in range(3):
            scene.node.run("nft", "flush ruleset")
            await until(lambda n=number: len(damage) == n + 1)  # type: ignore[misc]
            assert gate.verify() == ()
        assert "gone" in damage[0][0]
        watch.close()
        watch.close()

    asyncio.run(scenario())
    scene.assert_mute(A4, A6)
    opened(gate)
    scene.assert_speaks(A4, A6)


def test_a_reload_of_the_admins_rules_in_one_transaction(scene: Scene, gate: Gate) -> None:
    """As nftables.service does: flush and load in one file. Our deletion is in the middle of many messages."""
    scene.install(gate)
    damage: list[tuple[str, ...]] = []

    async def scenario() -> None:
        watch = watch_of(gate, damage.append)
        with scene.node.entered():
            watch.start(asyncio.get_running_loop())
        rules = (
            "flush ruleset\ntable inet filter {\n set s { type ipv4_addr; elements = { 10.0.0.1 } }\n chain c { }\n}\n"
        )
        scene.node.run("nft", "-f", "-", stdin=rules)
        await until(lambda: damage)
        watch.close()

    asyncio.run(scenario())


def test_our_own_transactions_do_not_wake_it_and_those_of_others_are_no_damage(scene: Scene, gate: Gate) -> None:
    scene.install(gate)
    damage: list[tuple[str, ...]] = []
    looks = 0
    verify = gate.verify

    def counted() -> tuple[str, ...]:
        nonlocal looks
        looks += 1
        return verify()

    gate.verify = counted  # type: ignore[method-assign]

    async def scenario() -> None:
        watch = watch_of(gate, damage.append)
        with scene.node.entered():
            watch.start(asyncio.get_running_loop())
        for number in range(200):
            gate.allow([A4])
            gate.confirm(gate.arm(number % 4, 1))
            gate.deny([A4])
        await asyncio.sleep(0.05)
        assert looks == 0
        load_chain(scene.node, "inet filter", "type filter hook input priority 0", "accept")
        await until(lambda: looks == 1)
        # Somebody changes sets all the time: we look, but not each time.
        script = "".join(f"add element inet filter s {{ 10.0.0.{n % 250} }}\n" for n in range(1, 250))
        scene.node.run("nft", "add set inet filter s { type ipv4_addr; }")
        with scene.node.entered():
            for line in script.splitlines()[:50]:
                subprocess.run(["nft", line], check=True)  # noqa: ASYNC221
                await asyncio.sleep(0)
        assert 1 < looks < 50
        watch.close()

    asyncio.run(scenario())
    assert damage == []


def test_the_programs_that_changed_nftables_are_named_without_our_own(scene: Scene, gate: Gate) -> None:
    """Who held nftables' lock: not the guard, which waited for it as well, nor the nft that loads our own rules."""
    scene.install(gate)
    guard = (
        "from locum.machine.gate.gate import Gate\n"
        "from locum.node.guard.system_calls import name_process\n"
        "name_process('locum-guard')\n"
        "Gate().arm(0, 1)\n"
    )

    async def scenario() -> None:
        looks = []

        async def look() -> tuple[str, ...]:
            looks.append(time.monotonic())
            return ()

        watch = GateWatch((gate.port,), lambda _: None, look, gate.loaders)
        with scene.node.entered():
            watch.start(asyncio.get_running_loop())
            begun = time.monotonic()
            gate.restore()
            await until(lambda: looks)
            looks.clear()
            scene.node.run(sys.executable, "-c", guard)
            await until(lambda: looks)
            assert watch.other(begun) == ""
            scene.node.run("nft", "add table inet firewall")
            await until(lambda: watch.other(begun))
            scene.node.run(sys.executable, "-c", guard)
            looks.clear()
            await until(lambda: looks)
        assert re.fullmatch(r"nft \(process [1-9][0-9]*\)", watch.other(begun))
        first = watch.other(begun)
        scene.node.run("nft", "delete table inet firewall")
        await until(lambda: watch.other(begun) != first)
        assert watch.other(begun).endswith(f" or {first}")
        assert watch.other(time.monotonic()) == ""
        watch.close()

    asyncio.run(scenario())
