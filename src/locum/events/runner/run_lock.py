"""The record with which the next runner keeps I5: a script never runs twice at once on a node.

Two files in ``RUNTIME/events``. The runner holds ``lock`` (flock) as long as it lives; the file has the
process numbers of the runner and its agent. ``running`` names the running script, by process number and start time. It
is written *before* the script's first instruction and emptied when the runner has seen its end. After the death of any
process, a script without a recorded end is therefore on file, and the next runner ends it before it starts another.

Only light imports: this runs in the runner.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TypeVar

import msgspec

from locum.errors import LocumError
from locum.outside import UNDECODABLE
from locum.processes import boot_id, is_alive, kill, kill_session, process, processes, read, session_members

#: Time for an earlier runner to notice that its agent is gone and to end its script, seconds.
PATIENCE = 8.0
#: The same while its agent is alive, seconds: after that, another daemon uses the directory.
BUSY_PATIENCE = 2.0

T = TypeVar("T")


class Running(msgspec.Struct):
    """The script that runs: process ``pid``, which leads its session and began at ``start`` (clock ticks since boot).

    While the number is not known, ``pid`` is 0: it has ``token`` (LOCUM_RUN) in its environment, and its command line
    ends with ``command``.
    """

    script: str = ""
    event: str = ""
    pid: int = 0
    start: int = 0
    token: str = ""
    command: list[str] = []


class Record(msgspec.Struct):
    """The file ``running``. ``stuck``: scripts whose processes cannot be killed (uninterruptible sleep): name →
    process numbers and start times."""

    boot: str = ""
    running: Running | None = None
    stuck: dict[str, list[tuple[int, int]]] = {}


class Holder(msgspec.Struct):
    """The file ``lock``: the processes of the runner and its agent, and when they began."""

    boot: str = ""
    pid: int = 0
    start: int = 0
    agent: int = 0
    agent_start: int = 0


class RunnerBusy(LocumError):
    """Another runner, whose agent is alive, works with this runtime directory."""


class RunLock:
    """The lock and the record of one runtime directory, held by this process until :meth:`close`."""

    def __init__(self, runtime: str, agent: int, patience: float = PATIENCE) -> None:
        """Wait for an earlier runner to end, and end it when it is stuck and its agent is gone.

        ``agent`` is the process for which this runner works. Raises :class:`RunnerBusy`, and OSError when the
        directory cannot be written.
        """
        directory = os.path.join(runtime, "events")
        os.makedirs(directory, exist_ok=True)
        self._runtime = runtime
        self._boot = boot_id()
        self._stuck: dict[str, list[tuple[int, int]]] = {}
        self._lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._acquire(patience)
            self._sign(agent)
            self._running = os.open(os.path.join(directory, "running"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except BaseException:
            os.close(self._lock)
            raise

    def end_earlier(self) -> str | None:
        """End the script that an earlier runner left behind. Returns its name, None when there was none."""
        record = first_line_of(os.pread(self._running, 1 << 20, 0), Record)
        if record.boot != self._boot:
            self.ended()
            return None
        self._stuck, running = record.stuck, record.running
        if running is None:
            return None
        leader = process(running.pid) if running.pid else None
        if not running.pid:
            self._end_unnumbered(running)
        elif leader is None:
            self._kill_orphans(running.pid)
        elif leader.start == running.start:
            self._end_session(running)
        self.ended()
        return running.script

    def starting(self, script: str, event: str, token: str, command: list[str]) -> None:
        """Record that ``script`` is about to run; for ``token`` and ``command`` see :class:`Running`."""
        self._write(Running(script, event, token=token, command=command))

    def begun(self, script: str, event: str, pid: int) -> None:
        """Record that ``script`` runs as process ``pid``, which leads its session."""
        found = process(pid)
        self._write(Running(script, event, pid, found.start if found is not None else 0))

    def ended(self) -> None:
        """Record that no script runs."""
        self._write(None)

    def stuck(self, script: str, marks: list[tuple[int, int]]) -> None:
        """Remember processes of ``script`` that could not be killed."""
        if marks:
            self._stuck[script] = self._stuck.get(script, []) + marks

    def still_running(self, script: str) -> list[int]:
        """Process numbers of an earlier run of ``script`` that could not be killed and still live."""
        alive = [(pid, start) for pid, start in self._stuck.get(script, []) if is_alive(pid, start)]
        if alive:
            self._stuck[script] = alive
        else:
            self._stuck.pop(script, None)
        return [pid for pid, _ in alive]

    def close(self) -> None:
        """Let the next runner in."""
        os.close(self._running)
        os.close(self._lock)

    def _write(self, running: Running | None) -> None:
        data = msgspec.json.encode(Record(self._boot, running, self._stuck)) + b"\n"
        # In one write, and cut afterwards: a reader never finds less than the whole first line.
        os.pwrite(self._running, data, 0)
        os.ftruncate(self._running, len(data))

    def _acquire(self, patience: float) -> None:
        begin = time.monotonic()
        deadline = begin + patience
        killed = False
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pass
            holder = first_line_of(os.pread(self._lock, 4096, 0), Holder)
            agent_lives = is_alive(holder.agent, holder.agent_start)
            if time.monotonic() >= begin + BUSY_PATIENCE and agent_lives:
                raise RunnerBusy(
                    f"{self._runtime}: in use by process {holder.agent}, which runs event scripts: stop it first, or"
                    " choose another runtime directory"
                )
            runner = process(holder.pid)
            stopped = runner is not None and runner.state == "T" and not agent_lives and not killed
            if stopped or time.monotonic() >= deadline:
                if killed or holder.boot != self._boot:
                    raise RunnerBusy(f"{self._runtime}/events/lock: held by a process that cannot be ended")
                # Stopped, or stuck: its agent is dead and it did not notice.
                kill(holder.pid, holder.start)
                killed = True
                deadline = time.monotonic() + patience
            time.sleep(0.01)

    def _sign(self, agent: int) -> None:
        us, them = process(os.getpid()), process(agent)
        holder = Holder(self._boot, os.getpid(), us.start if us else 0, agent, them.start if them else 0)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, msgspec.json.encode(holder) + b"\n", 0)

    def _end_session(self, running: Running, session: int = 0) -> None:
        left = kill_session(session or running.pid)
        self.stuck(running.script, [(one.pid, one.start) for one in left])

    def _end_unnumbered(self, running: Running) -> None:
        """End a script that may have been started before its number was recorded.

        All processes that it started have its token, services too; but services lead sessions of their own, with
        another command line. A process without a leader may be either, and is ended.
        """
        mark = os.fsencode(f"LOCUM_RUN={running.token}")
        ending = b"\0".join(os.fsencode(word) for word in running.command) + b"\0"
        for session in {one.session for one in processes() if not one.dead and _holds(one.pid, "environ", mark)}:
            leader = process(session)
            if leader is None or leader.dead or read(session, "cmdline").endswith(ending):
                self._end_session(running, session)

    def _kill_orphans(self, session: int) -> None:
        """End the leftovers of a script whose main process is gone.

        The session's number may have been reused since, so a process must also have our runtime directory in its
        environment, as all processes of a script do.
        """
        mark = b"LOCUM_RUNTIME=" + os.fsencode(self._runtime)
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            left = [one for one in session_members(session) if _holds(one.pid, "environ", mark)]
            if not left:
                return
            for one in left:
                kill(one.pid, one.start)
            time.sleep(0.005)


def _holds(pid: int, name: str, item: bytes) -> bool:
    return item in read(pid, name).split(b"\0")


def first_line_of(data: bytes, kind: type[T]) -> T:
    """The record in the first line, an empty one when it is missing or foreign."""
    try:
        return msgspec.json.decode(data.split(b"\n", 1)[0], type=kind)
    except UNDECODABLE:
        return kind()
