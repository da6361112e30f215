"""The monitor of a loop's lateness names what the loop stood in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from locum.lateness import WORTH_A_LINE, Lateness, Stop

LONG = 30.0


def turn_for(lateness: Lateness, seconds: float) -> None:
    """A loop that is well."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        lateness.turn()
        time.sleep(0.01)


def stand_in_this_function(seconds: float) -> None:
    time.sleep(seconds)


def watched(work: Callable[[Lateness], None]) -> tuple[list[Stop], Lateness]:
    told: list[Stop] = []
    lateness = Lateness(told.append, pace=0.05)
    lateness.start()
    try:
        work(lateness)
        lateness.turn()
    finally:
        lateness.close()
    return told, lateness


def test_a_loop_that_stands_is_told_with_the_place() -> None:
    def work(lateness: Lateness) -> None:
        turn_for(lateness, 0.1)
        stand_in_this_function(1.0)

    told, lateness = watched(work)
    stop = max(told, key=lambda one: one.seconds)
    assert stop.seconds > WORTH_A_LINE
    assert "stand_in_this_function" in stop.where
    assert lateness.longest() == stop
    assert "stand_in_this_function" in str(stop)


def test_a_place_in_locum_is_named_before_what_it_called() -> None:
    def work(lateness: Lateness) -> None:
        from locum.lines import LineWriter  # noqa: PLC0415

        read_end, write_end = os.pipe()
        writer = LineWriter(write_end)
        os.set_blocking(write_end, True)
        while len(writer._lines) < 10:  # the pipe is full, and the writer's thread stands
            writer.put("x" * 8000)
            lateness.turn()
        writer.drain(1.0)
        os.close(read_end)

    told, _ = watched(work)
    assert max(told, key=lambda one: one.seconds).where.startswith("lines.py:")


def test_a_loop_that_turns_is_not_told() -> None:
    told, lateness = watched(lambda lateness: turn_for(lateness, 0.5))
    assert told == [] or all(stop.everything for stop in told)
    assert lateness.longest() is None or lateness.longest().seconds < LONG  # type: ignore[union-attr]


PROGRAM = """
import sys, time
from locum.lateness import Lateness
told = []
lateness = Lateness(told.append, pace=0.05)
lateness.start()
print("ready", flush=True)
end = time.monotonic() + 120
while not told and time.monotonic() < end:
    lateness.turn()
    time.sleep(0.01)
print(told[-1].everything, told[-1].seconds > 1.0)
"""


def test_a_process_that_was_stopped_is_told_from_a_loop_that_stands() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "True True\n"


def test_a_stop_says_how_long_and_where() -> None:
    assert str(Stop(1.34, "events/directory.py:96 (scan)", 0.0)) == "1.3 s in events/directory.py:96 (scan)"
    assert "whole process" in str(Stop(3.0, "", 0.0, everything=True))
