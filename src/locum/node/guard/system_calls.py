"""The few system calls that Python 3.11 has no name for: timers on CLOCK_BOOTTIME, and dying with one's parent.

prctl(2), timerfd_create(2). A poll time-out would not do for the deadline: it does not count suspended time,
while a boot-time timer that has passed fires the moment the machine resumes.
"""

from __future__ import annotations

import ctypes
import math
import os

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_CLOCK_BOOTTIME = 7
_TFD_TIMER_ABSTIME = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(signal_number: int, parent: int) -> None:
    """Ask for ``signal_number`` when the parent ends; if it (``parent``: its pid) has ended already, exit."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def name_process(name: str) -> None:
    """Set what ``ps -o comm`` shows of this process (at most 15 bytes)."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class BootTimer:
    """A descriptor that becomes readable at an absolute CLOCK_BOOTTIME second."""

    def __init__(self) -> None:
        self.fd = int(_libc.timerfd_create(_CLOCK_BOOTTIME, os.O_CLOEXEC | os.O_NONBLOCK))
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, when: float) -> None:
        """Fire at ``when``, at once when that has passed."""
        whole = max(math.floor(when), 0)
        spec = _Itimerspec()
        spec.value.seconds = whole
        # Zero would switch the timer off.
        spec.value.nanoseconds = max(int((when - whole) * 1e9), 1)
        if _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def clear(self) -> None:
        """Consume the expiration."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            pass
