"""Processes as /proc shows them: identity, session, and the end of a whole session.

Rules of this file: it knows processes and sessions, not scripts. A process is identified by its number *and* its
start time, because numbers are reused. Only light imports: this runs in the runner.

Why sessions and not process groups: every script leads a session of its own, and its children stay in it even when
they make process groups (``timeout(1)`` and shells with job control do). A daemon leaves the session
(setsid(2)), which distinguishes a service from leftovers of a script.
"""

from __future__ import annotations

import os
import signal
import time

#: Longest wait for the end of killed processes, seconds. Only uninterruptible sleep lasts longer.
KILL_LIMIT = 5.0

_DEAD = ("Z", "X")


class Process:
    """One line of /proc/PID/stat. ``start`` is in clock ticks since boot; ``state`` a letter as in proc(5)."""

    __slots__ = ("group", "name", "parent", "pid", "session", "start", "state", "threads")

    def __init__(self, pid: int, line: bytes) -> None:
        head, _, tail = line.rpartition(b")")  # the name may contain anything, also spaces and parentheses
        fields = tail.split()
        self.pid = pid
        self.name = head.partition(b"(")[2].decode("utf-8", "replace")
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.threads = int(fields[17])
        self.start = int(fields[19])

    @property
    def dead(self) -> bool:
        """Whether it has ended: a zombie, which no longer holds resources.

        The first thread of a process becomes a zombie when it ends, and the others go on with all files and sockets.
        """
        return self.state in _DEAD and self.threads <= 1


def process(pid: int) -> Process | None:
    """The process ``pid``, or None when there is none."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return Process(pid, os.read(descriptor, 4096))
        finally:
            os.close(descriptor)
    except (OSError, IndexError, ValueError):
        return None


def read(pid: int, name: str, limit: int = -1) -> bytes:
    """At most ``limit`` bytes of /proc/PID/NAME (-1: all); empty when it cannot be read."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read(limit)
    except OSError:
        return b""


def processes() -> list[Process]:
    """All current processes."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [one for one in found if one is not None]


def is_alive(pid: int, start: int) -> bool:
    """Whether the process ``pid`` that began at ``start`` still runs."""
    found = process(pid)
    return found is not None and found.start == start and not found.dead


def boot_id() -> str:
    """The name of this boot of the kernel; process numbers and start times are meaningful within one boot only."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def session_members(session: int) -> list[Process]:
    """The processes of ``session`` that have not ended."""
    return [one for one in processes() if one.session == session and not one.dead]


def kill(pid: int, start: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to exactly this process; do nothing when it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        found = process(pid)  # the number cannot pass to another process while the handle proves it alive
        if found is not None and found.start == start:
            signal.pidfd_send_signal(handle, number)
    except OSError:
        pass
    finally:
        os.close(handle)


def kill_session(session: int, limit: float = KILL_LIMIT) -> list[Process]:
    """Kill every process of ``session`` and wait, at most ``limit`` seconds, until all have ended.

    SIGKILL at once: it reaches stopped processes and those that ignore SIGTERM. Returns the processes that remain: they
    are in uninterruptible sleep and end when the kernel lets them.
    """
    deadline = time.monotonic() + limit
    pause = 0.001
    while True:
        try:
            os.killpg(session, signal.SIGKILL)  # in one step, so that a fork bomb cannot outrun it
        except OSError:
            pass
        members = session_members(session)
        if not members or time.monotonic() >= deadline:
            return members
        for member in members:
            kill(member.pid, member.start)
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
