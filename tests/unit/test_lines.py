"""Lines for a descriptor that may stop accepting them."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable

import pytest

from locum.lines import LineStream, LineWriter

LONG = 30.0


def until(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.005)


class Reader:
    """Reads a pipe when told to, into ``lines``."""

    def __init__(self) -> None:
        self.descriptor, self.write_end = os.pipe()
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, 4096)
        self._data = b""
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self.descriptor, 65536):
            self._data += data

    @property
    def lines(self) -> list[str]:
        return self._data.decode().splitlines()


def test_lines_come_in_their_order() -> None:
    reader = Reader()
    writer = LineWriter(reader.write_end)
    reader.start()
    for number in range(1000):
        writer.put(str(number))
    assert writer.drain(LONG)
    until(lambda: len(reader.lines) == 1000)
    assert reader.lines == [str(number) for number in range(1000)]


def test_a_reader_that_stopped_keeps_no_one_waiting_and_what_was_dropped_is_counted() -> None:
    reader = Reader()
    writer = LineWriter(reader.write_end, room=10_000)
    begin = time.monotonic()
    for number in range(20_000):  # the pipe takes 4096 bytes of them
        writer.put(f"line {number}")
    assert time.monotonic() - begin < LONG / 2
    assert writer.dropped > 0
    assert not writer.drain(0.01)
    reader.start()
    writer.put("the reader is back")
    assert writer.drain(LONG)

    def told() -> int:
        return sum(int(line.split()[0]) for line in reader.lines if "were dropped" in line)

    until(lambda: told() == writer.dropped)
    until(lambda: sum("were dropped" not in line for line in reader.lines) + told() == 20_001)


def test_what_the_system_refuses_is_counted_with_the_reason() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(full)
    for _ in range(3):
        writer.put("no room")
    assert writer.drain(LONG)
    assert writer.dropped == 3
    reader = Reader()
    reader.start()
    os.dup2(reader.write_end, full)
    writer.put("room again")
    assert writer.drain(LONG)
    until(lambda: len(reader.lines) == 2)
    assert reader.lines[0] == "room again"
    assert "3 lines were dropped" in reader.lines[1]
    assert "No space left on device" in reader.lines[1]


def test_a_descriptor_that_another_process_made_non_blocking_loses_nothing() -> None:
    reader = Reader()
    os.set_blocking(reader.write_end, False)
    writer = LineWriter(reader.write_end)
    for number in range(2000):
        writer.put(f"{number:0100d}")
    reader.start()
    assert writer.drain(LONG)
    until(lambda: len(reader.lines) == 2000)
    assert writer.dropped == 0


def test_a_forked_child_writes_its_own_lines_while_the_parent_hangs() -> None:
    blocked, free = Reader(), Reader()
    writer = LineWriter(blocked.write_end, room=100_000)
    for _ in range(1500):
        writer.put("x" * 60)
    assert not writer.drain(0.05)
    child = os.fork()
    if child == 0:
        os.dup2(free.write_end, blocked.write_end)
        writer.put("from the child")
        writer.drain(LONG)
        os._exit(0)
    free.start()
    assert os.waitpid(child, 0)[1] == 0
    until(lambda: free.lines == ["from the child"])


def test_a_stream_puts_whole_lines_and_never_waits() -> None:
    reader = Reader()
    writer = LineWriter(reader.write_end)
    stream = LineStream(writer, 2)
    print("one", end="", file=stream)
    print(" line", "and another", sep="\n", file=stream)
    stream.flush()
    assert writer.drain(LONG)
    reader.start()
    until(lambda: reader.lines == ["one line", "and another"])
    assert stream.fileno() == 2


@pytest.mark.parametrize("text", ["\udcff", "ü"])
def test_any_text_can_be_put(text: str) -> None:
    reader = Reader()
    reader.start()
    writer = LineWriter(reader.write_end)
    writer.put(text)
    assert writer.drain(LONG)
    until(lambda: len(reader.lines) == 1)


def test_the_latest_lines_stay_in_memory_also_those_that_were_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locum.lines.MEMORY", 100)
    reader, writer = os.pipe()
    try:
        own = LineWriter(writer, room=0)
        for number in range(50):
            own.put(f"line {number}")
        latest = own.latest()
        assert own.dropped == 50
        assert latest[-1] == "line 49"
        assert 5 < len(latest) < 20
        assert sum(len(line) + 1 for line in latest) <= 100
    finally:
        os.close(reader)
        os.close(writer)
