"""The record with which the next runner keeps I5: a script never runs twice at once on a node.

Two files in ``RUNTIME/events``. The runner holds ``lock`` (flock) as long as it lives; the file has the
process numbers of the runner and its agent. ``running`` names the running script, by process number and start time. It
is written *before* the script's first instruction and emptied when the runner has seen its end. After the death of any
process, a script without a recorded end is therefore on file, and the next runner ends it before it starts another.

Only light imports: this runs in the runner.
"""

from __future__ import annotations

import fcntl
import json
import os
import time

from locum.errors import LocumError
from locum.processes import boot_id, is_alive, kill, kill_session, process, processes

#: Time for an earlier runner to notice that its agent is gone and to end its script, seconds.
PATIENCE = 8.0
#: The same while its agent is alive, seconds: after that, another daemon uses the directory.
BUSY_PATIENCE = 2.0


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
        #: Scripts whose processes cannot be killed (uninterruptible sleep): name → process numbers and start times.
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
        record = _parse(os.pread(self._running, 1 << 20, 0))
        if record.get("boot") != self._boot:
            self.ended()
            return None
        stuck, running = record.get("stuck"), record.get("running")
        if isinstance(stuck, dict):
            self._stuck = {name: [(int(pid), int(start)) for pid, start in marks] for name, marks in stuck.items()}
        if not isinstance(running, dict):
            return None
        name, session, start = str(running.get("script")), _number(running, "pid"), _number(running, "start")
        if session == 0:
            self._end_unnumbered(name, running)
            self.ended()
            return name
        leader = process(session)
        if leader is None:
            self._kill_orphans(session)
        elif leader.start == start:
            self.stuck(name, [(left.pid, left.start) for left in kill_session(session)])
        self.ended()
        return name

    def starting(self, script: str, event: str, token: str, command: list[str]) -> None:
        """Record that ``script`` is about to run as a process that has ``token`` (LOCUM_RUN) in its environment
        and whose command line ends with ``command``."""
        self._write({"script": script, "event": event, "pid": 0, "token": token, "command": command})

    def begun(self, script: str, event: str, pid: int) -> None:
        """Record that ``script`` runs as process ``pid``, which leads its session."""
        found = process(pid)
        start = found.start if found is not None else 0
        self._write({"script": script, "event": event, "pid": pid, "start": start})

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

    def _write(self, running: dict[str, object] | None) -> None:
        data = json.dumps({"boot": self._boot, "running": running, "stuck": self._stuck}).encode() + b"\n"
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
            holder = _parse(os.pread(self._lock, 4096, 0))
            agent = _number(holder, "agent")
            agent_lives = is_alive(agent, _number(holder, "agent_start"))
            if time.monotonic() >= begin + BUSY_PATIENCE and agent_lives:
                raise RunnerBusy(
                    f"{self._runtime}: in use by process {agent}, which runs event scripts: stop it first, or choose"
                    " another runtime directory"
                )
            runner = process(_number(holder, "pid"))
            stopped = runner is not None and runner.state == "T" and not agent_lives and not killed
            if stopped or time.monotonic() >= deadline:
                if killed or holder.get("boot") != self._boot:
                    raise RunnerBusy(f"{self._runtime}/events/lock: held by a process that cannot be ended")
                # Stopped, or stuck: its agent is dead and it did not notice.
                kill(_number(holder, "pid"), _number(holder, "start"))
                killed = True
                deadline = time.monotonic() + patience
            time.sleep(0.01)

    def _sign(self, agent: int) -> None:
        us, them = process(os.getpid()), process(agent)
        mark = {
            "boot": self._boot,
            "pid": os.getpid(),
            "start": us.start if us else 0,
            "agent": agent,
            "agent_start": them.start if them else 0,
        }
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, json.dumps(mark).encode() + b"\n", 0)

    def _end_unnumbered(self, name: str, running: dict[str, object]) -> None:
        """End a script that may have been started before its number was recorded.

        All processes that it started have its token, services too; but services lead sessions of their own, with
        another command line. A process without a leader may be either, and is ended.
        """
        token, command = running.get("token"), running.get("command")
        if not isinstance(token, str) or not isinstance(command, list):
            return
        mark = os.fsencode(f"LOCUM_RUN={token}")
        ending = b"\0".join(os.fsencode(str(word)) for word in command) + b"\0"
        for session in {one.session for one in processes() if not one.dead and _holds(one.pid, "environ", mark)}:
            leader = process(session)
            if leader is None or leader.dead or _read(session, "cmdline").endswith(ending):
                self.stuck(name, [(left.pid, left.start) for left in kill_session(session)])

    def _kill_orphans(self, session: int) -> None:
        """End the leftovers of a script whose main process is gone.

        The session's number may have been reused since, so a process must also have our runtime directory in its
        environment, as all processes of a script do.
        """
        mark = b"LOCUM_RUNTIME=" + os.fsencode(self._runtime)
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            left = [
                one
                for one in processes()
                if one.session == session and not one.dead and _holds(one.pid, "environ", mark)
            ]
            if not left:
                return
            for one in left:
                kill(one.pid, one.start)
            time.sleep(0.005)


def _holds(pid: int, name: str, item: bytes) -> bool:
    return item in _read(pid, name).split(b"\0")


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _number(record: dict[str, object], key: str) -> int:
    value = record.get(key)
    return value if isinstance(value, int) else 0


def _parse(data: bytes) -> dict[str, object]:
    """The record's first line, empty when it is missing or foreign."""
    try:
        value = json.loads(data.split(b"\n", 1)[0])
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
