"""Stop the daemon of a control socket, and wait until it has ended, not only until it no longer answers.

This file finds the process that listens at the socket (the agent) and its parent (the guard) through the kernel
(``SO_PEERCRED``, proc(5), pidfd_open(2)). No asyncio.

The agent ends first; its guard then cleans up and ends some tenths of a second later. Until then the runtime directory
and the network namespace are locked, so that a new daemon cannot start.
"""

from __future__ import annotations

import os
import select
import time

import msgspec

from locum.api import client
from locum.control_socket import Connection, NoAnswer, NoDaemon
from locum.errors import LocumError
from locum.processes import process

#: The guard's name in /proc/PID/comm.
GUARD_NAME = "locum-guard"


class _Answer(msgspec.Struct):
    """The daemon's answer: its reaction, and the event from within which the request came."""

    message: str = ""
    inside: str = ""


class WithinEvent(LocumError):
    """The daemon was asked from within one of its own events: it ends later, so the caller cannot wait for its end."""


def shut_down(socket_path: str, timeout: float, *, wait: bool = True) -> bool:
    """Make the daemon at ``socket_path`` leave the cluster and end; return whether its end was seen.

    ``timeout`` in seconds is for everything. Without ``wait`` it returns as soon as the daemon begins to leave. The
    result is also False when the agent has ended and its guard cannot be watched (it belongs to another PID namespace).
    Raises WithinEvent, which says when the daemon leaves, when the caller is part of a running event script.

    Raises NoDaemon, PermissionRequired; NoAnswer when the daemon has not ended in time.
    """
    deadline = time.monotonic() + timeout
    with Connection(socket_path, timeout) as daemon:
        guard = _watch_guard(daemon.peer.pid)
        try:
            client.send(daemon, {"op": "shutdown"})
            answer = msgspec.json.decode(client.receive(daemon).result, type=_Answer)
            if not wait:
                return False
            if answer.inside:
                raise WithinEvent(f"the daemon {answer.message}")
            if guard is None:
                _wait_for_close(daemon)
                return False
            return _wait_for_process(guard, deadline, socket_path, timeout)
        finally:
            if guard is not None:
                os.close(guard)


def _wait_for_close(daemon: Connection) -> None:
    try:
        while True:
            client.receive(daemon)
    except NoDaemon:
        return


def _wait_for_process(descriptor: int, deadline: float, path: str, timeout: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if poll.poll(max(deadline - time.monotonic(), 0.0) * 1000):
        return True
    raise NoAnswer(
        f"the daemon at {path} has not ended within {timeout:g} s; it is still leaving: see 'locum status' and its log"
    )


def _watch_guard(agent: int) -> int | None:
    """A descriptor that becomes readable when the guard of ``agent`` ends; None when there can be none."""
    guard = _parent(agent)
    found = process(guard)
    if found is None or found.name != GUARD_NAME:
        return None
    try:
        descriptor = os.pidfd_open(guard)
    except OSError:
        return None
    # The pid may have gone to another process in between, but not while it is still the agent's parent.
    if _parent(agent) != guard:
        os.close(descriptor)
        return None
    return descriptor


def _parent(pid: int) -> int:
    found = process(pid)
    return found.parent if found is not None else 0
