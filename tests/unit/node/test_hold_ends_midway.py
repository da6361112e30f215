"""A hold that ends between any two steps of a procedure: what only a holder may do is not begun after that (I1, I2).

The agent waits for the kernel, for a note or for its scripts, and the rules drop the hold meanwhile: the membership is
gone from the store, or the deadline has passed. Another node may have the address from then on.
"""

from __future__ import annotations

import asyncio

import pytest

from locum.node.driver import Driver
from locum.rules import effects as fx
from tests.unit.node.recorded_world import ADDRESS, World, in_world
from tests.unit.node.scene import AGAIN, RESTORE, TAKE, UPDATE

#: More turns of the event loop than a procedure needs.
TURNS = 60
#: What only a node with a hold may begin.
RIGHTS = ("scripts: ", "announce", "connections: taken", "connections: updated")


async def _dropped_after(turns: int, effect: fx.Effect, *, held: bool, comes_back: bool) -> World:
    """Carry out ``effect``; after ``turns`` turns of the loop the hold is dropped, and perhaps another one begins."""
    world = World()
    world.slow()
    if held:
        world.holding()
        world.present_now = {(ADDRESS, "eth0")}
    world.node.effects.append(effect)
    driver: Driver = world.driver
    driver.feed(world.node.tick)
    for turn in range(TURNS):
        if turn == turns:
            world.lines.append("DROPPED")
            world.steps.drop()
            if comes_back:
                world.steps.confirm("abc", 2, 160.0, 30, 0.0)
        await asyncio.sleep(0)
    world.steps.close()
    return world


@pytest.mark.parametrize("effect", [TAKE, UPDATE, AGAIN, RESTORE], ids=lambda effect: type(effect).__name__)
@pytest.mark.parametrize("turns", range(30))
def test_i2_nothing_that_needs_a_hold_begins_after_it_was_dropped(effect: fx.Effect, turns: int) -> None:
    world = in_world(_dropped_after(turns, effect, held=effect is not TAKE, comes_back=False))
    after = world.lines[world.lines.index("DROPPED") + 1 :]
    # What a thread was handed before the drop (the gate, the kernel, a note) it may still do. The drop's own work comes
    # after that, and undoes it.
    assert not [line for line in after if line.startswith(RIGHTS)]
    _nothing_left(world)


@pytest.mark.parametrize("effect", [TAKE, UPDATE, AGAIN], ids=lambda effect: type(effect).__name__)
@pytest.mark.parametrize("turns", range(1, 30))
def test_i2_scripts_of_a_hold_that_was_dropped_do_not_start_under_the_next_one(effect: fx.Effect, turns: int) -> None:
    world = in_world(_dropped_after(turns, effect, held=effect is not TAKE, comes_back=True))
    # (Before its first turn a procedure has begun nothing, and may as well begin under the next hold.)
    after = world.lines[world.lines.index("DROPPED") + 1 :]
    assert not [line for line in after if line.startswith("scripts: ")]
    # What the drop has muted stays mute until the rules have it taken again.
    assert not world.held


def _nothing_left(world: World) -> None:
    """The address is mute, configured nowhere, and known as such."""
    assert not world.held
    assert not world.steps.addresses.configured
    assert not world.steps.addresses.held
    assert not world.present_now


def test_the_procedures_end_within_the_turns_that_are_looked_at() -> None:
    for effect in (TAKE, UPDATE, AGAIN, RESTORE):
        world = in_world(_dropped_after(30, effect, held=effect is not TAKE, comes_back=False))
        before = world.lines[: world.lines.index("DROPPED")]
        assert any(line.startswith("rules: ") for line in before), world.lines
