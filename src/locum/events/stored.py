"""One value in a file of its own, for a process that comes later: results, and which scripts are in use or started.

Rules of this file: a file is replaced in one step and not synced; a reboot may lose it. An unreadable file counts as
missing, and a failed write is dropped: none of these values is worth failing an event.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class Stored(Generic[T]):
    """The value at ``path``, of the type ``kind``, which is T."""

    def __init__(self, path: str, kind: Any) -> None:
        self.path = path
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)

    def read(self) -> T | None:
        """The value; None when there is none."""
        with contextlib.suppress(OSError, msgspec.DecodeError), open(self.path, "rb") as file:
            return self._decoder.decode(file.read())
        return None

    def write(self, value: T | None) -> None:
        """Store ``value``; None removes the file."""
        with contextlib.suppress(OSError):
            if value is None:
                os.unlink(self.path)
                return
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with open(self.path + ".new", "wb") as file:
                file.write(msgspec.json.encode(value))
            os.replace(self.path + ".new", self.path)
