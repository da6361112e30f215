"""Keeps the head and the tail of a script's output of any length in bounded memory.

Rules of this file: bytes in, text out, no file descriptors.
"""

from __future__ import annotations

#: Kept from the beginning and from the end of a script's output, bytes.
HEAD = 8 * 1024
TAIL = 24 * 1024


class Capture:
    """Collects output as it comes."""

    def __init__(self, head: int = HEAD, tail: int = TAIL) -> None:
        self._head_limit = head
        self._tail_limit = tail
        self._head = bytearray()
        self._tail = bytearray()
        #: Bytes seen in all.
        self.size = 0

    def add(self, data: bytes) -> None:
        """Take the next piece of output."""
        self.size += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._tail_limit:  # trimmed in big steps: a byte is moved once on average
            del self._tail[: -self._tail_limit]

    def text(self) -> str:
        """What is kept; what is not UTF-8 is written as ``\\xNN``, and what was left out is said."""
        tail = self._tail[-self._tail_limit :]
        left_out = self.size - len(self._head) - len(tail)
        if left_out <= 0:
            return _decode(bytes(self._head) + bytes(tail))
        return f"{_decode(bytes(self._head))}\n[{left_out} bytes left out]\n{_decode(bytes(tail))}"


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
