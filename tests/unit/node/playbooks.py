"""Scenes of the agent's procedures over recording ports: given this, expect these calls, in this order.

Every port writes down what it is asked. A playbook is the list of those lines; ``playbooks.txt`` has the expected ones
(``python -m tests.unit.node.playbooks --rewrite`` writes it anew; the change is reviewed as text).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from locum.errors import LocumError
from locum.events.model import Event, EventResult
from locum.machine.kernel_monitor import AddressAdded, AddressRemoved, LinkChanged
from locum.node import life
from locum.node.ports import CallsPort
from locum.node.reconfiguration import Reconfiguration
from locum.rules import effects as fx
from locum.rules.commit_kinds import CommitKind
from locum.rules.node import Identity
from locum.store.base import Commit
from tests.unit.node import scene_file
from tests.unit.node.driver_scenes import DRIVER_SCENES
from tests.unit.node.gate_scenes import GATE_SCENES
from tests.unit.node.recorded_world import (
    ADDRESS,
    FORMER,
    OTHER,
    World,
    _Calls,
    _Notes,
    _Page,
    _Scripts,
    _Table,
    in_world,
)
from tests.unit.node.scene import AGAIN, BEAT, RELEASE, RESTORE, TAKE, UPDATE, Act, Scene, doing, during, hearing
from tests.unit.node.upkeep_scenes import UPKEEP_SCENES

FILE = Path(__file__).with_name("playbooks.txt")


async def _beat_and_confirm(world: World) -> None:
    await world.effect(BEAT)
    await world.effect(fx.ConfirmHold("abc", 1, 160.0, 21, 0.0))


async def _cancel(world: World) -> None:
    await world.effect(fx.RunEvent(9, "monitor"))
    await world.effect(fx.CancelActivity(9))


async def _take_too_late(world: World) -> None:
    world.deadline = 100.0
    await world.effect(TAKE)


async def _take_while_the_hold_ends(world: World) -> None:
    original = _Scripts.run

    async def run(self: _Scripts, event: Event, *arguments: Any, **named: Any) -> EventResult:
        result = await original(self, event, *arguments, **named)
        world.deadline = 0.0
        return result

    world.steps._engine.run = run.__get__(world.steps._engine)  # type: ignore[method-assign]
    await world.effect(TAKE)


async def _found(world: World, judged: Sequence[str] = (ADDRESS,)) -> None:
    beginning = await life.begin(
        cast(CallsPort, _Calls()),
        [ADDRESS],
        ["eth0"],
        lambda: judged,
        lambda before: life.look(_Page(world), _Notes(world), _Table(world), [ADDRESS], before),
        lambda public, interfaces: world.say(f"gate: judges {', '.join(public)} on {', '.join(interfaces)}"),
    )
    adoption = beginning.adoption
    if adoption is not None:
        world.lines.append(
            f"adoption: held {sorted(adoption.held)}, missing {sorted(adoption.missing)}, remains {adoption.remains}"
        )
    await life.take_over(beginning, {ADDRESS: 24}, world.steps)


async def _found_one_gone(world: World) -> None:
    world.present.clear()
    await _found(world)


async def _found_one_too_many(world: World) -> None:
    """Its note was removed when its release began; the agent ended before the gate muted it."""
    world.present[FORMER] = "eth7"
    await _found(world, (ADDRESS, FORMER))


async def _found_one_without_a_hold(world: World) -> None:
    world.incarnation = ""
    await _found_one_too_many(world)


async def _found_nothing(world: World) -> None:
    world.incarnation = ""
    await _found(world)


async def _damage(world: World) -> None:
    world.news.gate_damaged(("table inet locum is gone",))
    await world.settle()


def _configured_without(address: str) -> Act:
    """A reload leaves ``address`` out; afterwards it is released."""

    async def act(world: World) -> None:
        reconfiguration = Reconfiguration(
            world.driver,
            world.steps.gate,
            world.steps.addresses.configured,
            (ADDRESS, OTHER),
            ("eth0",),
            (),
            lambda: world.say("guard: told"),
            world.log,
        )
        world.steps.addresses.on_gone = reconfiguration.gone
        left = [one for one in (ADDRESS, OTHER) if one != address]

        def put_in_force() -> Identity:
            world.say("settings: in force")
            return cast(Identity, f"for {' '.join(left)}")

        try:
            await reconfiguration.apply(left, ("eth1",), put_in_force)
        except LocumError as error:
            world.lines.append(f"not reloaded: {error}")
        if world.steps.addresses.configured:
            await world.effect(RELEASE)

    return act


SCENES: dict[str, Scene] = {
    "a beat that is accepted": Scene(doing(BEAT)),
    "a beat that is refused": Scene(doing(BEAT), ("store: commit",)),
    "a beat without an answer": Scene(doing(BEAT), ("no answer",)),
    "a beat whose slot cannot be armed": Scene(doing(BEAT), ("gate: arm",)),
    "a beat, and the hold that it carries": Scene(_beat_and_confirm, held=True),
    "a hold that renews what the kernel refuses": Scene(_beat_and_confirm, ("kernel: renew",), held=True),
    "the hold is dropped": Scene(doing(fx.DropHold()), held=True),
    "the hold is dropped, and the kernel refuses": Scene(doing(fx.DropHold()), ("gate: shut", "gate: mute"), held=True),
    "a take": Scene(doing(TAKE)),
    "a take that the scripts refuse": Scene(doing(TAKE), ("scripts: takeip",)),
    "a take that the kernel refuses": Scene(doing(TAKE), ("kernel: add",)),
    "a take that the gate refuses": Scene(doing(TAKE), ("gate: let",)),
    "a take after the end of the hold": Scene(_take_too_late),
    "a take during which the hold ends": Scene(_take_while_the_hold_ends),
    "a take whose hold is dropped before anything is let through": Scene(during("note:", World.drop, TAKE)),
    "a take whose hold is dropped before the scripts start": Scene(during("gate: let", World.drop, TAKE)),
    "a take of what another machine has": Scene(doing(TAKE), ("occupied",)),
    "a release": Scene(doing(RELEASE), held=True),
    "a release that the scripts refuse": Scene(doing(RELEASE), ("scripts: releaseip",), held=True),
    "a release of what can be neither removed nor muted": Scene(
        doing(RELEASE), ("gate: mute", "kernel: remove"), held=True
    ),
    "a change of the interface": Scene(doing(UPDATE), held=True),
    "a change of the interface that the scripts refuse": Scene(doing(UPDATE), ("scripts: updateip",), held=True),
    "a change of the interface whose hold is dropped before the scripts start": Scene(
        during("note:", World.drop, UPDATE), held=True
    ),
    "an address that comes back": Scene(doing(RESTORE), held=True),
    "an address that does not come back": Scene(doing(RESTORE), ("kernel: add",), held=True),
    "an address that came back is told to scripts": Scene(doing(AGAIN), held=True),
    "scripts that refuse what came back": Scene(doing(AGAIN), ("scripts: takeip",), held=True),
    "an address that came back, and the hold is dropped before scripts are told": Scene(
        during("note:", World.drop, AGAIN), held=True
    ),
    "monitor is cancelled": Scene(_cancel, ("monitor never ends",)),
    "a commit": Scene(doing(fx.CommitWork(9, Commit((), (), {}), CommitKind(), "abc"))),
    "an agent finds a hold": Scene(_found),
    "an agent finds a hold, and the kernel has lost an address": Scene(_found_one_gone),
    "an agent finds an address whose release has just begun, and that is no longer configured": Scene(
        _found_one_too_many
    ),
    "an agent finds no hold": Scene(_found_nothing, held=True),
    "an agent finds no hold, and an address that is no longer configured": Scene(_found_one_without_a_hold),
    "the kernel lost an address": Scene(hearing(AddressRemoved(ADDRESS, 24, "eth0")), held=True),
    "another program configured an address": Scene(hearing(AddressAdded(OTHER, 24, "eth0"))),
    "a link failed": Scene(hearing(LinkChanged("eth0", False))),
    "another program removed the gate's rules": Scene(_damage, held=True),
    "a reload without an address that is held": Scene(_configured_without(ADDRESS), held=True),
    "a reload without an address that is not here": Scene(_configured_without(OTHER)),
    "a reload whose addresses the gate refuses": Scene(_configured_without(OTHER), ("gate: judge",)),
    **GATE_SCENES,
    **UPKEEP_SCENES,
    **DRIVER_SCENES,
}


def play(scene: Scene) -> list[str]:
    """What the ports and the rules were asked, in order."""

    async def run() -> list[str]:
        world = World(scene.refuses, gated=scene.gated, announces=scene.announces)
        if scene.held:
            world.holding()
        await scene.act(world)
        world.steps.close()
        return world.lines

    return in_world(run())


def written() -> dict[str, list[str]]:
    """The expected lines of every scene."""
    return scene_file.read(FILE)


if __name__ == "__main__" and "--rewrite" in sys.argv:
    scene_file.write(FILE, {title: play(scene) for title, scene in SCENES.items()})
