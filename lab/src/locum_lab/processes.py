"""Processes by pid and start time, and their families as /proc shows them.

The kernel reuses a pid after its process has ended. A pid with the start time of its process (field 22 of
/proc/PID/stat, proc(5)) identifies one process permanently. This file knows nothing of labs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

#: The nice value of :func:`prefer`.
_PREFERRED = -10


class Process(msgspec.Struct, frozen=True):
    """A permanent identity of one process: ``started`` is in clock ticks since boot."""

    pid: int
    started: int


class Stat(msgspec.Struct, frozen=True):
    """The content of /proc/PID/stat: state letter, parent, number of threads, start time in clock ticks."""

    state: str
    parent: int
    threads: int
    started: int

    @property
    def ended(self) -> bool:
        """Whether the process has ended. Its first thread may be a zombie while others still have its sockets open."""
        return self.state in "ZX" and self.threads <= 1


def read_stat(pid: int) -> Stat | None:
    """The process's stat; None without such a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may itself contain blanks and parentheses.
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(fields[0].decode(), int(fields[1]), int(fields[17]), int(fields[19]))


def find(pid: int) -> Process | None:
    """The process that has this pid now; None without one, or for a zombie."""
    stat = read_stat(pid)
    return None if stat is None or stat.ended else Process(pid, stat.started)


def alive(process: Process | None) -> bool:
    """Whether exactly this process still runs (a zombie does not)."""
    return process is not None and find(process.pid) == process


def send(process: Process, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False when it is gone."""
    if not alive(process):
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


class Children:
    """Starts processes and collects them when they end, so that none stays a zombie."""

    def __init__(self) -> None:
        self._children: list[subprocess.Popen[bytes]] = []

    def spawn(
        self, argv: Sequence[str], *, namespace: str | None, log: Path, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a process in a named network namespace, in a session of its own, its output appended to ``log``.

        ``ip netns exec`` gives it a /sys of that namespace and then becomes the command: the pid is the command's.
        ``namespace`` None: a new one, which ends with the process.
        """
        inside = ["unshare", "--net"] if namespace is None else ["ip", "netns", "exec", namespace]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            child = subprocess.Popen(
                [*inside, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._children.append(child)
        stat = read_stat(child.pid)
        assert stat is not None  # our own child, not waited for yet
        return Process(child.pid, stat.started)

    def reap(self) -> None:
        """Collect ended children."""
        self._children = [child for child in self._children if child.poll() is None]


def family(roots: Iterable[int]) -> tuple[Process, ...]:
    """The processes with these pids and all of their living descendants, parents first."""
    children: dict[int, list[int]] = {}
    found: dict[int, Stat] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := read_stat(int(entry))) is not None:
            found[int(entry)] = stat
            children.setdefault(stat.parent, []).append(int(entry))
    result: dict[int, Process] = {}
    waiting = list(roots)
    while waiting:
        pid = waiting.pop(0)
        if pid in result or pid not in found:
            continue
        if not found[pid].ended:
            result[pid] = Process(pid, found[pid].started)
        waiting += children.get(pid, ())
    return tuple(result.values())


def sessions(numbers: Collection[int]) -> tuple[int, ...]:
    """The living processes of these sessions (setsid(2)); a session's number is that of its first process."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.getsid(int(entry)) in numbers:
                    found.append(int(entry))
            except ProcessLookupError:
                continue
    return tuple(found)


def prefer(pid: int) -> None:
    """Let the kernel prefer the session that this process has begun to ordinary ones, where it allows that.

    A session has its own share of the processor (sched(7), "The autogroup feature"), within which a nice value has no
    effect; so the session's is set.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(_PREFERRED))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, _PREFERRED)


def environment_of(pid: int) -> dict[str, str]:
    """The initial environment of the process; empty when it cannot be read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            items = file.read().split(b"\0")
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in items if b"=" in item)
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, _, value in pairs}


def command_of(pid: int) -> str:
    """The command line, separated by blanks; empty without one."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def name_of(pid: int) -> str:
    """The name that the process gave itself (``ps -o comm``); empty without such a process."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def stop_all(select: Callable[[], Sequence[Process]]) -> tuple[Process, ...]:
    """SIGSTOP every process that ``select`` finds, until it finds no new one: no stopped process can start another."""
    stopped: dict[int, Process] = {}
    while True:
        new = [process for process in select() if process.pid not in stopped]
        if not new:
            return tuple(stopped.values())
        for process in new:
            send(process, signal.SIGSTOP)
            stopped[process.pid] = process


def kill_all(select: Callable[[], Sequence[Process]]) -> tuple[Process, ...]:
    """SIGKILL every process that ``select`` finds, all at one instant: they are stopped first."""
    victims = stop_all(select)
    for process in victims:
        send(process, signal.SIGKILL)
    return victims


def wait_gone(gone: Sequence[Process], limit: float) -> tuple[Process, ...]:
    """Wait until none of the processes runs, at most ``limit`` seconds; return those that still run."""
    deadline = time.monotonic() + limit
    while True:
        remaining = tuple(process for process in gone if alive(process))
        if not remaining or time.monotonic() > deadline:
            return remaining
        time.sleep(0.002)
