"""Scenes of addresses that are held: renewed, announced, repaired for the audit, compared with the kernel."""

from __future__ import annotations

import asyncio

from locum.machine.kernel_monitor import AddressAdded, AddressRemoved, LinkChanged
from locum.rules import effects as fx
from locum.threads import NoAnswer
from tests.unit.node.recorded_world import ADDRESS, OTHER, World
from tests.unit.node.scene import AGAIN, RELEASE, RESTORE, TAKE, UPDATE, Act, Scene, doing, during, hearing

LOST, FOUND = AddressRemoved(ADDRESS, 24, "eth0"), AddressAdded(ADDRESS, 24, "eth0")


# -- lifetimes --------------------------------------------------------------------------------------------------


def _confirm(world: World, until: float = 150.0) -> None:
    world.steps.confirm("abc", 1, until, 21, 0.0)


async def _beats(world: World) -> None:
    for _ in range(3):
        _confirm(world)
        await world.elapse(0.3)


async def _renewed_too_late(world: World) -> None:
    world.slow()
    _confirm(world, 100.2)
    await world.elapse(0.3)


async def _thread_fails(world: World) -> None:
    def fail() -> None:
        raise NoAnswer("the kernel does not answer")

    world.at["kernel: renew"] = fail
    _confirm(world)
    await world.elapse(1.0)
    _confirm(world)
    await world.settle()


def _renews(world: World) -> None:
    world.now += 1.0
    _confirm(world)


async def _renewed_while_it_goes(world: World) -> None:
    world.slow()
    world.at["kernel: remove"] = lambda: _renews(world)
    await world.effect(AGAIN)


async def _adopted_and_renewed(world: World) -> None:
    await world.steps.adopt([(ADDRESS, 24, "eth0")], ())
    _confirm(world)
    await world.settle()


# -- announcements ----------------------------------------------------------------------------------------------


async def _announced(world: World) -> None:
    await world.effect(TAKE)
    for _ in range(4):
        world.lines.append("(a second later)")
        await world.elapse(1.0)


async def _released_between_announcements(world: World) -> None:
    await world.effect(TAKE)
    await world.effect(RELEASE)
    await world.elapse(1.0)


async def _restored_between_announcements(world: World) -> None:
    await world.effect(TAKE)
    await world.elapse(0.5)
    await world.effect(RESTORE)
    for _ in range(4):
        world.lines.append("(half a second later)")
        await world.elapse(0.5)


async def _hold_ends_between_announcements(world: World) -> None:
    await world.effect(TAKE)
    world.deadline = world.now + 0.5
    await world.elapse(1.0)


async def _announced_too_late(world: World) -> None:
    world.slow()
    world.steps.announcements.once("eth0", ADDRESS)
    world.deadline = 0.0
    await world.settle()


async def _not_announced(world: World) -> None:
    await world.effect(TAKE)
    world.lines.append(f"unannounced: {sorted(world.steps.announcements.unannounced)}")
    await world.effect(RELEASE)
    world.lines.append(f"unannounced: {sorted(world.steps.announcements.unannounced)}")


async def _not_announced_and_gone(world: World) -> None:
    world.slow()
    world.steps.announcements.once("eth0", ADDRESS)
    world.steps._stop_serving(ADDRESS)
    await world.settle()
    world.lines.append(f"unannounced: {sorted(world.steps.announcements.unannounced)}")


def _claimed(world: World) -> None:
    world.steps.defend("eth0", ADDRESS)


async def _defended(world: World) -> None:
    _claimed(world)
    await world.settle()


# -- repairs for the audit --------------------------------------------------------------------------------------


async def _replaced(world: World) -> None:
    world.lines.append(f"problem: {await world.steps.addresses.replace(ADDRESS)!r}")
    await hearing(LOST, FOUND, LOST)(world)


async def _replaced_too_late(world: World) -> None:
    world.slow()
    replacing = asyncio.create_task(world.steps.addresses.replace(ADDRESS))
    await asyncio.sleep(0)
    world.deadline = 0.0
    world.lines.append(f"problem: {await replacing!r}")


async def _put_last(world: World) -> None:
    world.lines.append(f"problem: {await world.steps.addresses.put_last([ADDRESS])!r}")
    await hearing(LOST)(world)
    world.deadline = 0.0
    await world.steps.addresses.put_last([ADDRESS])


# -- the kernel's news ------------------------------------------------------------------------------------------


async def _compared(world: World) -> None:
    world.present = {OTHER: "eth0"}
    world.news.look()
    await world.settle()


async def _elsewhere_during_a_release(world: World) -> None:
    def appears() -> None:
        world.node.activity = "releaseip"
        world.present = {ADDRESS: "eth1"}
        world.news.heard(AddressAdded(ADDRESS, 24, "eth1"))

    world.at["scripts: releaseip"] = appears
    await world.effect(RELEASE)


def _active(act: Act) -> Act:
    async def moving(world: World) -> None:
        world.node.activity = "updateip"
        await act(world)

    return moving


async def _became_ours(world: World) -> None:
    world.slow()
    world.news.heard(AddressAdded(OTHER, 24, "eth0"))
    world.steps.addresses.configured[OTHER] = (24, "eth0")
    await world.settle()


