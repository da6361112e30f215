"""Stop the daemon of a control socket, and wait until it has ended, or until its addresses are handed over.

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
from locum.control_socket import Connection, ConnectionClosed, NoAnswer, NoDaemon
from locum.errors import LocumError
from locum.processes import process

#: The guard's name in /proc/PID/comm.
GUARD_NAME = "locum-guard"
#: How long a guard is watched before its next agent is asked, and the shortest limit for an answer, in seconds.
_LOOK_AGAIN, _SHORTEST = 0.3, 0.1


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


def hand_over(socket_path: str, timeout: float) -> None:
    """Make the daemon at ``socket_path`` leave, and return when other nodes serve its addresses, as far as they can.

    The daemon then runs ``shutdown`` and ends by itself. It may have ended already when this returns. ``timeout`` and
    errors as for :func:`shut_down`. An agent that dies meanwhile is asked again once its guard has replaced it.
    """
    deadline = time.monotonic() + timeout
    guard: int | None = None
    try:
        while True:
            try:
                with Connection(socket_path, max(deadline - time.monotonic(), _SHORTEST)) as daemon:
                    if guard is None:
                        guard = _watch_guard(daemon.peer.pid)
                    client.send(daemon, {"op": "shutdown", "until": "handed-over"})
                    answer = msgspec.json.decode(client.receive(daemon).result, type=_Answer)
                    if answer.inside:
                        raise WithinEvent(f"the daemon {answer.message}")
                    return
            except NoDaemon as error:
                if guard is None and not isinstance(error, ConnectionClosed):
                    raise  # it did not run when this began
                if guard is None or _ends(guard, _LOOK_AGAIN):
                    return  # it has left
                if time.monotonic() >= deadline:
                    raise NoAnswer(f"the daemon at {socket_path} does not answer; see its log") from None
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
    if _ends(descriptor, max(deadline - time.monotonic(), 0.0)):
        return True
    raise NoAnswer(
        f"the daemon at {path} has not ended within {timeout:g} s; it is still leaving: see 'locum status' and its log"
    )


def _ends(descriptor: int, seconds: float) -> bool:
    """Whether the process of this descriptor ends within ``seconds``."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


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
