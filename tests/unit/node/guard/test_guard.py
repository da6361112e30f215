"""The guard's parts: the shared page, timers that count suspended time, children that come back."""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from pathlib import Path

import pytest

from locum.clock import boottime
from locum.errors import UsageError
from locum.lateness import Stop
from locum.node.guard.children import FREE_STARTS, LONGEST_PAUSE, Child, forked
from locum.node.guard.hold_page import HoldPage
from locum.node.guard.locks import lock
from locum.node.guard.ports import ProcessPort
from locum.node.guard.system_calls import BootTimer
from locum.node.guard.wakeups import HANDLED, Wakeups
from locum.node.guard.watch import LONGEST_SLEEP, START_PAUSE, Watch


class NoSilence:
    """The node has no addresses."""

    def begin(self) -> None:
        """See Silencing."""

    def again(self) -> None:
        """See Silencing."""


def wait_for_end(child: Child, now: float) -> int:
    """The status with which ``child`` ends."""
    end = time.monotonic() + 30
    while (status := child.ended(now)) is None:
        assert time.monotonic() < end, "the child does not end"
        time.sleep(0.005)
    return status


class TestPage:
    def test_what_the_agent_writes_the_guard_and_the_next_agent_read(self, tmp_path: Path) -> None:
        agent, guard = HoldPage(str(tmp_path / "hold")), HoldPage(str(tmp_path / "hold"))
        agent.confirm("0123456789abcdef", slot=3, deadline=1234.5, revision=2**40, quiet=1233.5)
        assert (guard.incarnation, guard.slot, guard.deadline) == ("0123456789abcdef", 3, 1234.5)
        assert (guard.revision, guard.quiet) == (2**40, 1233.5)

    def test_i1_a_new_incarnation_does_not_inherit_the_deadline_of_the_old(self, tmp_path: Path) -> None:
        page = HoldPage(str(tmp_path / "hold"))
        page.confirm("old", slot=1, deadline=1000.0, revision=7, quiet=0.0)
        page.clear()
        assert page.deadline == 0.0
        assert page.incarnation == ""

    def test_a_page_of_an_earlier_life_is_read_as_it_is(self, tmp_path: Path) -> None:
        page = HoldPage(str(tmp_path / "hold"))
        page.beat(77.0)
        page.close()
        assert HoldPage(str(tmp_path / "hold")).pulse == 77.0

    def test_the_longest_stop_of_the_guard_reaches_the_agent_whatever_its_place_is_called(self, tmp_path: Path) -> None:
        guard, agent = HoldPage(str(tmp_path / "hold")), HoldPage(str(tmp_path / "hold"))
        assert agent.guard_stop is None
        for where in ("node/guard/children.py:70 (start)", "", "x" * 400):
            guard.tell_guard_stop(Stop(1.5, where, 1.7e9, everything=not where))
            told = agent.guard_stop
            assert told is not None
            assert (told.seconds, told.at, told.everything) == (1.5, 1.7e9, not where)
            assert told.where == where[:152]
        guard.tell_guard_stop(None)
        assert agent.guard_stop is None


class TestBootTimer:
    def test_a_time_that_has_passed_fires_at_once(self) -> None:
        timer = BootTimer()
        timer.set(boottime() - 5)
        assert select.select([timer.fd], [], [], 30)[0]
        timer.clear()
        assert not select.select([timer.fd], [], [], 0)[0]

    def test_it_does_not_fire_early(self) -> None:
        timer = BootTimer()
        when = boottime() + 0.05
        timer.set(when)
        assert select.select([timer.fd], [], [], 30)[0]
        assert boottime() >= when


