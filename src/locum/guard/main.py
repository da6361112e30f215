"""``locum daemon``: check everything, start from a clean slate, then watch.

A starting guard has the lock of its runtime directory, so whatever an earlier life left behind belongs to nobody:
every public address is removed from every interface and the kernel's gate starts shut.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait

from locum.addresses.clean import remove_public
from locum.addresses.kernel import AddressTable
from locum.agent.held import HeldNotes
from locum.agent.log import Log
from locum.clock import boottime
from locum.config.environment import check_environment, environment_warnings
from locum.config.load import load
from locum.config.model import Settings
from locum.connections.destroy import destroy
from locum.errors import ConfigError, LocumError, ScriptDirectoryError, UsageError
from locum.events.directory import ScriptDirectory
from locum.guard.children import AGENT_NAME, Child, Process, forked, program
from locum.guard.gatekeeper import GuardGate, judged_before
from locum.guard.kernel import die_with_parent, name_process
from locum.guard.page import Page
from locum.guard.silence import Silencer
from locum.guard.watch import Watch
from locum.lines import standard_error, take_standard_error
from locum.threads import NoAnswer, Worker

#: Seconds that a new agent waits for a reload that is being read.
REREAD_PATIENCE = 0.5

#: How long the remains of a guard that was killed may take to go, and how often they are looked for, in seconds.
REMAINS_LIMIT, REMAINS_PAUSE = 5.0, 0.02


def check(settings: Settings) -> None:
    """Raise what is wrong with this machine or the scripts for ``settings``: everything at once."""
    problems = list(check_environment(settings))
    try:
        listing = ScriptDirectory(settings.paths.events).check()
        problems += [str(fault) for fault in listing.faults]
    except ScriptDirectoryError as error:
        problems += error.problems
    if problems:
        raise ConfigError(settings.source, problems)


def lock(runtime: str) -> int:
    """Take the runtime directory's lock, for as long as the process lives. Raises UsageError when it is taken."""
    handle = os.open(os.path.join(runtime, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def owner() -> int | None:
        words = os.pread(handle, 32, 0).split()
        return int(words[0]) if words and words[0].isdigit() else None

    if not _take(handle, owner):
        taken_by = owner() or "unknown"
        os.close(handle)
        raise UsageError(
            f"another Locum daemon (pid {taken_by}) runs with the runtime directory {runtime}: "
            "stop it, or set another paths.runtime"
        )
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _take(handle: int, owner: Callable[[], int | None]) -> bool:
    """Lock the open file ``handle``; False when another process has the lock.

    A guard that was killed is gone before its agent is, which has the lock as well: that is waited for.
    """
    deadline = time.monotonic() + REMAINS_LIMIT
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = owner()
            if pid is None or not _has_ended(pid) or time.monotonic() > deadline:
                return False
            time.sleep(REMAINS_PAUSE)
        else:
            return True


def _has_ended(pid: int) -> bool:
    """Whether the process has ended; its parent may not have asked for its status yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return True
    # The name, in parentheses, may hold blanks and parentheses itself.
    return text[text.rindex(b")") + 2 :].startswith((b"Z", b"X"))


def lock_network() -> int:
    """Be the only guard in this network namespace, for as long as the process lives: it has one gate, which two daemons
    would take from each other. Raises UsageError when there is another."""
    handle = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if not _take(handle, lambda: _lock_owner(os.fstat(handle).st_ino)):
        owner = _lock_owner(os.fstat(handle).st_ino)
        if owner is not None and _is_of_another_user(owner):
            # Anybody can take this lock, and must not keep a daemon from its work by that.
            return handle
        os.close(handle)
        raise UsageError(
            f"another Locum daemon (pid {owner or 'unknown'}) runs in this network namespace, where only one can keep "
            "public addresses in check: stop it, or run each node in a network namespace of its own"
        )
    return handle


def _lock_owner(inode: int) -> int | None:
    """Who has a lock on the file with that inode, as far as one may know (proc(5), /proc/locks)."""
    with open("/proc/locks", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                return int(words[4])
    return None


def _is_of_another_user(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid != os.geteuid()
    except FileNotFoundError:
        # It has ended, and what it has forked goes on for a moment.
        return False


def left_behind(settings: Settings, notes: HeldNotes) -> list[str]:
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
    check(settings)
    paths = settings.paths
    for directory in (paths.runtime, paths.state):
        os.makedirs(directory, mode=0o755, exist_ok=True)
    lock(paths.runtime)
    lock_network()
    name_process("locum-guard")
    take_standard_error()
    log = Log(settings.node.name, settings.log.level, settings.log.format)
    for warning in environment_warnings(settings):
        log(warning, "warning")
    page = Page(os.path.join(paths.runtime, "hold"))
    page.clear()
    notes = HeldNotes(os.path.join(paths.runtime, "held"))
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
            self.settings = load(self.settings.source)
        except LocumError as error:
            self._log(f"reload: {error}", "error")
            return
        self.addresses = list({*self.addresses, *(a.address for a in self.settings.addresses)})


def _watch(settings: Settings, agent: Callable[[Settings], int], page: Page, log: Log) -> int:
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
        else:
            log(
                "the kernel has not removed the public addresses in time: its gate stays, and keeps them silent",
                "error",
            )
        standard_error.drain()
