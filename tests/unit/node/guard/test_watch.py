"""The guard's loop: it follows its node to the end, survives a lack of processes, and reports its own stops."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from locum.clock import boottime
from locum.node.guard.children import Child, forked
from locum.node.guard.hold_page import HoldPage
from locum.node.guard.ports import ProcessPort
from locum.node.guard.wakeups import HANDLED, Wakeups
from locum.node.guard.watch import LONGEST_SLEEP, START_PAUSE, Watch
from locum.service_manager import ServiceManager
from tests.unit.node.guard.ending import wait_for_end


class NoSilence:
    """The node has no addresses."""

    def begin(self) -> None:
        """See Silencing."""

    def again(self) -> None:
        """See Silencing."""


@pytest.mark.parametrize("asked_by", ["a signal to the guard", "a command to the agent"])
def test_an_agent_that_dies_while_its_node_leaves_is_followed_by_one_that_leaves(tmp_path: Path, asked_by: str) -> None:
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


def test_a_system_that_has_no_process_to_spare_does_not_end_the_guard(tmp_path: Path) -> None:
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
            _wakeups(60.0),  # a busy machine must not make the loop report its own lateness
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


def test_a_loop_that_stands_is_told_in_the_log_and_to_the_agent(tmp_path: Path) -> None:
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
            _wakeups(),
            page,
            child,
            [],
            NoSilence(),
            reread,
            lambda text, _: log.append(text),
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


def _wakeups(pace: float = LONGEST_SLEEP) -> Wakeups:
    return Wakeups(pace, ServiceManager({}))


def _watch(page: HoldPage, agent: Child) -> int:
    return Watch(_wakeups(), page, agent, [], NoSilence(), lambda: None, lambda *_: None).run()
