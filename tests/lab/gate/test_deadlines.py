"""The gate against the real kernel: deadlines, and processes that freeze, die and come back (I1)."""

from __future__ import annotations

import os
import signal
import time

import pytest

from locum.machine.gate.gate import Gate
from tests.lab.gate.scene import (  # noqa: F401 - pytest finds them here
    A4,
    A6,
    EVERYTHING,
    PUBLIC,
    Puppet,
    Scene,
    gate_fixture,
    last_answer,
    opened,
    puppet_fixture,
    scene_fixture,
)
from tests.lab.namespaces import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.alone]


@pytest.mark.parametrize("address", [A4, A6])
@pytest.mark.parametrize("hold", [0.4, 1.0])
def test_i1_the_kernel_keeps_the_deadline(scene: Scene, gate: Gate, address: str, hold: float) -> None:
    """Nobody does anything after the confirmation. No answer may leave after the deadline, and the gate must not
    close much too early either. Several runs, so that one bad moment of a busy machine decides nothing."""
    scene.configure(address)
    scene.install(gate)
    gate.allow([address])
    late: list[float] = []
    for _ in range(3):
        before = time.time_ns()
        opened(gate, hold)
        latest = last_answer(scene, address, time.monotonic() + hold + 0.3)
        assert set(latest) == EVERYTHING[address], "all were answered while the gate was open"
        late.append(max((when - before) / 1e9 - hold for when in latest.values()))
    assert min(late) <= 0.0005, "systematically late"
    assert max(late) <= 0.05, "late"
    # Two jiffies at HZ=100 is 20 ms; the rest is for the machine's sake.
    assert max(late) >= -0.1, "much too early"


def test_i1_the_wall_clock_alone_closes_it(scene: Scene, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a suspend, in which the kernel's timers stand still: the wall-clock deadline has passed,
    the timer runs."""
    scene.configure(A4, A6)
    scene.install(gate)
    gate.allow([A4, A6])
    real = time.clock_gettime_ns
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: real(clock) - 60_000_000_000)
    armed = gate.arm(0, 30)
    monkeypatch.undo()
    assert gate.confirm(armed)
    scene.assert_mute(A4, A6)
    opened(gate)
    scene.assert_speaks(A4, A6)


def test_i1_the_timer_alone_closes_it(scene: Scene, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the wall clock was set back: its deadline is far away, the timer ends."""
    scene.configure(A4, A6)
    scene.install(gate)
    gate.allow([A4, A6])
    real = time.clock_gettime_ns
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: real(clock) + 3600_000_000_000)
    armed = gate.arm(0, 0.5)
    monkeypatch.undo()
    assert gate.confirm(armed)
    time.sleep(0.6)
    scene.assert_mute(A4, A6)


def test_renewing_keeps_it_open_without_a_gap(scene: Scene, gate: Gate) -> None:
    scene.configure(A4)
    scene.install(gate)
    gate.allow([A4])
    opened(gate, 30, slot=3)
    tap = scene.client.tap
    frame, matches = scene.client.questions(A4, scene.mac)["ping"]
    tap.clear()
    sent = answered = 0
    for beat in range(300):
        armed = gate.arm(beat % 3, 30)
        tap.send(frame)
        gate.confirm(armed)
        tap.send(frame)
        sent += 2
    limit = time.monotonic() + 10
    while answered < sent and time.monotonic() < limit:
        seen = tap.receive(1)
        answered += seen is not None and not seen.outgoing and matches(seen.frame)
    assert answered == sent


def test_i1_an_unconfirmed_beat_does_not_extend(scene: Scene, gate: Gate) -> None:
    scene.configure(A4)
    scene.install(gate)
    gate.allow([A4])
    opened(gate, 0.5, slot=0)
    gate.arm(1, 30)
    gate.arm(2, 30)
    gate.arm(3, 30)
    scene.assert_speaks(A4)
    time.sleep(0.6)
    scene.assert_mute(A4)


def test_too_short_a_hold_is_refused(gate: Gate) -> None:
    for hold in (0.0, -1.0, 0.01, float("nan")):
        with pytest.raises(ValueError, match="hold"):
            gate.arm(0, hold)


