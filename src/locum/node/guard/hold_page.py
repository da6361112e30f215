"""The page of memory that guard and agent share: until when the hold lasts, and by what.

The agent writes it after every accepted beat; the guard reads it when the deadline comes near, and a restarted
agent reads it to adopt. All times in it are absolute CLOCK_BOOTTIME seconds, so that a writer that was frozen in
between writes an old truth, never a new promise. Each field is eight aligned bytes, written in one store.
"""

from __future__ import annotations

import mmap
import os
import struct

from locum.lateness import Stop

_DEADLINE = struct.Struct("<d")
_SLOT = struct.Struct("<q")
_SIZE = 256
_REVISION_AT, _QUIET_AT = 64, 72
_PULSE_AT = 16
_NAME_AT, _NAME_LENGTH = 24, 40
# The guard's longest stop: seconds, unix time, whether the whole process stood; its place as text.
_STOP_AT = 80
_STOP = struct.Struct("<ddq")
_PLACE_AT = _STOP_AT + _STOP.size


class HoldPage:
    """The page in the file ``place`` (in the runtime directory), or in memory (in the simulation)."""

    SIZE = _SIZE

    def __init__(self, place: str | bytearray) -> None:
        self._memory: mmap.mmap | bytearray
        if isinstance(place, bytearray):
            self._memory = place
            return
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, _SIZE)
            self._memory = mmap.mmap(handle, _SIZE)
        finally:
            os.close(handle)

    @property
    def deadline(self) -> float:
        """CLOCK_BOOTTIME seconds until which the hold lasts; 0 when there is none."""
        return float(_DEADLINE.unpack_from(self._memory, 0)[0])

    @property
    def slot(self) -> int:
        """The slot of the kernel's gate that carries the hold."""
        return int(_SLOT.unpack_from(self._memory, 8)[0])

    @property
    def incarnation(self) -> str:
        """The incarnation that holds; empty when there is none."""
        raw = bytes(self._memory[_NAME_AT : _NAME_AT + _NAME_LENGTH])
        return raw.rstrip(b"\0").decode("ascii", "replace")

    @property
    def pulse(self) -> float:
        """When the agent last said that it is running, CLOCK_BOOTTIME seconds."""
        return float(_DEADLINE.unpack_from(self._memory, _PULSE_AT)[0])

    @property
    def revision(self) -> int:
        """The store's revision of the beat that carries the hold."""
        return int(_SLOT.unpack_from(self._memory, _REVISION_AT)[0])

    @property
    def quiet(self) -> float:
        """CLOCK_BOOTTIME seconds before which nothing may be taken by this hold."""
        return float(_DEADLINE.unpack_from(self._memory, _QUIET_AT)[0])

    @property
    def guard_stop(self) -> Stop | None:
        """The longest stop of the guard's loop within an hour before it last stood; None when it has not stood."""
        seconds, at, everything = _STOP.unpack_from(self._memory, _STOP_AT)
        where = bytes(self._memory[_PLACE_AT:_SIZE]).rstrip(b"\0").decode("ascii", "replace")
        return Stop(seconds, where, at, bool(everything)) if seconds else None

    def tell_guard_stop(self, stop: Stop | None) -> None:
        """The guard's loop has stood, or (None) has not. For status alone: text and numbers may differ for a moment."""
        where = b"" if stop is None else stop.where.encode("ascii", "replace")[: _SIZE - _PLACE_AT]
        self._memory[_PLACE_AT:_SIZE] = where.ljust(_SIZE - _PLACE_AT, b"\0")
        numbers = (0.0, 0.0, 0) if stop is None else (stop.seconds, stop.at, int(stop.everything))
        _STOP.pack_into(self._memory, _STOP_AT, *numbers)

    def beat(self, now: float) -> None:
        """The agent is running at ``now``."""
        _DEADLINE.pack_into(self._memory, _PULSE_AT, now)

    def confirm(self, incarnation: str, slot: int, deadline: float, revision: int, quiet: float) -> None:
        """The hold of ``incarnation`` lasts until ``deadline``, carried by ``slot``, by the beat of ``revision``.

        Nothing may be taken by it before ``quiet``.
        """
        if incarnation != self.incarnation:
            _DEADLINE.pack_into(self._memory, 0, 0.0)
            self._changed()
            self._memory[_NAME_AT : _NAME_AT + _NAME_LENGTH] = incarnation.encode("ascii").ljust(_NAME_LENGTH, b"\0")
            self._changed()
        _SLOT.pack_into(self._memory, 8, slot)
        self._changed()
        _SLOT.pack_into(self._memory, _REVISION_AT, revision)
        self._changed()
        _DEADLINE.pack_into(self._memory, _QUIET_AT, quiet)
        self._changed()
        _DEADLINE.pack_into(self._memory, 0, deadline)
        self._changed()

    def clear(self) -> None:
        """There is no hold, and nothing to adopt."""
        _DEADLINE.pack_into(self._memory, 0, 0.0)
        self._changed()
        self._memory[_NAME_AT : _NAME_AT + _NAME_LENGTH] = bytes(_NAME_LENGTH)
        self._changed()

    def _changed(self) -> None:
        """A field was written. The writer may be stopped or killed here (:mod:`locum_sim.ports`)."""

    def close(self) -> None:
        """Unmap the page."""
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()
