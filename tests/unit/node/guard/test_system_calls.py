"""The timer that counts suspended time."""

from __future__ import annotations

import select

from locum.clock import boottime
from locum.node.guard.system_calls import BootTimer


def test_a_time_that_has_passed_fires_at_once() -> None:
    timer = BootTimer()
    timer.set(boottime() - 5)
    assert select.select([timer.fd], [], [], 30)[0]
    timer.clear()
    assert not select.select([timer.fd], [], [], 0)[0]


def test_it_does_not_fire_early() -> None:
    timer = BootTimer()
    when = boottime() + 0.05
    timer.set(when)
    assert select.select([timer.fd], [], [], 30)[0]
    assert boottime() >= when
