"""What a scene of the playbooks is, and the effects that most of them begin with."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from locum.machine.kernel_monitor import AddressAdded, AddressRemoved, LinkChanged
from locum.rules import effects as fx
from locum.store.base import Commit
from tests.unit.node.recorded_world import ADDRESS, World

Act = Callable[[World], Coroutine[Any, Any, None]]

BEAT = fx.SendBeat(7, 1, Commit((), (), {}), "abc", 2.0, 0.4)
TAKE = fx.TakeAddress(8, ADDRESS, 24, "eth0", "abc", True)
RELEASE = fx.ReleaseAddress(8, ADDRESS, 24, "eth0")
UPDATE = fx.UpdateAddress(8, ADDRESS, 24, "eth0", "eth1", "abc")
RESTORE, AGAIN = fx.Restore(ADDRESS, 24, "eth0"), fx.TakeAgain(8, ADDRESS, 24, "eth0", "abc")


class Scene(NamedTuple):
    """``act`` is what happens; ``refuses`` what fails; ``held`` whether the address is held before; ``gated`` whether
    there is a gate; ``announces``: AnnounceCount."""

    act: Act
    refuses: tuple[str, ...] = ()
    held: bool = False
    gated: bool = True
    announces: int = 1


def doing(*effects: fx.Effect) -> Act:
    """The rules ask for ``effects``, one after the other."""

    async def act(world: World) -> None:
        for effect in effects:
            await world.effect(effect)

    return act


def during(call: str, what: Callable[[World], object], effect: fx.Effect) -> Act:
    """``what`` happens while the procedure for ``effect`` waits for ``call``."""

    async def act(world: World) -> None:
        world.at[call] = lambda: what(world)
        await world.effect(effect)

    return act


def hearing(*events: AddressAdded | AddressRemoved | LinkChanged) -> Act:
    """The kernel reports ``events``."""

    async def act(world: World) -> None:
        for event in events:
            world.news.heard(event)
            await world.settle()

    return act
