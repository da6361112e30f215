"""Scenes of the driver and of an agent's life: store, timers, activities, start and end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from locum.errors import StoreUnavailable
from locum.lateness import PACE
from locum.node import life
from locum.node.ports import CallsPort
from locum.rules import effects as fx
from locum.rules.commit_kinds import CommitKind
from locum.store.base import Batch, Commit, Snapshot, WatchLost
from tests.unit.node.recorded_world import ADDRESS, OTHER, World, _Calls, _Notes, _Page, _Scripts, _Table
from tests.unit.node.scene import RELEASE, RESTORE, Act, Scene

MONITOR, COMMIT = fx.RunEvent(9, "monitor"), fx.CommitWork(9, Commit((), (), {}), CommitKind(), "abc")


# -- the store --------------------------------------------------------------------------------------------------


def _running(act: Act, *reads: Snapshot | Exception) -> Act:
    """The driver runs meanwhile, over a store that answers reads with ``reads``."""

    async def running(world: World) -> None:
        world.store.reads = list(reads)
        task = asyncio.get_running_loop().create_task(world.driver.run())
        await world.settle()
        await act(world)
        world.driver.end(None)
        await task

    return running


async def _changes(world: World) -> None:
    world.store.news.put_nowait(Batch(6, ()))
    await world.settle()


async def _watch_is_lost(world: World) -> None:
    world.store.news.put_nowait(WatchLost())
    await world.settle()


async def _store_comes_back(world: World) -> None:
    world.lines.append(f"problem: {world.driver.store_problem}")
    await world.elapse(0.05)
    world.lines.append("(later)")
    await world.elapse(0.06)
    world.lines.append(f"problem: {world.driver.store_problem!r}")


async def _doubted_while_followed(world: World) -> None:
    await world.effect(fx.ReadAnew())


def _doubted_while_read(act: Act) -> Act:
    async def doubted(world: World) -> None:
        world.at["store: read"] = lambda: world.driver._start(fx.ReadAnew())
        await act(world)

    return doubted


def _doubted_when_read(act: Act) -> Act:
    async def doubted(world: World) -> None:
        world.node.answers["store_read"] = [fx.ReadAnew()]
        await act(world)

    return doubted


def _known_meanwhile(act: Act) -> Act:
    async def known(world: World) -> None:
        world.at["store: read"] = lambda: setattr(world.node, "known", 2)
        await act(world)

    return known


async def _nothing(_world: World) -> None:
    """No more than what goes on by itself."""


async def _commit_in_vain(world: World) -> None:
    await world.effect(COMMIT)
    await world.elapse(1.9)
    world.lines.append("(the hold's length has passed)")
    await world.elapse(0.2)


def _age(world: World) -> None:
    age = world.driver.age(world.now)
    world.lines.append("age unknown" if age is None else f"age {age:.1f}")


async def _ages(world: World) -> None:
    """The read was asked for at 100 and answered at 101; a beat of 103 came back."""
    _age(world)
    await world.elapse(5.0)
    _age(world)
    world.current_at = world.now - 2.0
    _age(world)
    world.member = False
    await world.elapse(1.0)
    _age(world)
    await _changes(world)
    _age(world)


def _slow_read(act: Act) -> Act:
    async def slow(world: World) -> None:
        def wait() -> None:
            world.now += 1.0

        world.at["store: read"] = wait
        await act(world)

    return slow


async def _waited_for(world: World) -> None:
    """Commands wait for the view to change."""

    async def wait(number: int) -> None:
        changed = await world.driver.wait_for_change(5.0)
        world.lines.append(f"waiter {number}: {'changed' if changed else 'no change'}")

    tasks = [asyncio.create_task(wait(1))]
    await world.settle()
    await _changes(world)
    world.node.changes += 1
    world.store.news.put_nowait(Batch(7, ()))
    await world.settle()
    tasks.append(asyncio.create_task(wait(2)))
    await world.settle()
    await world.effect(COMMIT)
    tasks.append(asyncio.create_task(wait(3)))
    await world.settle()
    await world.elapse(6.0)
    await asyncio.wait(tasks)


# -- activities and timers --------------------------------------------------------------------------------------


async def _next_activity(world: World) -> None:
    """The rules begin an activity with the answer to the one before."""
    world.node.answers["activity_done"] = [fx.RunEvent(10, "monitor")]
    world.refuses = {"monitor never ends"}
    await world.effect(fx.RunEvent(9, "startup"))
    await world.effect(fx.CancelActivity(10))


async def _cancel_an_earlier_one(world: World) -> None:
    await world.effect(MONITOR)
    await world.effect(fx.CancelActivity(8))
    world.lines.append("(it goes on)")


async def _timers(world: World) -> None:
    world.node.writes_ticks = True
    for wakeup in (110.0, 101.0, 108.0, 104.0, 112.0):
        world.node.wakeup = wakeup
        world.driver.feed(world.node.store_read)
        world.lines.append(f"(wakeup at {wakeup})")
        await world.elapse(0.6)
    await world.elapse(10.0)
    world.node.wakeup = 120.0
    world.driver.feed(world.node.store_read)
    world.node.wakeup = float("inf")
    world.driver.feed(world.node.store_read)
    await world.elapse(10.0)


async def _a_little_too_early(world: World) -> None:
    """The same, by less than the driver corrects: what it sets anew ends at the same time."""
    world.node.writes_ticks = True
    loop: Any = asyncio.get_running_loop()
    world.node.wakeup = world.now + 1.0
    world.driver.feed(world.node.store_read)
    assert world.driver._timer is not None
    loop.now = world.driver._timer.when()
    # Each look at the clock takes a millisecond: the first is before the wakeup, the second after it.
    world.now = world.node.wakeup - 0.0013
    await world.settle()
    await world.elapse(1.0)


async def _too_early(world: World) -> None:
    """The loop's clock is a little ahead: at the first tick nothing is due yet."""
    world.node.writes_ticks = True
    loop: Any = asyncio.get_running_loop()
    world.node.wakeup = world.now + 1.0
    world.driver.feed(world.node.store_read)
    loop.now += 1.0
    await world.settle()
    world.lines.append("(now it is due)")
    await world.elapse(1.0)