class TestChild:
    def test_its_work_runs_in_a_process_of_its_own_and_gives_the_status(self) -> None:
        child = Child("agent", forked("test-agent", lambda: 7))
        child.start(100.0)
        assert child.pid is not None
        assert child.pid != os.getpid()
        assert wait_for_end(child, 200.0) == 7

    def test_an_exception_in_it_is_status_1_and_does_not_return_here(self) -> None:
        def fail() -> int:
            raise RuntimeError("a defect")

        child = Child("agent", forked("test-agent", fail))
        child.start(100.0)
        assert wait_for_end(child, 200.0) == 1

    def test_a_signal_shows_in_the_status(self) -> None:
        def sleep() -> int:
            time.sleep(60)
            return 0

        child = Child("agent", forked("test-agent", sleep))
        child.start(100.0)
        child.signal(signal.SIGKILL)
        assert wait_for_end(child, 200.0) == -signal.SIGKILL

    def test_one_that_lived_is_started_again_at_once_and_one_that_keeps_dying_waits(self) -> None:
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


class TestWatch:
    @pytest.mark.parametrize("asked_by", ["a signal to the guard", "a command to the agent"])
    def test_an_agent_that_dies_while_its_node_leaves_is_followed_by_one_that_leaves(
        self, tmp_path: Path, asked_by: str
    ) -> None:
        page = HoldPage(str(tmp_path / "hold"))
        lives, leaving = tmp_path / "lives", threading.Event()

        def life() -> int:
            signal.signal(signal.SIGTERM, lambda *_: leaving.set())
            with lives.open("a") as file:
                file.write("x")
            first = lives.read_text() == "x"
            page.beat(boottime())
            if first and asked_by == "a command to the agent":
                os.kill(os.getppid(), signal.SIGUSR2)
            else:
                while not leaving.wait(0.1):
                    page.beat(boottime())
            if first:
                os.kill(os.getpid(), signal.SIGKILL)
            return 0

        guard = Child("guard", forked("test-guard", lambda: _watch(page, Child("agent", forked("test-agent", life)))))
        guard.start(0.0)
        if asked_by == "a signal to the guard":
            deadline = time.monotonic() + 30
            while not page.pulse:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            guard.signal(signal.SIGTERM)
        assert wait_for_end(guard, 1.0) == 0
        assert lives.read_text() == "xx"

    def test_a_system_that_has_no_process_to_spare_does_not_end_the_guard(self, tmp_path: Path) -> None:
        tries = []

        def start() -> ProcessPort:
            tries.append(boottime())
            if len(tries) == 1:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return forked("test-agent", lambda: 0)()

        log: list[str] = []
        page = HoldPage(str(tmp_path / "hold"))
        handlers = {number: signal.getsignal(number) for number in HANDLED}
        try:
            watch = Watch(
                Wakeups(60.0),  # a busy machine must not make the loop report its own lateness
                page,
                Child("agent", start),
                [],
                NoSilence(),
                lambda: None,
                lambda text, _: log.append(text),
            )
            assert watch.run() == 0
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        assert tries[1] - tries[0] >= START_PAUSE
        assert log == [f"cannot start the agent: {os.strerror(errno.EAGAIN)}; trying again"]

    def test_a_loop_that_stands_is_told_in_the_log_and_to_the_agent(self, tmp_path: Path) -> None:
        log: list[str] = []
        page = HoldPage(str(tmp_path / "hold"))

        def agent() -> int:
            while page.guard_stop is None:
                page.beat(boottime())
                os.kill(os.getppid(), signal.SIGUSR1)
                time.sleep(0.2)
            return 0

        def reread() -> None:
            # Longer than the monitor, which looks every LONGEST_SLEEP, can miss.
            time.sleep(4 * LONGEST_SLEEP)

        handlers = {number: signal.getsignal(number) for number in HANDLED}
        try:
            child = Child("agent", forked("test-agent", agent))
            watch = Watch(
                Wakeups(LONGEST_SLEEP), page, child, [], NoSilence(), reread, lambda text, _: log.append(text)
            )
            assert watch.run() == 0
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        told = page.guard_stop
        assert told is not None
        assert told.seconds >= 0.25
        assert told.everything or "node/guard/watch.py" in told.where
        assert any(line.startswith("the guard's loop stood for") for line in log)


def _watch(page: HoldPage, agent: Child) -> int:
    return Watch(Wakeups(LONGEST_SLEEP), page, agent, [], NoSilence(), lambda: None, lambda *_: None).run()
