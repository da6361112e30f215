"""Output kept in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from locum.events.runner.capture import Capture


@given(st.lists(st.binary(max_size=40)), st.integers(1, 20), st.integers(1, 20))
def test_head_and_tail_are_those_of_the_whole(pieces: list[bytes], head: int, tail: int) -> None:
    capture = Capture(head, tail)
    for piece in pieces:
        capture.add(piece)
    whole = b"".join(pieces)
    assert capture.size == len(whole)
    if len(whole) <= head + tail:
        assert capture.text() == whole.decode("utf-8", "backslashreplace")
    else:
        begin, end = whole[:head], whole[-tail:]
        left_out = len(whole) - head - tail
        expected = [begin.decode("utf-8", "backslashreplace"), end.decode("utf-8", "backslashreplace")]
        assert capture.text() == f"{expected[0]}\n[{left_out} bytes left out]\n{expected[1]}"


def test_memory_stays_bounded() -> None:
    capture = Capture(10, 20)
    for _ in range(1000):
        capture.add(b"x" * 1000)
        assert len(capture._tail) <= 40
