"""``locum daemon``: check everything, start from a clean slate, then watch.

A starting guard has the lock of its runtime directory, so whatever an earlier life left behind belongs to nobody:
every public address is removed from every interface and the kernel's gate starts shut.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait

from locum.clock import boottime
from locum.config.changes import taken_up
from locum.config.environment import check_environment, environment_warnings
from locum.config.load import load
from locum.config.model import Settings
from locum.connections import plain_tcp
from locum.connections.destroy import destroy
from locum.errors import ConfigError, LocumError
from locum.events.directory import ScriptDirectory
from locum.events.script_set import forget
from locum.lines import standard_error, take_standard_error
from locum.machine.addresses import AddressTable
from locum.machine.clean_slate import remove_public
from locum.node.guard.children import AGENT_NAME, Child, Process, forked, program
from locum.node.guard.enforcement import GuardGate, judged_before
from locum.node.guard.hold_page import HoldPage
from locum.node.guard.locks import lock, lock_network
from locum.node.guard.silence import Silencer
from locum.node.guard.system_calls import die_with_parent, name_process
from locum.node.guard.watch import Watch
from locum.node.log import Log
from locum.node.taken_notes import TakenNotes
from locum.threads import NoAnswer, Worker

#: Seconds that a new agent waits for a reload that is being read.
REREAD_PATIENCE = 0.5


def check(settings: Settings) -> list[str]:
    """Raise what keeps a daemon with ``settings`` from working here: everything at once. Returns what an admin should
    know besides, one line each. ``locum check-config`` and the daemon both say this and nothing else."""
    listing = ScriptDirectory(settings.paths.events).scan()
    problems = [*check_environment(settings), *(str(fault) for fault in listing.faults)]
    if problems:
        raise ConfigError(settings.source, problems)
    place = settings.paths.events
    return [*environment_warnings(settings), *(f"{place}/{remark}" for remark in listing.remarks)]


def left_behind(settings: Settings, notes: TakenNotes) -> list[str]:
    """Addresses of an earlier life that are still here though the configuration has them no more.

    The new gate does not judge them, and the new agent gives up their claims. Only those with a lifetime are ours: one
    that somebody has configured for good since is his. Raises NetlinkError.
    """
    earlier = {*notes.addresses(), *judged_before()} - {a.address for a in settings.addresses}
    table = AddressTable()
    try:
        return [found.address for found in table.list() if found.address in earlier and not found.permanent]
    finally:
        table.close()


def clear_addresses(addresses: Iterable[str], log: Log) -> None:
    """Remove ``addresses`` from every interface, end the connections to them, and say so."""
    wanted = list(addresses)
    for removed in remove_public(wanted):
        where = f"{removed.address}/{removed.bits} from {removed.interface}"
        if removed.problem:
            log(f"cannot remove {where}: {removed.problem}", "error")
        else:
            log(f"removed {where}", "warning")
    try:
        # Or they would come back to life with the address. What this kernel cannot do, the agent does at the next take.
        ended = destroy(wanted).destroyed if wanted else 0
    except LocumError as error:
        log(f"cannot end the connections to public addresses: {error}", "error")
    else:
        if ended:
            log(f"ended {ended} connections to public addresses", "warning")


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
    forget(paths.runtime)
    page = HoldPage(os.path.join(paths.runtime, "hold"))
    page.clear()
    notes = TakenNotes(os.path.join(paths.runtime, "held"))
    clear_addresses([*(a.address for a in settings.addresses), *left_behind(settings, notes)], log)
    notes.clear()
    preload(settings)
    return _watch(settings, agent, page, log)


class _Configuration:
    """What the guard knows of the configuration: as of its start, or of the last reload.

    Read by a thread: the file system it is on may hang, and a new agent must not wait for that. A file that is wrong,
    or that has been edited and not reloaded, changes nothing.
    """

    def __init__(self, settings: Settings, log: Log) -> None:
        self.settings = settings
        #: Every public address since the beginning.
        self.addresses = [a.address for a in settings.addresses]
        self._log = log
        self._worker = Worker("configuration", room=2)
        # What is reloaded while the system has no thread left must be known when its addresses are to be removed.
        self._worker.prepare()
        self._pending: Future[None] | None = None

    def reread(self) -> None:
        """Read it again some time soon."""
        try:
            self._pending = self._worker.submit("reading the configuration", self._read)
        except NoAnswer as error:
            self._log(f"reload: {error}", "error")

    def await_reread(self) -> None:
        """What was reloaded just now is for an agent that starts now; a file system that hangs is not waited for."""
        if self._pending is not None:
            wait([self._pending], REREAD_PATIENCE)

    def _read(self) -> None:
        try:
            # A new agent gets what the one before had: neither takes up what needs a restart.
            self.settings = taken_up(self.settings, load(self.settings.source))
        except LocumError as error:
            self._log(f"reload: {error}", "error")
            return
        self.addresses = list({*self.addresses, *(a.address for a in self.settings.addresses)})


def _watch(settings: Settings, agent: Callable[[Settings], int], page: HoldPage, log: Log) -> int:
    gate = GuardGate(settings, log)
    guard = os.getpid()
    configuration = _Configuration(settings, log)

    def clear() -> None:
        try:
            clear_addresses(configuration.addresses, log)
        except LocumError as error:
            # They are mute, and the kernel removes them when their lifetime ends. Ending here would help nobody.
            log(f"cannot remove public addresses: {error}", "error")

    silencer = Silencer(gate.shut, clear, lambda: page.deadline <= boottime(), log)

    others = []
    location = settings.cluster.store
    if location.kind in ("memory", "sqlite"):
        # In a process of its own, so that the agent may crash without losing the store.
        arguments = ["--socket", os.path.join(settings.paths.runtime, "store.sock")]
        if location.kind == "sqlite":
            arguments += ["--data", location.path]
        others.append(Child("store", program("locum.store.server", arguments)))

    def work() -> int:
        # An agent without its guard would hold addresses that nobody takes away from it.
        die_with_parent(signal.SIGKILL, guard)
        return agent(configuration.settings)

    start = forked(AGENT_NAME, work)

    def start_agent() -> Process:
        configuration.await_reread()
        return start()

    watch = Watch(page, Child("agent", start_agent), others, silencer.begin, configuration.reread, log)
    try:
        return watch.run()
    finally:
        watch.close()
        page.clear()
        if silencer.finish():
            gate.remove()
            try:
                plain_tcp.remove()
            except LocumError:
                # A kernel without nf_tables; elsewhere the table does no harm, and the next daemon replaces it.
                pass
        else:
            log(
                "the kernel has not removed the public addresses in time: its gate stays, and keeps them silent",
                "error",
            )
        standard_error.drain()
