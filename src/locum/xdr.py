"""The encoding of RPC: numbers, booleans and counted bytes in units of four (RFC 4506).

Rules of this file: it knows no protocol.
"""

from __future__ import annotations

import struct


class Malformed(Exception):
    """The received data is shorter than it claims, or longer than allowed."""


class Packer:
    """Collects values; :attr:`data` is their encoding."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    @property
    def data(self) -> bytes:
        """The encoding of all values so far."""
        return b"".join(self._parts)

    def uint(self, *values: int) -> Packer:
        """Unsigned numbers of 32 bits."""
        self._parts.append(struct.pack(f">{len(values)}I", *values))
        return self

    def sint(self, value: int) -> Packer:
        """A signed number of 32 bits."""
        self._parts.append(struct.pack(">i", value))
        return self

    def uhyper(self, *values: int) -> Packer:
        """Unsigned numbers of 64 bits."""
        self._parts.append(struct.pack(f">{len(values)}Q", *values))
        return self

    def boolean(self, value: bool) -> Packer:
        """True or false."""
        return self.uint(1 if value else 0)

    def opaque(self, value: bytes) -> Packer:
        """Bytes, preceded by their number."""
        self.uint(len(value))
        return self.fixed(value)

    def fixed(self, value: bytes) -> Packer:
        """Padded bytes whose number both sides know."""
        self._parts.append(value + b"\0" * (-len(value) % 4))
        return self

    def string(self, value: str) -> Packer:
        """Text."""
        return self.opaque(value.encode("utf-8", "surrogateescape"))


class Unpacker:
    """Takes values from the beginning of ``data``. Every method raises Malformed when the data is too short."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def rest(self) -> bytes:
        """The bytes that were not taken yet."""
        return self._data[self._place :]

    def uint(self) -> int:
        """An unsigned number of 32 bits."""
        return int(struct.unpack(">I", self._take(4))[0])

    def sint(self) -> int:
        """A signed number of 32 bits."""
        return int.from_bytes(self._take(4), "big", signed=True)

    def uhyper(self) -> int:
        """An unsigned number of 64 bits."""
        return int.from_bytes(self._take(8), "big")

    def boolean(self) -> bool:
        """True or false."""
        return self.uint() != 0

    def opaque(self, limit: int = 1 << 20) -> bytes:
        """Counted bytes, at most ``limit``."""
        size = self.uint()
        if size > limit:
            raise Malformed(f"{size} bytes where at most {limit} are allowed")
        return self.fixed(size)

    def fixed(self, size: int) -> bytes:
        """``size`` bytes and their padding."""
        return self._take(size + -size % 4)[:size]

    def string(self, limit: int = 1024) -> str:
        """Text of at most ``limit`` bytes."""
        return self.opaque(limit).decode("utf-8", "surrogateescape")

    def _take(self, size: int) -> bytes:
        end = self._place + size
        if end > len(self._data):
            raise Malformed("it ends too early")
        piece = self._data[self._place : end]
        self._place = end
        return piece
