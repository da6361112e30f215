"""Frames on Unix stream sockets: one JSON document a line.

Rules of this file: it knows how bytes become frames. It knows no message and no event loop (a command line that asks
one question must not pay for importing asyncio); :mod:`locum.json_lines_async` is the asyncio side,
:mod:`locum.unix_sockets` makes the sockets.

A frame is a JSON document without a raw newline (msgspec writes none) and a newline. Line-delimited JSON was
chosen over a length prefix because a person can speak it with ``socat`` when something is wrong.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from locum.errors import ProtocolError
from locum.outside import UNDECODABLE
from locum.unix_sockets import FRAME_LIMIT

_encoder = msgspec.json.Encoder()

T = TypeVar("T")


def encode(message: object) -> bytes:
    """``message`` as a frame. Raises ProtocolError when it is longer than FRAME_LIMIT."""
    buffer = bytearray(64)
    _encoder.encode_into(message, buffer)
    buffer += b"\n"
    if len(buffer) > FRAME_LIMIT:
        raise ProtocolError(f"message of {len(buffer)} bytes is longer than a frame may be ({FRAME_LIMIT})")
    return bytes(buffer)


def decode(frame: bytes | bytearray | memoryview, decoder: msgspec.json.Decoder[T]) -> T:
    """The message in ``frame``. Raises ProtocolError with the problem."""
    try:
        return decoder.decode(frame)
    except UNDECODABLE as error:
        raise ProtocolError(f"not a message of this protocol: {error}") from error


class FrameSplitter:
    """Bytes in, frames out; keeps the beginning of an unfinished frame."""

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that ``data`` completes, without their newlines; empty lines are left out.

        Raises ProtocolError when a frame grows over the limit; the stream cannot be used after that.
        """
        head, newline, tail = data.rpartition(b"\n")
        if not newline:
            self._rest += data
            self._check(len(self._rest))
            return []
        frames = head.split(b"\n")
        if self._rest:
            frames[0] = bytes(self._rest + frames[0])
            self._rest.clear()
        self._rest += tail
        self._check(max(len(self._rest), *map(len, frames)))
        return [frame for frame in frames if frame]

    def _check(self, length: int) -> None:
        if length >= self._limit:
            self._rest.clear()
            raise ProtocolError(f"frame of more than {self._limit} bytes")
