"""One seed from beginning to end, and its outcome."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from locum.node.driver import patience_for
from locum.rules.following import LONGEST_RETRY_PAUSE
from locum.rules.monitoring import LONGEST_STARTUP_PAUSE
from locum.rules.refusals import PATIENCE
from locum_sim.convergence import unrest
from locum_sim.faults.draw import Faults
from locum_sim.run_state import Violation
from locum_sim.scenario import Scenario, shape_of
from locum_sim.world import World

#: Undisturbed seconds after each healing during which no address may move any longer.
QUIET = 3.0


class Outcome(NamedTuple):
    """The outcome of a seed. ``violation`` is None when every invariant held."""

    scenario: Scenario
    violation: Violation | None
    #: True time at the end, seconds.
    seconds: float
    #: Things that happened in the simulation.
    steps: int
    faults: Counter[str]
    notes: Counter[str]
    events: Counter[str]
    figures: Counter[str]
    #: Longest time from healing to rest, seconds.
    healed: float
    timeline: str


class Knobs(NamedTuple):
    """Changes to a seed's run, to find the smallest one that still fails."""

    only: Collection[str] = ()
    without: Collection[str] = ()
    nodes: int | None = None
    addresses: int | None = None
    hold: float | None = None
    rounds: int | None = None
    trouble: float | None = None
    calm: float | None = None


def run_seed(seed: int, knobs: Knobs = Knobs(), *, traced: bool = False) -> Outcome:  # noqa: B008 - immutable
    """Run ``seed``. ``traced``: keep the timeline (of the last seconds before a violation)."""
    scenario = shape_of(seed, knobs.nodes, knobs.addresses, knobs.hold)
    if knobs.rounds is not None:
        scenario = scenario._replace(rounds=knobs.rounds)
    if knobs.calm is not None:
        scenario = scenario._replace(calm=knobs.calm)
    if knobs.trouble is not None:
        scenario = scenario._replace(trouble=knobs.trouble)
    world = World(scenario, traced=traced)
    faults = Faults(world, knobs.only, knobs.without)
    violation: Violation | None = None
    healed = 0.0
    collections = gc.get_threshold()
    # A run leaves few cycles behind, and its objects live as long as it does: frequent collections are a waste.
    gc.set_threshold(50_000, 20, 50)
    try:
        healed = _live(world, faults)
    except Violation as found:
        violation = found
        world.trace.say("VIOLATION", str(found))
    except AssertionError as found:
        # The rules assert as well; those assertions are invariants like the others.
        violation = Violation("assertion", str(found) or repr(found))
        world.trace.say("VIOLATION", str(violation))
    finally:
        world.end()
        gc.set_threshold(*collections)
    checks = world.checks
    figures = Counter(
        plans=checks.plans,
        expiries=checks.expired,
        looks=checks.looks,
        commands=faults.admins.confirmed,
        refused=faults.admins.refused,
    )
    return Outcome(
        scenario,
        violation,
        world.engine.now,
        world.engine.steps,
        world.faults,
        world.notes,
        world.events,
        figures,
        healed,
        world.trace.show() if traced else "",
    )


def _live(world: World, faults: Faults) -> float:
    world.start()
    longest = 0.0
    _come_to_rest(world)
    for _ in range(world.scenario.rounds):
        faults.begin()
        world.run_for(world.scenario.trouble)
        faults.heal()
        world.run_for(0.1)
        longest = max(longest, _come_to_rest(world))
        world.checks.check_confirmed()
        plans = world.checks.plans
        world.run_for(QUIET)
        problem = unrest(world)
        if problem is not None:
            world.fail("liveness", f"came to rest, and then: {problem}")
        if world.checks.plans != plans:
            world.fail("liveness", "came to rest, and then a new plan was made without any cause")
    return longest


def _come_to_rest(world: World) -> float:
    """Wait until every servable address is served; return the duration."""
    begun = world.engine.now
    limit = rest_bound(world)
    if not world.run_until(lambda: unrest(world) is None, limit):
        world.fail("liveness", f"{limit:.1f} s after the healing: {unrest(world)}")
    return world.engine.now - begun


def rest_bound(world: World) -> float:
    """The longest time in seconds to come to rest from now; ``docs/simulation.md`` derives it."""
    scenario = world.scenario
    tunables = scenario.tunables
    holds = [(m.identity.hold, m.identity.margin) for m in world.machines.values()]
    holds += [(m.file.hold, m.file.margin) for m in world.machines.values()]
    hold = max(h for h, _ in holds)
    wait = max(h + margin for h, margin in holds)
    patience = patience_for(hold)
    timeout = tunables["EventTimeout"]
    bound = 5.0  # daemons start
    bound += wait  # holds of another history
    bound += 4 * wait  # rivals, the leader, then the others are expired; an outage gives every member a full hold
    bound += max(0.0, world.store.back_at - world.engine.now) + 2 * wait  # a store that is being restored
    bound += 3 * patience  # commits without an answer
    bound += 3 * timeout  # scripts that hang, one on top of another
    bound += 4 * len({h.address for hs in scenario.hosted for h in hs}) * scenario.usual[1]  # releases and takes, twice
    bound += 6 * scenario.usual[1] * 4
    bound += max(tunables["RecoveryBanPeriod"], 6.0) + 2.0  # bans
    bound += LONGEST_RETRY_PAUSE  # closing events that failed on all nodes
    bound += tunables["MonitorInterval"]
    bound += tunables["DampingLongest"]
    bound += max(0.0, *(m.link.settled_at - world.engine.now for m in world.machines.values()))  # late messages
    pauses = [0.0]
    for machine in world.machines.values():
        if machine.agent is not None:
            status = machine.agent.node.status()
            pauses.append(status.last_retry - machine.clock.boot())
            pauses.append(status.last_retake - machine.clock.boot())
            if machine.child is not None:
                # A take that hangs is not tried again for long where another node serves the address.
                pauses.append(PATIENCE * timeout)
            if not status.started:
                pauses.append(LONGEST_STARTUP_PAUSE)
    return bound + max(pauses)
