"""The life of an agent: what it adopts, how it starts, how it runs.

The order of these steps is stated only here. This file reaches the machine only through :mod:`locum.node.ports`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from locum import tasks
from locum.clock import Clock
from locum.errors import LocumError
from locum.events.model import Event
from locum.lateness import PACE
from locum.machine.addresses import Address
from locum.node.driver import Driver
from locum.node.ports import CallsPort, HoldPagePort, NotesPort, PulsePort, ScriptsPort, TablePort
from locum.node.steps import Steps
from locum.node.taken_notes import remains_of
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


def look(
    page: HoldPagePort, notes: NotesPort, table: TablePort, configured: Iterable[str], judged: Iterable[str]
) -> tuple[Adoption | None, list[Address]]:
    """What the previous agent left: the adoption (:func:`adoption_of`), and the addresses that are still here although
    they are no longer ``configured``. ``judged``: the public addresses of the gate in the kernel. Raises LocumError."""
    adoption = adoption_of(page, notes, table)
    earlier = {*notes.addresses(), *judged}
    remains = remains_of(earlier, configured, table.list())
    if adoption is not None:
        adoption = msgspec.structs.replace(adoption, remains={found.address: found.interface for found in remains})
    return adoption, remains


class Beginning(msgspec.Struct, Generic[E], frozen=True):
    """What an agent begins with.

    ``remains``: addresses that are no longer configured and still here. ``leaving``: those, and adopted addresses that
    are no longer configured: a reload came just before the end of the previous agent.
    """

    adoption: Adoption | None
    remains: Sequence[Address]
    leaving: Sequence[str]
    enforcement: E


async def begin(
    calls: CallsPort,
    configured: Sequence[str],
    interfaces: Sequence[str],
    judged: Callable[[], Iterable[str]],
    look: Callable[[Iterable[str]], tuple[Adoption | None, list[Address]]],
    enforce: Callable[[Sequence[str], Sequence[str]], E],
) -> Beginning[E]:
    """Find what the previous agent left, and take the gate over for it.

    ``judged`` returns the public addresses of the gate in the kernel; ``look`` is :func:`look` on this machine.
    ``enforce`` is called with the addresses that the gate must judge, and their interfaces: the configured ones, and
    those of addresses that leave. Raises LocumError.
    """
    before = await calls.on_gate("reading the addresses of the gate", judged)
    adoption, remains = await calls.on_addresses("reading the state of the previous agent", look, before)
    left = dict(adoption.held) if adoption is not None else {}
    left.update((found.address, found.interface) for found in remains)
    leaving = sorted(left.keys() - set(configured))
    covered = sorted({*interfaces, *(left[address] for address in leaving)})
    enforcement = await calls.on_gate("taking over the gate", enforce, [*configured, *leaving], covered)
    return Beginning(adoption, remains, leaving, enforcement)


async def take_over(beginning: Beginning[Any], bits: Mapping[str, int], steps: Steps) -> None:
    """Continue the previous agent's hold, or begin with a clean slate.

    ``bits``: address → prefix length of the configured addresses. This precedes everything that takes time: the hold
    runs out, and the next beat must not wait for scripts.
    """
    adoption = beginning.adoption
    if adoption is not None:
        held = [(a, bits[a], name) for a, name in adoption.held.items() if a in bits]
        await steps.adopt(held, adoption.missing)
    else:
        await steps.clean_slate((found.address, found.bits, found.interface) for found in beginning.remains)


async def pulse(page: PulsePort, clock: Clock, turn: Callable[[], None]) -> None:
    """Tell the guard, for ever, that the event loop turns; ``turn`` tells the loop's own monitor."""
    while True:
        turn()
        page.beat(clock.boot())
        await asyncio.sleep(PACE)


async def run(
    beginning: Beginning[Any],
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
    await take_over(beginning, bits, steps)
    await listen()
    starting = tasks.start(_start_engine(driver, steps, scripts), "starting the event engine")
    try:
        for event in () if beginning.adoption is not None else (Event.INIT, Event.SETUP):
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
