"""Children of the guard: forked, and started again when they have ended."""

from __future__ import annotations

import os
import signal
import time

import pytest

from locum.node.guard.children import FREE_STARTS, LONGEST_PAUSE, Child, forked
from tests.unit.node.guard.ending import wait_for_end


def test_its_work_runs_in_a_process_of_its_own_and_gives_the_status() -> None:
    child = Child("agent", forked("test-agent", lambda: 7))
    child.start(100.0)
    assert child.pid is not None
    assert child.pid != os.getpid()
    assert wait_for_end(child, 200.0) == 7


def test_an_exception_in_it_is_status_1_and_does_not_return_here() -> None:
    def fail() -> int:
        raise RuntimeError("a defect")

    child = Child("agent", forked("test-agent", fail))
    child.start(100.0)
    assert wait_for_end(child, 200.0) == 1


def test_a_signal_shows_in_the_status() -> None:
    def sleep() -> int:
        time.sleep(60)
        return 0

    child = Child("agent", forked("test-agent", sleep))
    child.start(100.0)
    child.signal(signal.SIGKILL)
    assert wait_for_end(child, 200.0) == -signal.SIGKILL


def test_one_that_lived_is_started_again_at_once_and_one_that_keeps_dying_waits() -> None:
    child = Child("agent", forked("test-agent", lambda: 1))
    child.start(100.0)
    wait_for_end(child, 200.0)
    assert child.start_at == 200.0
    pauses = []
    for _ in range(FREE_STARTS + 20):
        child.start(300.0)
        wait_for_end(child, 300.1)
        pauses.append(child.start_at - 300.1)
    assert pauses[:FREE_STARTS] == [0.0] * FREE_STARTS
    assert pauses[FREE_STARTS] > 0
    assert max(pauses) == pytest.approx(LONGEST_PAUSE)
