"""The life of an agent: what it adopts, how it starts, how it runs.

The order of these steps is stated only here. This file reaches the machine only through :mod:`locum.node.ports`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from locum import tasks
from locum.clock import Clock
from locum.errors import LocumError
from locum.events.model import Event
from locum.lateness import PACE
from locum.node.driver import Driver
from locum.node.ports import CallsPort, HoldPagePort, NotesPort, PulsePort, ScriptsPort, TablePort
from locum.node.steps import Steps
from locum.rules.node import Adoption

E = TypeVar("E")


def adoption_of(page: HoldPagePort, notes: NotesPort, table: TablePort) -> Adoption | None:
    """What the previous agent left, if it held anything. Raises LocumError."""
    if not page.incarnation:
        return None
    held = notes.of(page.incarnation)
    present = {(found.address, found.interface) for found in table.list()}
    missing = frozenset(address for address, name in held.items() if (address, name) not in present)
    return Adoption(page.incarnation, page.deadline, page.slot, page.revision, page.quiet, held, missing)


def leaving_of(configured: Iterable[str], adoption: Adoption | None) -> list[str]:
    """What the agent before this one held and the configuration has no longer: a reload came just before its end."""
    return sorted(set(adoption.held).difference(configured)) if adoption is not None else []


async def begin(
    calls: CallsPort,
    configured: Sequence[str],
    look: Callable[[], Adoption | None],
    enforce: Callable[[Sequence[str]], E],
) -> tuple[Adoption | None, list[str], E]:
    """Find what the previous agent left, and take the gate over for it.

    ``look`` is :func:`adoption_of` on this machine. ``enforce`` is called with the addresses that the gate must judge:
    those ``configured`` and those that leave. Returns the adoption, the addresses that leave, and what ``enforce``
    returned. Raises LocumError.
    """
    adoption = await calls.on_addresses("reading the state of the previous agent", look)
    leaving = leaving_of(configured, adoption)
    return adoption, leaving, await calls.on_gate("taking over the gate", enforce, [*configured, *leaving])


async def take_over(adoption: Adoption | None, bits: Mapping[str, int], steps: Steps) -> None:
    """Continue the previous agent's hold, or begin with a clean slate.

    ``bits``: address → prefix length of the configured addresses. This precedes everything that takes time: the hold
    runs out, and the next beat must not wait for scripts.
    """
    if adoption is not None:
        held = [(a, bits[a], name) for a, name in adoption.held.items() if a in bits]
        await steps.adopt(held, adoption.missing)
    else:
        await steps.clean_slate()


async def pulse(page: PulsePort, clock: Clock, turn: Callable[[], None]) -> None:
    """Tell the guard, for ever, that the event loop turns; ``turn`` tells the loop's own monitor."""
    while True:
        turn()
        page.beat(clock.boot())
        await asyncio.sleep(PACE)


async def run(
    adoption: Adoption | None,
    bits: Mapping[str, int],
    driver: Driver,
    steps: Steps,
    scripts: ScriptsPort,
    listen: Callable[[], Awaitable[None]],
) -> str | None:
    """Take over (:func:`take_over`), start the event engine, run ``init`` and ``setup`` unless a previous agent did,
    and run the node.

    ``listen`` begins to listen to the machine and to commands; it is called as soon as the takeover is done. Returns
    when the node has left: None, or the problem that ends the daemon.
    """
    await take_over(adoption, bits, steps)
    await listen()
    starting = tasks.start(_start_engine(driver, steps, scripts), "starting the event engine")
    try:
        for event in () if adoption is not None else (Event.INIT, Event.SETUP):
            running = tasks.start(steps.run_once(event), f"running {event}")
            await asyncio.wait((running, driver.ended), return_when=asyncio.FIRST_COMPLETED)
            if driver.ended.done():
                # The event waits for an engine that cannot be started.
                running.cancel()
                break
            failure = running.result()
            if failure is not None:
                return f"{event} failed, so this node does not start: {failure}"
        return await driver.run()
    finally:
        starting.cancel()


async def _start_engine(driver: Driver, steps: Steps, scripts: ScriptsPort) -> None:
    """Start the script runner; the agent ends when that fails."""
    try:
        await scripts.start()
    except LocumError as error:
        driver.end(str(error))
        return
    driver.feed(driver.node.handles_changed, await scripts.handled())
    steps.engine_ready.set()
