"""``locum daemon``: check everything, then be the guard (:mod:`locum.node.guard.life`) of this machine.

Rules of this file: it puts together, and has no procedure of its own besides the checks.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from locum.config.changes import taken_up
from locum.config.environment import check_environment, environment_warnings
from locum.config.load import load
from locum.config.model import Settings
from locum.connections import plain_tcp
from locum.errors import ConfigError
from locum.events.directory import ScriptDirectory
from locum.events.script_set import forget
from locum.lines import standard_error, take_standard_error
from locum.machine.gate.gate import Gate
from locum.node.guard import life
from locum.node.guard.addresses import KernelAddresses
from locum.node.guard.children import AGENT_NAME, Child, forked, program
from locum.node.guard.enforcement import public_interfaces
from locum.node.guard.hold_page import HoldPage
from locum.node.guard.locks import lock, lock_network
from locum.node.guard.ports import ProcessPort
from locum.node.guard.system_calls import die_with_parent, name_process
from locum.node.guard.wakeups import Wakeups
from locum.node.guard.watch import LONGEST_SLEEP
from locum.node.log import Log
from locum.node.taken_notes import TakenNotes
from locum.service_manager import ServiceManager
from locum.threads import Worker


def check(settings: Settings) -> list[str]:
    """Raise what keeps a daemon with ``settings`` from working here: everything at once. Returns what an admin should
    know besides, one line each. ``locum check-config`` and the daemon both say this and nothing else."""
    listing = ScriptDirectory(settings.paths.events).scan()
    problems = [*check_environment(settings), *(str(fault) for fault in listing.faults)]
    if problems:
        raise ConfigError(settings.source, problems)
    place = settings.paths.events
    return [*environment_warnings(settings), *(f"{place}/{remark}" for remark in listing.remarks)]


def run(config_path: str, agent: Callable[[Settings], int], preload: Callable[[Settings], None]) -> int:
    """Run until the node has left; returns the exit status. Raises LocumError when it cannot start.

    ``agent`` is what the agent process runs; it dies with this process. ``preload`` imports what it will need.
    """
    settings = load(config_path)
    warnings = check(settings)
    paths = settings.paths
    for directory in (paths.runtime, paths.state):
        os.makedirs(directory, mode=0o755, exist_ok=True)
    lock(paths.runtime)
    # Kept open by this process and those that it forks, until all of them have ended.
    _only_one = lock_network()
    name_process("locum-guard")
    take_standard_error()
    log = Log(settings.node.name, settings.log.level, settings.log.format)
    for warning in warnings:
        log(warning, "warning")
    machine = life.Machine(
        wakeups=Wakeups(LONGEST_SLEEP, ServiceManager(os.environ)),
        page=HoldPage(os.path.join(paths.runtime, "hold")),
        notes=TakenNotes(os.path.join(paths.runtime, "held")),
        addresses=KernelAddresses(),
        open_gate=Gate,
        worker=lambda name, room: Worker(name, room=room),
        log=log,
    )
    try:
        return life.run(_charge(settings, agent, preload), machine)
    finally:
        standard_error.drain()


def _charge(
    settings: Settings, agent: Callable[[Settings], int], preload: Callable[[Settings], None]
) -> life.Charge[Settings]:
    guard = os.getpid()

    def start_agent(in_force: Settings) -> ProcessPort:
        def work() -> int:
            # An agent without its guard would hold addresses that nobody takes away from it.
            die_with_parent(signal.SIGKILL, guard)
            return agent(in_force)

        return forked(AGENT_NAME, work)()

    return life.Charge(
        settings=settings,
        read=lambda running: taken_up(running, load(running.source)),
        addresses_of=lambda known: [a.address for a in known.addresses],
        interfaces_of=public_interfaces,
        forget=lambda: forget(settings.paths.runtime),
        preload=preload,
        start_agent=start_agent,
        others=_own_store(settings),
        withdraw=plain_tcp.remove,
    )


def _own_store(settings: Settings) -> list[Child]:
    """The store of this node alone, if it has one: in a process of its own, so that it survives an agent's crash."""
    location = settings.cluster.store
    if location.kind not in ("memory", "sqlite"):
        return []
    arguments = ["--socket", os.path.join(settings.paths.runtime, "store.sock")]
    if location.kind == "sqlite":
        arguments += ["--data", location.path]
    return [Child("store", program("locum.store.server", arguments))]
