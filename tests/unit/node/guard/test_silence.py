"""Silencing: the guard's loop waits for neither of the kernel's locks, and neither act for the other."""

from __future__ import annotations

import threading
import time

import pytest

from locum.node.guard.silence import ROOM, Silencer
from locum.node.guard.wakeups import Wakeups
from locum.service_manager import ServiceManager
from locum.threads import Worker

LONG = 30.0


class Scene:
    """Acts that hang until they are let go, a hold that is over or not, a log."""

    def __init__(self) -> None:
        self.may_shut, self.may_clear = threading.Event(), threading.Event()
        self.shut_done, self.cleared = threading.Event(), threading.Event()
        self.due = True
        self.steps: list[str] = []
        self.lines: list[str] = []
        #: What the kernel refuses at the next removals.
        self.problems: list[list[str]] = []
        self.wakeups = Wakeups(1.0, ServiceManager({}))
        self.silencer = Silencer(
            Worker("gate", room=ROOM),
            Worker("addresses", room=ROOM),
            self._shut,
            self._clear,
            lambda: self.due,
            lambda text, _: self.lines.append(text),
        )

    def _shut(self) -> list[str]:
        self.may_shut.wait(LONG)
        self.steps.append("shut")
        self.shut_done.set()
        return []

    def _clear(self) -> list[str]:
        self.may_clear.wait(LONG)
        self.steps.append("clear")
        self.cleared.set()
        return self.problems.pop(0) if self.problems else []

    def finish(self, limit: float = LONG) -> bool:
        """The end of the guard."""
        return self.silencer.finish(self.wakeups, limit)


def test_addresses_go_while_the_lock_of_nftables_is_held_by_another_program() -> None:
    scene = Scene()
    scene.may_clear.set()
    scene.silencer.begin()
    assert scene.cleared.wait(LONG)
    assert not scene.shut_done.is_set()
    scene.may_shut.set()
    assert scene.shut_done.wait(LONG)


def test_the_gate_shuts_while_the_lock_of_rtnetlink_is_held_by_another_program() -> None:
    scene = Scene()
    scene.may_shut.set()
    scene.silencer.begin()
    assert scene.shut_done.wait(LONG)
    assert not scene.cleared.is_set()
    scene.may_clear.set()


def test_asking_again_and_again_while_both_hang_neither_waits_nor_grows() -> None:
    scene = Scene()
    for _ in range(100):
        scene.silencer.begin()
    assert scene.lines
    assert threading.active_count() < 50
    scene.may_shut.set()
    scene.may_clear.set()


def test_a_hold_that_came_back_meanwhile_is_not_cut_short_but_the_end_of_the_guard_silences_in_any_case() -> None:
    scene = Scene()
    scene.may_shut.set()
    scene.may_clear.set()
    scene.due = False
    scene.silencer.begin()
    assert scene.finish()
    assert sorted(scene.steps) == ["clear", "shut"]


def test_the_end_of_the_guard_waits_for_the_kernel_only_so_long() -> None:
    scene = Scene()
    assert not scene.finish(0.05)
    scene.may_shut.set()
    scene.may_clear.set()


def test_the_node_falls_silent_when_the_system_has_no_thread_left(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    scene.may_shut.set()
    scene.may_clear.set()

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    scene.silencer.begin()
    assert scene.shut_done.wait(LONG)
    assert scene.cleared.wait(LONG)
    assert scene.lines == []
    assert scene.finish()


def test_what_the_kernel_refused_is_repeated_and_reported_once() -> None:
    scene = Scene()
    scene.may_shut.set()
    scene.may_clear.set()
    scene.problems = [["cannot remove 192.0.2.1/24 from eth0: no memory"]] * 3
    scene.silencer.begin()
    end = time.monotonic() + LONG
    while scene.steps.count("clear") < 4:
        assert time.monotonic() < end
        scene.silencer.again()
        time.sleep(0.001)
    assert scene.steps.count("shut") == 1
    assert scene.lines == ["cannot remove 192.0.2.1/24 from eth0: no memory"]


def test_i1_an_end_at_which_the_kernel_keeps_an_address_does_not_count_as_silent() -> None:
    scene = Scene()
    scene.may_shut.set()
    scene.may_clear.set()
    scene.problems = [["cannot remove 192.0.2.1/24 from eth0: no memory"]]
    assert not scene.finish()
    assert scene.finish()