async def _links_change_again(world: World) -> None:
    world.at["kernel: list links"] = lambda: world.news.heard(LinkChanged("eth0", False))
    await hearing(LinkChanged("eth0", False))(world)


async def _others_change(world: World) -> None:
    world.news.on_change = lambda: world.lines.append("links or other addresses have changed")
    own = AddressAdded("192.0.2.7", 24, "eth0")
    await hearing(LinkChanged("eth0", False), own, AddressRemoved("192.0.2.7", 24, "eth0"), LOST)(world)


# -- the ends of procedures -------------------------------------------------------------------------------------


async def _cancelled(world: World) -> None:
    await world.effect(RELEASE)
    await world.effect(fx.CancelActivity(8))


async def _before_the_engine(world: World) -> None:
    world.steps.engine_ready.clear()
    await world.effect(fx.RunEvent(9, "monitor"))
    world.lines.append("(the engine has started)")
    world.steps.engine_ready.set()
    await world.settle()


def _ends(world: World) -> None:
    world.deadline = 0.0


async def _notes_hang(world: World) -> None:
    def hang() -> None:
        raise NoAnswer("the file system hangs")

    world.at["note: none at all"] = hang
    await world.steps.clean_slate()


def _leaves(world: World) -> None:
    world.steps._stop_serving(ADDRESS)


async def _moved_before(world: World) -> None:
    world.steps.addresses.configured[ADDRESS] = world.steps.addresses.held[ADDRESS] = (24, "eth1")
    await world.effect(RESTORE)


UPKEEP_SCENES: dict[str, Scene] = {
    "lifetimes are renewed at intervals": Scene(_beats, held=True),
    "lifetimes are renewed at each beat where nothing else enforces the hold": Scene(_beats, held=True, gated=False),
    "a renewal that the kernel comes to after the hold": Scene(_renewed_too_late, held=True),
    "a renewal without an answer": Scene(_thread_fails, held=True),
    "a beat while releaseip runs": Scene(during("scripts: releaseip", _renews, RELEASE), held=True),
    "a beat while updateip runs": Scene(during("scripts: updateip", _renews, UPDATE), held=True),
    "a beat while the kernel removes what scripts refuse": Scene(
        _renewed_while_it_goes, ("scripts: takeip",), held=True
    ),
    "a beat after a hold was adopted": Scene(_adopted_and_renewed),
    "a take that is announced three times": Scene(_announced, announces=3),
    "a release between two announcements": Scene(_released_between_announcements, announces=3),
    "an address that comes back between two announcements": Scene(_restored_between_announcements, announces=3),
    "the hold ends between two announcements": Scene(_hold_ends_between_announcements, announces=3),
    "an announcement that the kernel comes to after the hold": Scene(_announced_too_late, held=True),
    "an announcement that is not sent": Scene(_not_announced, ("no announcement",)),
    "an announcement that is not sent before the address leaves": Scene(
        _not_announced_and_gone, ("no announcement",), held=True
    ),
    "another machine claims a held address": Scene(_defended, held=True),
    "another machine claims an address that is being taken": Scene(during("scripts: takeip", _claimed, TAKE)),
    "the script configures an address that is being taken": Scene(
        during("scripts: takeip", lambda world: world.news.heard(FOUND), TAKE)
    ),
    "an address that is held is configured again": Scene(hearing(FOUND), held=True),
    "the audit has an address replaced": Scene(_replaced, held=True),
    "the audit has an address replaced, and the hold ends": Scene(_replaced_too_late, held=True),
    "the audit has addresses put last": Scene(_put_last, held=True),
    "the kernel is compared with what is held": Scene(_compared, held=True),
    "a held address appears on another interface": Scene(hearing(AddressAdded(ADDRESS, 24, "eth1")), held=True),
    "an address that moves appears on another interface": Scene(
        _active(hearing(AddressAdded(ADDRESS, 24, "eth1"))), held=True
    ),
    "an address that is being released appears on another interface": Scene(_elsewhere_during_a_release, held=True),
    "another program's address becomes ours before it is removed": Scene(_became_ours),
    "links change while they are listed": Scene(_links_change_again),
    "links and addresses that are not public change": Scene(_others_change),
    "a release that is cancelled": Scene(_cancelled, ("releaseip never ends",), held=True),
    "a release where there is no gate": Scene(doing(RELEASE), held=True, gated=False),
    "a release of what this agent did not configure": Scene(doing(RELEASE)),
    "a release of what can be muted and not removed": Scene(doing(RELEASE), ("kernel: remove",), held=True),
    "a take whose hold ends while the kernel configures the address": Scene(during("kernel: add", _ends, TAKE)),
    "an address that leaves before it is restored": Scene(during("note: none", _leaves, RESTORE), held=True),
    "an address that leaves while it is restored": Scene(during("kernel: add", _leaves, RESTORE), held=True),
    "an address that has moved before it is restored": Scene(_moved_before, held=True),
    "an event before the engine has started": Scene(_before_the_engine),
    "an event beside a held address": Scene(doing(fx.RunEvent(9, "monitor")), held=True),
    "a clean slate while the file system hangs": Scene(_notes_hang, held=True),
}