# -- processes that freeze, die, come back ---


def test_i1_frozen_between_arm_and_confirm(scene: Scene, puppet: Puppet) -> None:
    scene.configure(A4, A6)
    puppet.do("armed = gate.arm(0, 0.4)")
    puppet.signal(signal.SIGSTOP)
    wait_for(puppet.stopped, "the process to be stopped")
    puppet.say("assert gate.confirm(armed)")  # the store's answer waits for it
    time.sleep(0.5)
    puppet.signal(signal.SIGCONT)
    assert puppet.heard() == "done"
    scene.assert_mute(A4, A6)


def test_i1_frozen_before_arming(scene: Scene, puppet: Puppet) -> None:
    """It computed everything, was frozen, and then acts: the timer starts now, but nothing is confirmed."""
    scene.configure(A4, A6)
    puppet.do("armed = gate.arm(0, 0.4); gate.confirm(armed)")
    puppet.signal(signal.SIGSTOP)
    wait_for(puppet.stopped, "the process to be stopped")
    puppet.say("armed = gate.arm(1, 30)")
    time.sleep(0.5)
    puppet.signal(signal.SIGCONT)
    assert puppet.heard() == "done"
    scene.assert_mute(A4, A6)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_i1_nobody_left(scene: Scene, puppet: Puppet, number: int) -> None:
    scene.configure(A4, A6)
    before = time.time_ns()
    puppet.do("armed = gate.arm(0, 1.0); gate.confirm(armed)")
    puppet.signal(number)
    for address in (A4, A6):
        latest = last_answer(scene, address, time.monotonic() + 0.2)
        assert set(latest) == EVERYTHING[address], "it still speaks until the deadline"
    latest = last_answer(scene, A4, time.monotonic() + 1.0)
    assert max((when - before) / 1e9 for when in latest.values()) <= 1.05
    scene.assert_mute(A4, A6)


def test_a_restarted_process_adopts_without_a_gap(scene: Scene, puppet: Puppet) -> None:
    scene.configure(A4, A6)
    puppet.do("armed = gate.arm(2, 30); gate.confirm(armed)")
    puppet.do("pending = gate.arm(1, 30)")
    puppet.end()
    gate = scene.gate()
    with scene.node.entered():
        assert gate.adopt(PUBLIC, ["eth0"])
        assert gate.verify() == ()
    scene.assert_speaks(A4, A6)
    state = gate.state()
    assert state.held == (A4, A6)
    assert [slot.confirmed for slot in state.slots] == [False, False, True, False]
    assert 20 < state.open_for <= 30
    gate.close()


def test_i1_a_new_start_over_leftover_tables_is_closed(scene: Scene, puppet: Puppet, gate: Gate) -> None:
    scene.configure(A4, A6)
    puppet.do("armed = gate.arm(2, 30); gate.confirm(armed)")
    puppet.end()
    scene.assert_speaks(A4, A6)
    scene.install(gate)
    scene.assert_mute(A4, A6)
    opened(gate)
    scene.assert_mute(A4, A6)
    assert gate.state().held == ()


def test_i1_there_is_no_gap_while_tables_are_replaced(scene: Scene, gate: Gate) -> None:
    """Packets all the time while the tables are loaded over themselves, closed: not one answer."""
    scene.configure(A4)
    scene.install(gate)
    tap = scene.client.tap
    frame, matches = scene.client.questions(A4, scene.mac)["ping"]
    tap.clear()
    child = os.fork()
    if child == 0:
        try:
            while True:
                tap.send(frame)
        finally:
            os._exit(1)
    try:
        for _ in range(20):
            scene.install(gate)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not any(not seen.outgoing and matches(seen.frame) for seen in tap.pending())
    assert dict(gate.state().refused)["inet"] > 0


def test_adopt_refuses_what_is_not_there_or_not_ours(scene: Scene, gate: Gate) -> None:
    assert not gate.adopt(PUBLIC, ["eth0"])
    scene.node.run("nft", "-f", "-", stdin="table inet locum { }\ntable arp locum { }\n")
    assert not gate.adopt(PUBLIC, ["eth0"])
    scene.configure(A4)
    scene.install(gate)
    scene.assert_mute(A4)
