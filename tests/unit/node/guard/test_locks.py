"""One daemon in one place."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from locum.errors import UsageError
from locum.node.guard.locks import lock


def test_a_second_daemon_in_the_same_place_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    first = lock(str(tmp_path))
    with pytest.raises(UsageError, match=rf"pid {os.getpid()}"):
        lock(str(tmp_path))
    os.close(first)
    os.close(lock(str(tmp_path)))


def test_the_lock_of_a_guard_that_was_killed_is_waited_for(tmp_path: Path) -> None:
    """Its agent has the lock too, and goes a moment later."""
    ended, agent_ends = os.pipe()
    guard = os.fork()
    if guard == 0:
        lock(str(tmp_path))
        if os.fork() == 0:
            os.read(ended, 1)
            os._exit(0)
        os._exit(0)
    os.waitpid(guard, 0)
    timer = threading.Timer(0.2, os.write, (agent_ends, b"x"))
    timer.start()
    os.close(lock(str(tmp_path)))
    timer.join()
