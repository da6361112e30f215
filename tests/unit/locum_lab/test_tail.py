"""Reading a file that is still being written."""

from __future__ import annotations

from pathlib import Path

from locum_lab.tail import Tail


def test_each_complete_line_once(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    tail = Tail(path)
    assert list(tail.lines()) == []
    with path.open("w") as file:
        file.write("one\ntwo\nthr")
        file.flush()
        assert list(tail.lines()) == [b"one", b"two"]
        assert list(tail.lines()) == []
        file.write("ee\n")
        file.flush()
        assert list(tail.lines()) == [b"three"]
