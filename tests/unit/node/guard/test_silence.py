"""Silencing: the guard's loop waits for neither of the kernel's locks, and neither act for the other."""

from __future__ import annotations

import threading

import pytest

from locum.node.guard.silence import Silencer

LONG = 30.0


class Scene:
    """Acts that hang until they are let go, a hold that is over or not, a log."""

    def __init__(self) -> None:
        self.may_shut, self.may_clear = threading.Event(), threading.Event()
        self.shut_done, self.cleared = threading.Event(), threading.Event()
        self.due = True
        self.steps: list[str] = []
        self.lines: list[str] = []
        self.silencer = Silencer(self._shut, self._clear, lambda: self.due, lambda text, _: self.lines.append(text))

    def _shut(self) -> None:
        self.may_shut.wait(LONG)
        self.steps.append("shut")
        self.shut_done.set()

    def _clear(self) -> None:
        self.may_clear.wait(LONG)
        self.steps.append("clear")
        self.cleared.set()


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
    assert scene.silencer.finish(LONG)
    assert sorted(scene.steps) == ["clear", "shut"]


def test_the_end_of_the_guard_waits_for_the_kernel_only_so_long() -> None:
    scene = Scene()
    assert not scene.silencer.finish(0.05)
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
    assert scene.silencer.finish(LONG)
