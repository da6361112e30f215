"""The life of a guard: a clean slate, its loop, an end that leaves nothing behind.

Rules of this file: the order of these steps is stated here and nowhere else. It reaches the machine through
:mod:`locum.node.guard.ports` alone.

A starting guard has the lock of its runtime directory, so whatever an earlier life left behind belongs to nobody:
every public address is removed from every interface and the kernel's gate starts shut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from locum.errors import LocumError
from locum.node import taken_notes
from locum.node.guard.children import Child
from locum.node.guard.configuration import Configuration
from locum.node.guard.enforcement import GuardGate, judged_before
from locum.node.guard.ports import (
    AddressesPort,
    GatePort,
    HoldPagePort,
    Log,
    NotesPort,
    ProcessPort,
    WakeupsPort,
    WorkerPort,
)
from locum.node.guard.silence import ROOM, Silencer
from locum.node.guard.watch import Watch

S = TypeVar("S")


@dataclass(frozen=True)
class Machine:
    """What a guard has of its machine. ``worker`` makes a thread of that name, for which so many calls may wait.
    ``open_gate`` raises GateUnavailable where there is none."""

    wakeups: WakeupsPort
    page: HoldPagePort
    notes: NotesPort
    addresses: AddressesPort
    open_gate: Callable[[], GatePort]
    worker: Callable[[str, int], WorkerPort]
    log: Log


@dataclass(frozen=True)
class Charge(Generic[S]):
    """What a guard has to look after. ``S`` are the settings, which only the agent reads.

    ``read``: the settings after a reload, made from those in force; raises LocumError. ``forget``: nothing of an
    earlier life's event scripts counts. ``preload``: what the forks of the guard will need is imported.
    ``start_agent``: raises OSError when the system has no process to spare. ``others``: children besides the agent.
    ``withdraw``: what else of Locum is in the kernel goes; raises LocumError.
    """

    settings: S
    read: Callable[[S], S]
    addresses_of: Callable[[S], Sequence[str]]
    interfaces_of: Callable[[S], Sequence[str]]
    forget: Callable[[], None]
    preload: Callable[[S], None]
    start_agent: Callable[[S], ProcessPort]
    others: Sequence[Child]
    withdraw: Callable[[], None]


def left_behind(configured: Iterable[str], machine: Machine) -> list[str]:
    """See :func:`locum.node.taken_notes.remains_of`: the new gate does not judge these addresses, and the new agent
    gives up their claims. Raises NetlinkError.
    """
    earlier = {*machine.notes.addresses(), *judged_before(machine.open_gate)}
    return [found.address for found in taken_notes.remains_of(earlier, configured, machine.addresses.list())]


def clear_addresses(addresses: Sequence[str], kernel: AddressesPort, log: Log) -> list[str]:
    """Remove ``addresses`` from every interface, and end the connections to them; returns what could not be done, one
    line each. Raises NetlinkError when the kernel cannot be asked."""
    problems = []
    for removed in kernel.remove(addresses):
        where = f"{removed.address}/{removed.bits} from {removed.interface}"
        if removed.problem:
            problems.append(f"cannot remove {where}: {removed.problem}")
        else:
            log(f"removed {where}", "warning")
    try:
        # Or they would come back to life with the address. What this kernel cannot do, the agent does at the next take.
        ended = kernel.end_connections(addresses) if addresses else 0
    except LocumError as error:
        log(f"cannot end the connections to public addresses: {error}", "error")
    else:
        if ended:
            log(f"ended {ended} connections to public addresses", "warning")
    return problems


def clean_slate(configured: Sequence[str], machine: Machine) -> None:
    """Undo what an earlier life left behind. Raises NetlinkError."""
    machine.page.clear()
    found = [*configured, *left_behind(configured, machine)]
    for problem in clear_addresses(found, machine.addresses, machine.log):
        machine.log(problem, "error")
    machine.notes.clear()


def run(charge: Charge[S], machine: Machine) -> int:
    """From the clean slate until the node has left; returns the exit status. Raises LocumError when it cannot start."""
    log, public = machine.log, charge.addresses_of(charge.settings)
    charge.forget()
    clean_slate(public, machine)
    charge.preload(charge.settings)
    gate = GuardGate(public, charge.interfaces_of(charge.settings), log, machine.open_gate)
    configuration = Configuration(
        charge.settings, charge.read, charge.addresses_of, machine.worker("configuration", ROOM), log
    )
    silencer = _silencer(gate, configuration, machine)

    def start_agent() -> ProcessPort:
        configuration.await_reread(machine.wakeups)
        return charge.start_agent(configuration.settings)

    agent = Child("agent", start_agent)
    watch = Watch(machine.wakeups, machine.page, agent, list(charge.others), silencer, configuration.reread, log)
    try:
        return watch.run()
    finally:
        watch.close()
        machine.page.clear()
        if silencer.finish(machine.wakeups):
            gate.remove()
            try:
                charge.withdraw()
            except LocumError:
                # A kernel without nf_tables; elsewhere the table does no harm, and the next daemon replaces it.
                pass
        else:
            log("the kernel has not removed the public addresses: its gate stays, and keeps them silent", "error")


def _silencer(gate: GuardGate, configuration: Configuration[S], machine: Machine) -> Silencer:
    def clear() -> list[str]:
        try:
            return clear_addresses(configuration.addresses, machine.addresses, machine.log)
        except LocumError as error:
            # They are mute, and the kernel removes them when their lifetime ends. Ending here would help nobody.
            return [f"cannot remove public addresses: {error}"]

    return Silencer(
        machine.worker("gate", ROOM),
        machine.worker("addresses", ROOM),
        gate.shut,
        clear,
        lambda: machine.page.deadline <= machine.wakeups.boot(),
        machine.log,
    )