async def _defect(world: World) -> None:
    def fail() -> None:
        raise RuntimeError("a defect")

    world.at["note: none"] = fail
    await world.effect(RESTORE)
    world.lines.append(f"ended: {world.driver.ended.exception()!r}")


async def _ended_in_a_release(world: World) -> None:
    world.slow()
    running = asyncio.create_task(world.driver.run())
    await world.effect(RELEASE)
    world.driver.end(None)
    await running
    world.lines.append("the driver has returned")


# -- the agent's life -------------------------------------------------------------------------------------------


def _lives(adopted: bool) -> Act:
    async def act(world: World) -> None:
        world.steps.engine_ready.clear()
        adoption = life.adoption_of(_Page(world), _Notes(world), _Table(world)) if adopted else None

        async def listen() -> None:
            world.lines.append("(it listens)")

        beginning = life.Beginning(adoption, (), (), None)
        run = life.run(beginning, {ADDRESS: 24}, world.driver, world.steps, _Scripts(world), listen)
        task = asyncio.create_task(run)
        await world.settle()
        if not task.done():
            world.lines.append("(it runs)")
            world.driver.end(None)
        world.lines.append(f"ended: {await task}")

    return act


async def _pulse(world: World) -> None:
    page: Any = _Page(world)
    turn: Callable[[], None] = lambda: world.lines.append("the loop turns")  # noqa: E731
    task = asyncio.create_task(life.pulse(page, world, turn))
    await world.settle()
    await world.elapse(PACE)
    task.cancel()


async def _adopts_from_another_interface(world: World) -> None:
    world.present = {ADDRESS: "eth1"}
    beginning = await life.begin(
        cast(CallsPort, _Calls()),
        [OTHER],
        ["eth0"],
        lambda: (ADDRESS, OTHER),
        lambda judged: life.look(_Page(world), _Notes(world), _Table(world), [OTHER], judged),
        lambda public, interfaces: world.lines.append(f"gate: judges {', '.join(public)} on {', '.join(interfaces)}"),
    )
    adoption = beginning.adoption
    assert adoption is not None
    world.lines.append(f"adoption: held {sorted(adoption.held)}, missing {sorted(adoption.missing)}")
    world.lines.append(f"no longer configured: {beginning.leaving}, remains {adoption.remains}")


DRIVER_SCENES: dict[str, Scene] = {
    "the store is read, and reports changes": Scene(_running(_changes, Snapshot(5, ()))),
    "the watch is lost": Scene(_running(_watch_is_lost, Snapshot(5, ()), Snapshot(8, ()))),
    "the store does not answer at first": Scene(
        _running(_store_comes_back, StoreUnavailable("no answer"), Snapshot(5, ()))
    ),
    "the view is doubted while the store is followed": Scene(
        _running(_doubted_while_followed, Snapshot(5, ()), Snapshot(8, ()))
    ),
    "the view is doubted while the store is read": Scene(
        _doubted_while_read(_running(_nothing, Snapshot(5, ()), Snapshot(8, ())))
    ),
    "the view is doubted as soon as it is read": Scene(
        _doubted_when_read(_running(_nothing, Snapshot(5, ()), Snapshot(8, ())))
    ),
    "what is known changes while the store is read": Scene(_known_meanwhile(_running(_nothing, Snapshot(5, ())))),
    "a commit without an answer": Scene(_commit_in_vain, ("no answer in time",)),
    "the age of the view": Scene(_slow_read(_running(_ages, Snapshot(5, ())))),
    "commands wait for a change": Scene(_running(_waited_for, Snapshot(5, ()))),
    "an activity follows another at once": Scene(_next_activity),
    "an earlier activity is cancelled": Scene(_cancel_an_earlier_one, ("monitor never ends",)),
    "timers": Scene(_timers),
    "a timer that ends a moment too early": Scene(_too_early),
    "a timer that ends less than its correction too early": Scene(_a_little_too_early),
    "a defect in a procedure": Scene(_defect, held=True),
    "the end in the midst of a release": Scene(_ended_in_a_release, ("releaseip never ends",), held=True),
    "an agent starts": Scene(_lives(adopted=False)),
    "an agent starts, and init fails": Scene(_lives(adopted=False), ("scripts: init",)),
    "an agent starts, and setup fails": Scene(_lives(adopted=False), ("scripts: setup",)),
    "an agent starts after a crash": Scene(_lives(adopted=True)),
    "an agent whose engine cannot start": Scene(_lives(adopted=False), ("scripts: the runner",)),
    "an agent tells that it runs": Scene(_pulse),
    "an agent finds an address on another interface": Scene(_adopts_from_another_interface),
}
