"""Read a file that another process is still writing, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


class Tail:
    """Each complete line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def lines(self) -> Iterator[bytes]:
        """The lines that were completed since the last call; none while the file does not exist."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return
        complete = data.rfind(b"\n") + 1
        self._at += complete
        yield from data[:complete].splitlines()
