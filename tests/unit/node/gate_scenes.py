"""Scenes of a gate that fails or is slow: what it did not do is made up for before it opens again."""

from __future__ import annotations

from locum.rules import effects as fx
from tests.unit.node.recorded_world import World
from tests.unit.node.scene import BEAT, RELEASE, RESTORE, TAKE, Act, Scene, doing

CONFIRM = fx.ConfirmHold("abc", 1, 160.0, 21, 0.0)


async def _not_muted(world: World) -> None:
    await world.effect(RELEASE)
    await world.effect(BEAT)
    world.refuses.clear()
    await world.effect(BEAT)
    await world.effect(BEAT)


async def _not_muted_and_taken_again(world: World) -> None:
    await world.effect(RELEASE)
    world.refuses.clear()
    await world.effect(TAKE)
    await world.effect(BEAT)


async def _not_put_back(world: World) -> None:
    world.news.gate_damaged(("table inet locum is gone",))
    await world.settle()
    await world.effect(RESTORE)
    await world.effect(BEAT)
    world.refuses.clear()
    await world.effect(BEAT)
    world.lines.append("(a second later)")
    await world.elapse(1.0)
    await world.effect(BEAT)
    await world.effect(RESTORE)
    await world.effect(BEAT)


def _rules_gone(effect: fx.Effect) -> Act:
    """Another program removes the rules; nothing has reported it yet."""

    async def act(world: World) -> None:
        world.rules_gone = True
        await world.effect(effect)

    return act


async def _works_again(world: World) -> None:
    await world.effect(BEAT)
    world.refuses.clear()
    await world.effect(BEAT)
    await world.effect(CONFIRM)


async def _locked(world: World) -> None:
    world.slow()
    for request in (1, 2):
        world.node.effects.append(fx.SendBeat(request, 1, BEAT.commit, "abc", 2.0, 0.4))
    world.driver.feed(world.node.tick)
    await world.settle()
    await world.effect(BEAT)


def _armed_late(seconds: float) -> Act:
    async def act(world: World) -> None:
        def wait() -> None:
            world.now += seconds

        world.at["gate: arm"] = wait
        await world.effect(BEAT)

    return act


async def _dropped_and_confirmed(world: World) -> None:
    """The answer to a beat of before the drop comes after it."""
    await world.effect(BEAT)
    await world.effect(fx.DropHold())
    await world.effect(CONFIRM)


async def _armed_again_in_vain(world: World) -> None:
    await world.effect(BEAT)
    world.refuses = {"gate: arm"}
    await world.effect(BEAT)
    await world.effect(CONFIRM)


async def _put_back_meanwhile(world: World) -> None:
    await world.effect(BEAT)
    world.news.gate_damaged(("table inet locum is gone",))
    await world.settle()
    await world.effect(CONFIRM)


GATE_SCENES: dict[str, Scene] = {
    "what could not be muted is muted before the next beat": Scene(_not_muted, ("gate: mute",), held=True),
    "what could not be muted is taken again": Scene(_not_muted_and_taken_again, ("gate: mute",), held=True),
    "removed rules cannot be put back at once": Scene(_not_put_back, ("gate: put",), held=True),
    "an address is released just after another program removed the rules": Scene(_rules_gone(RELEASE), held=True),
    "an address is taken just after another program removed the rules": Scene(_rules_gone(TAKE)),
    "the gate cannot be armed, and works again": Scene(_works_again, ("gate: arm",)),
    "the gate cannot be opened": Scene(doing(BEAT, CONFIRM), ("gate: open",)),
    "a beat while the one before it waits for the gate": Scene(_locked),
    "a beat that waits for the gate longer than to the next": Scene(_armed_late(0.5)),
    "a beat that waits for the gate a moment": Scene(_armed_late(0.3)),
    "a slot that could not be armed again is not opened": Scene(_armed_again_in_vain),
    "the gate is put back while a beat is on the way": Scene(_put_back_meanwhile),
    "a hold that is dropped while its beat is on the way": Scene(_dropped_and_confirmed),
}
